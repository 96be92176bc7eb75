import numpy as np
import pytest
import torch
from PIL import Image

from dropkey_core.engine import UserError
from dropkey_core.engine.image_file import read_image

RED, GREEN, BLUE, GREY = (250, 5, 5), (5, 250, 5), (5, 5, 250), (128, 128, 128)


def picture():
    """24 x 32 pixels, a colour in each quarter: red green / blue grey."""
    pixels = np.empty((24, 32, 3), np.uint8)
    pixels[:12, :16], pixels[:12, 16:], pixels[12:, :16], pixels[12:, 16:] = RED, GREEN, BLUE, GREY
    return Image.fromarray(pixels)


def corners(image):
    """The colours near the four corners, row by row."""
    return [image[:, y, x].tolist() for y in (2, -3) for x in (2, -3)]


def assert_colours(image, expected, tolerance=6):  # JPEG moves colours by a few steps
    assert image.dtype == torch.uint8
    torch.testing.assert_close(
        torch.tensor(corners(image)), torch.tensor(expected), atol=tolerance, rtol=0
    )


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("RGB", "jpg"),
        ("CMYK", "jpg"),
        ("RGB", "png"),
        ("RGBA", "png"),
        ("RGB", "bmp"),
        ("P", "png"),
    ],
)
def test_every_colour_mode_becomes_the_same_rgb(tmp_path, mode, suffix):
    path = tmp_path / f"image.{suffix}"
    picture().convert(mode).save(path, **({"quality": 95} if suffix == "jpg" else {}))
    image = read_image(path, (24, 32))
    assert image.shape == (3, 24, 32)
    assert_colours(image, [RED, GREEN, BLUE, GREY], tolerance=60 if mode == "P" else 6)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_grey_fills_all_channels(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(path)
    assert_colours(read_image(path), [(77, 77, 77)] * 4, tolerance=0)


def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.array([[0, 0x1234], [0x80FF, 0xFFFF]], np.uint16)).save(path)
    expected = torch.tensor([[0, 0x12], [0x80, 0xFF]], dtype=torch.uint8)
    assert torch.equal(read_image(path), expected.expand(3, 2, 2))


def test_jpeg_pixels_equal_pils(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    path = tmp_path / "image.jpg"
    Image.fromarray(noise).save(path)
    expected = torch.from_numpy(np.array(Image.open(path)))
    # Both decode with libjpeg-turbo; another version of it may round differently.
    torch.testing.assert_close(read_image(path).permute(1, 2, 0), expected, atol=1, rtol=0)


# EXIF orientation 6: turn the stored pixels clockwise to see them.
@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize(
    ("size", "expected_size", "expected"),
    [
        (None, (32, 24), [BLUE, RED, GREY, GREEN]),
        ((32, 24), (32, 24), [BLUE, RED, GREY, GREEN]),
        ((24, 32), (24, 32), [RED, GREEN, BLUE, GREY]),
    ],
)
def test_exif_rotation_follows_the_annotated_size(tmp_path, suffix, size, expected_size, expected):
    path = tmp_path / f"image.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(path, exif=exif)
    image = read_image(path, size)
    assert image.shape[1:] == expected_size
    assert_colours(image, expected, tolerance=20)  # JPEG at PIL's default quality


def test_other_size_than_annotated_is_refused(tmp_path):
    path = tmp_path / "image.jpg"
    picture().save(path)
    with pytest.raises(UserError, match=f"{path} has 32 x 24 pixels .* are for 24 x 30"):
        read_image(path, (30, 24))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_truncated_files_are_refused(tmp_path, suffix, share):
    path = tmp_path / f"image.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=f"{path} is damaged or cut short"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"not an image at all"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path} is not an image"):
        read_image(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}/no.jpg cannot be read: No such file"):
        read_image(tmp_path / "no.jpg")


def test_floating_point_pixels_are_refused(tmp_path):
    path = tmp_path / "image.tiff"
    Image.fromarray(np.zeros((4, 4), np.float32)).save(path)
    with pytest.raises(UserError, match=f"{path} has floating-point pixels"):
        read_image(path)


def test_an_image_that_would_fill_the_memory_is_refused_from_its_header(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    picture().save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 32 // 2 - 1)
    with pytest.raises(UserError, match=f"{path} is too large: .*768 pixels.* limit of 766"):
        read_image(path)

import io
import struct
import zlib
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from dropkey_core.engine import UserError
from dropkey_core.engine.files.images import (
    Header,
    images_in,
    read_header,
    read_headers,
    read_image,
    spread,
    unique_stems,
)

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
    [*(("RGB", suffix) for suffix in ("jpg", "png", "bmp")), ("CMYK", "jpg"), ("RGBA", "png"),
     ("P", "png")],
)  # fmt: skip
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


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("stored", "expected"),
    [  # of 16, 12 and 8 bits, which no file says
        ([[0, 0x1234], [0x80FF, 0xFFFF]], [[0, 0x12], [0x80, 0xFF]]),
        ([[0, 0x123], [0x80F, 0xFFF]], [[0, 0x12], [0x80, 0xFF]]),
        ([[0, 0x12], [0x80, 0xFF]], [[0, 0x12], [0x80, 0xFF]]),
    ],
)
def test_sixteen_bits_keep_the_upper_eight_that_are_used(
    tmp_path, suffix, channels, stored, expected
):
    path = tmp_path / f"image.{suffix}"
    pixels = np.array(stored, np.uint16)
    if channels == 3:  # blue first; green and red are less
        pixels = np.stack([pixels, pixels // 2, pixels // 4], 2)
    assert cv2.imwrite(str(path), pixels)
    blue = torch.tensor(expected, dtype=torch.uint8)
    rgb = [blue // 4, blue // 2, blue] if channels == 3 else [blue] * 3
    torch.testing.assert_close(read_image(path), torch.stack(rgb), atol=0, rtol=0)


def test_pixels_of_32_bits_are_refused(tmp_path):
    path = tmp_path / "image.tif"
    Image.fromarray(np.array([[0, 70_000]], np.int32)).save(path)
    with pytest.raises(UserError, match=f"{path} .* 32-bit pixels, .*; save 8 or 16 bits"):
        read_image(path)


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


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", range(1, 10))
def test_every_orientation_is_turned_as_pil_does(tmp_path, suffix, orientation):
    path = tmp_path / f"image.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture().save(path, exif=exif)
    with Image.open(path) as image:
        expected = torch.from_numpy(np.array(ImageOps.exif_transpose(image))).permute(2, 0, 1)
    for size in (None, tuple(expected.shape[1:])):
        torch.testing.assert_close(read_image(path, size), expected, atol=1, rtol=0)


@pytest.mark.parametrize(("sides", "orientation"), [((32, 24), 3), ((24, 24), 6), ((24, 24), 2)])
def test_a_turn_that_the_size_cannot_decide_is_applied_with_and_without_a_size(
    tmp_path, sides, orientation
):
    path = tmp_path / "image.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture().resize(sides, Image.Resampling.NEAREST).save(path, exif=exif)
    alone, annotated = read_image(path), read_image(path, sides[::-1])
    assert torch.equal(alone, annotated)
    upright = {
        3: [GREY, BLUE, GREEN, RED],
        6: [BLUE, RED, GREY, GREEN],
        2: [GREEN, RED, GREY, BLUE],
    }
    assert_colours(alone, upright[orientation], tolerance=0)


def test_another_size_can_be_asked_for(tmp_path):
    path = tmp_path / "image.png"
    picture().save(path)
    image = read_image(path, (12, 48), resize=True)
    assert image.shape == (3, 12, 48)
    assert_colours(image, [RED, GREEN, BLUE, GREY], tolerance=0)


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
    with pytest.raises(UserError, match=f"{path} cannot be read as an image of kind JPEG, PNG"):
        read_image(path)


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(
        ">I", zlib.crc32(kind + content)
    )  # fmt: skip


def png(width, height, *chunks):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + png_chunk(b"IEND", b"")


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def huge_jpeg():
    """A JPEG of 8 x 8 pixels that claims 65,500 x 65,500."""
    small = saved(Image.new("RGB", (8, 8)), "JPEG")
    return small.replace(b"\x08\x00\x08\x00\x08\x03", b"\x08\xff\xdc\xff\xdc\x03")


def endless_jpeg():
    """A JPEG that goes over its pixels 300 times."""
    content = saved(picture(), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * 300 + content[-2:]


def floating_point_tiff():
    return saved(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF")


def texts(size):
    """Chunks of a PNG that unpack to a size, three of them from a few kilobytes."""
    packed = zlib.compress(bytes(size))
    return {
        "zTXt": png_chunk(b"zTXt", b"a\0\0" + packed),
        "iTXt": png_chunk(b"iTXt", b"a\0\1\0\0\0" + packed),
        "iCCP": png_chunk(b"iCCP", b"a\0\0" + packed),
        "tEXt": png_chunk(b"tEXt", b"a\0" + b"b" * size),
    }


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("kind", texts(0))
def test_texts_of_a_png_may_be_long_and_not_endless(tmp_path, kind, is_first):
    path = tmp_path / "image.png"
    pixels = png_chunk(b"IDAT", zlib.compress(b"\0\1\2\3"))
    for size in (2 * 2**20, 70 * 2**20):
        text = texts(size)[kind]
        path.write_bytes(png(1, 1, *((text, pixels) if is_first else (pixels, text))))
        if size < 2**26:
            assert read_image(path).flatten().tolist() == [1, 2, 3]
            assert read_header(path).stored == (1, 1)
        else:
            with pytest.raises(UserError, match=f"{path} cannot be read as an image .* [Tt]oo "):
                read_image(path)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: b"", "it is empty; "),
        (lambda: b"who knows", "cannot identify"),
        (floating_point_tiff, "it has floating-point pixels"),
        (partial(png, 50_000, 50_000), "Image size .* exceeds limit"),
        (huge_jpeg, "Image size .* exceeds limit"),
        (endless_jpeg, "it has 3.. scans, 200 are allowed"),
    ],
)
def test_what_is_no_usual_image_is_refused(tmp_path, make, reason):
    path = tmp_path / "image.jpg"
    path.write_bytes(make())
    with pytest.raises(UserError, match=f"{path} cannot be read as an image of .*: {reason}"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "AVIF"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0", "a video"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'<?xml version="1.0"?>\n<!-- made -->\n<svg width="9"/>', "SVG"),
        (b"%PDF-1.7\n", "PDF"),
        (b"8BPS\0\1", "a Photoshop file"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"\n<!DOCTYPE html>\n<html>", "a web page"),
    ],
)
def test_formats_that_are_not_read_are_named_with_a_remedy(tmp_path, content, name):
    path = tmp_path / "image.jpg"
    path.write_bytes(content + bytes(600))
    wanted = f"^{path} cannot be read as an image of kind JPEG.*: it is {name}; convert it to PNG"
    with pytest.raises(UserError, match=wanted):
        read_image(path)


def test_formats_that_others_would_have_to_run_are_not_opened(tmp_path):
    path = tmp_path / "image.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with Image.open(path) as image:
        assert image.format == "EPS"  # PIL alone would
    with pytest.raises(UserError, match=r"of kind JPEG, PNG, WEBP, BMP.*it is PostScript"):
        read_image(path)


def test_the_first_of_many_frames_is_read_and_a_wrong_suffix_does_not_matter(tmp_path):
    path = tmp_path / "image.jpg"
    frames = [Image.new("RGB", (32, 24), (level, 0, 0)) for level in range(0, 250, 5)]
    for name in ("GIF", "WEBP", "TIFF"):
        more = {"lossless": True} if name == "WEBP" else {}
        frames[40].save(path, name, save_all=True, append_images=frames, **more)
        assert read_image(path)[:, 3, 3].tolist() == [200, 0, 0]


def test_images_in_a_folder_come_by_name(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", "._b.JPG"):
        (tmp_path / name).touch()
    (tmp_path / "deeper").mkdir()
    assert images_in(tmp_path) == [tmp_path / "a.png", tmp_path / "b.JPG"]


@pytest.mark.parametrize(
    ("place", "message"), [("no", "no cannot be read: No such file"), (".", "no images in")]
)
def test_a_folder_without_images_is_one_line(tmp_path, place, message):
    with pytest.raises(UserError, match=message):
        images_in(tmp_path / place)


def test_images_are_spread_over_the_set():
    assert spread(range(10), 3) == [0, 3, 6]
    assert spread(range(2), 16) == [0, 1]


def test_names_that_occur_again_are_numbered():
    assert unique_stems(["x/a.png", "b.png", "y/a.jpg", "a_2.png"]) == ["a", "b", "a_2", "a_2_2"]


def test_headers_of_many_come_in_order_with_what_is_wrong(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = [str(tmp_path / f"{number}.jpg") for number in range(200)]
    for number, path in enumerate(paths):
        turned = {"exif": exif} if number == 3 else {}
        Image.new("RGB", (number + 1, 5)).save(path, **turned)
    (tmp_path / "70.jpg").write_text("no image")
    headers = read_headers(paths)
    wrong = headers.pop(70)
    assert isinstance(wrong, UserError) and str(wrong).startswith(paths[70])
    sizes = [*range(1, 71), *range(72, 201)]
    assert headers == [Header((5, width), 6 if width == 4 else 1) for width in sizes]
    assert headers[3].upright == (4, 5)
    assert read_headers([]) == []

import http.server
import threading

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dropkey_core.engine import UserError
from dropkey_core.engine.files.inputs import (
    Input,
    find_inputs,
    in_batches,
    is_many,
    read_input,
    read_inputs,
)

RGB = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
WANTED = torch.from_numpy(RGB).permute(2, 0, 1)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), RGB[..., ::-1])
    return path


@pytest.fixture
def address(file):
    """Where a server of this machine has the file."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(file.parent))

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_every_kind_of_picture_is_the_same_pixels(file, address):
    pictures = [file, str(file), f"{address}/a.png", RGB, WANTED, Image.open(file), Input(WANTED)]
    for picture in pictures:
        torch.testing.assert_close(read_input(picture).image, WANTED)
    names = [read_input(picture).file_name for picture in pictures]
    assert names == [str(file), str(file), f"{address}/a.png", "", "", str(file), ""]


def test_an_array_may_run_backwards():
    torch.testing.assert_close(read_input(RGB[:, ::-1]).image, WANTED.flip(2))


def test_a_pil_image_is_turned_as_its_file_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    path = tmp_path / "turned.png"
    Image.fromarray(RGB).save(path, exif=exif)
    wanted = WANTED.rot90(-1, (1, 2))
    torch.testing.assert_close(read_input(path).image, wanted)
    torch.testing.assert_close(read_input(Image.open(path)).image, wanted)


def test_a_deep_pil_image_is_as_its_file_is(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.arange(24, dtype=np.uint16).reshape(4, 6) * 2730).save(path)
    wanted = read_input(path).image
    assert wanted[0, 0].tolist() == [0, 10, 21, 31, 42, 53]
    torch.testing.assert_close(read_input(Image.open(path)).image, wanted)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Image.new("F", (4, 6)), "a PIL image cannot be read: it has floating-point pixels"),
        (RGB / 255, r"\(H, W, 3\) uint8 RGB, 0 to 255, got \(4, 6, 3\) float64"),
        (RGB[..., 0], r"got \(4, 6\) uint8"),
        (RGB[:0], r"got \(0, 6, 3\) uint8"),
        (WANTED.permute(1, 2, 0), r"\(3, H, W\) uint8 RGB, 0 to 255, got \(4, 6, 3\)"),
        (WANTED.float(), r"got \(3, 4, 6\) torch.float32"),
        (None, "a picture is a path, .* got NoneType"),
        ("nowhere.jpg", r"nowhere\.jpg cannot be read: No such file"),
    ],
)
def test_what_is_no_picture_is_told(picture, message):
    with pytest.raises(UserError, match=message):
        read_input(picture)


def test_addresses_without_a_picture_are_told(file, address):
    with pytest.raises(UserError, match=r"/b\.png cannot be read.*404"):
        read_input(f"{address}/b.png")
    (file.parent / "c.png").write_text("no picture")
    with pytest.raises(UserError, match=rf"{address}/c\.png cannot be read as an image"):
        read_input(f"{address}/c.png")
    with pytest.raises(UserError, match=r"/d\.mp4 is a video: fetch it"):
        read_input(f"{address}/d.mp4")


# ---- many ----------------------------------------------------------------------------------------
def test_a_folder_is_its_pictures_without_hidden_files(file):
    folder = file.parent
    for name in ("._a.png", ".DS_Store", "notes.txt", "b.MP4", "c.JPG"):
        (folder / name).write_text("no picture")
    assert find_inputs(folder) == [file, folder / "b.MP4", folder / "c.JPG"]
    (folder / "none").mkdir()
    with pytest.raises(UserError, match=r"no pictures in .*none \(looked for .avi, .bmp"):
        find_inputs(folder / "none")


def test_pictures_in_folders_of_a_folder_are_told(file, capsys):
    top = file.parent
    for name in "bcdefg":
        (top / name).mkdir()
        (top / name / "x.png").touch()
    (top / "none").mkdir()
    assert find_inputs(top) == [file]
    assert capsys.readouterr().out == (
        f"warning: folders with pictures in {top} that are not entered: 6\n"
    )
    file.unlink()
    told = r"no pictures in .* itself, but in its folders b, c, d, e, f, \.\.\.: name those"
    with pytest.raises(UserError, match=told):
        find_inputs(top)


def test_what_yields_many_pictures(file):
    assert all(map(is_many, [file.parent, "clip.mp4", 0, iter([RGB])]))
    assert not any(map(is_many, [file, "http://x/y.mp4", RGB, WANTED, [RGB], Image.open(file)]))


def test_a_bad_file_among_many_is_told_and_left_out(file, tmp_path, capsys):
    (tmp_path / "b.png").write_text("no picture")
    cv2.imwrite(str(tmp_path / "c.png"), RGB)
    told = []
    found = [
        each.file_name for each in read_inputs([tmp_path, RGB, tmp_path / "no.png"], told.append)
    ]
    assert found == [str(file), str(tmp_path / "c.png"), ""]
    assert ["b.png cannot be read" in str(told[0]), "no.png cannot" in str(told[1])] == [True, True]
    assert [each.file_name for each in read_inputs(tmp_path)] == found[:2]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"warning: left out: {tmp_path}/b.png cannot be read")
    with pytest.raises(UserError, match=r"b\.png cannot be read"):  # named, not found
        list(read_inputs(iter([tmp_path / "b.png"])))


def test_pictures_are_read_when_they_are_asked_for():
    asked = []

    def pictures():
        for number in range(5):
            asked.append(number)
            yield RGB

    batches = in_batches(read_inputs(pictures()), 2)
    assert len(next(batches)) == 2 and asked == [0, 1]
    assert [len(batch) for batch in batches] == [2, 1]
    with pytest.raises(UserError, match="batch_size must be at least 1, got 0"):
        next(in_batches(read_inputs([RGB]), 0))

import sys
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dropkey_core.engine import UserError
from dropkey_core.engine.files.video import (
    read_camera,
    read_frames,
    video_rate,
    video_writer,
)

GREYS = (20, 120, 220)


@pytest.fixture
def clip(tmp_path):
    """Three grey pictures of 41 x 30 pixels, ten a second."""
    pytest.importorskip("av", reason="it reads and writes videos")
    path = tmp_path / "clip.mp4"
    with video_writer(path, Fraction(10)) as add:
        for grey in GREYS:
            add(Image.new("RGB", (41, 30), (grey, grey, grey)))
    return path


def test_what_is_written_is_read(clip):
    frames = list(read_frames(clip))
    assert [frame.shape for frame in frames] == [(3, 30, 40)] * 3  # an odd column is cut off
    assert all(frame.dtype == torch.uint8 for frame in frames)
    for frame, grey in zip(frames, GREYS, strict=True):
        assert (frame.int() - grey).abs().max() <= 4  # H.264 loses a little
    assert video_rate(clip) == 10


def test_a_turned_video_is_read_upright(tmp_path):
    """As telephones write them: the pixels lie on their side, and a matrix says so."""
    av = pytest.importorskip("av", reason="it reads and writes videos")
    path = tmp_path / "turned.mp4"
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, 32:] = 250  # bright at the right
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        try:
            stream.codec_context  # noqa: B018
            stream.set_display_rotation(90)
        except AttributeError:
            pytest.skip("this PyAV writes no rotation")
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())
    (frame,) = read_frames(path)
    assert frame.shape == (3, 64, 32)


def test_nothing_appears_where_the_work_fails(tmp_path):
    pytest.importorskip("av", reason="it writes videos")
    with pytest.raises(ZeroDivisionError), video_writer(tmp_path / "a.mp4") as add:
        add(Image.new("RGB", (40, 30)))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_video_is_told(tmp_path):
    pytest.importorskip("av", reason="it reads videos")
    (tmp_path / "a.mp4").write_text("no video")
    for read in (lambda path: list(read_frames(path)), video_rate):
        with pytest.raises(UserError, match=r"a\.mp4 cannot be read as a video"):
            read(tmp_path / "a.mp4")
        with pytest.raises(UserError, match=r"b\.mp4 cannot be read: No such file"):
            read(tmp_path / "b.mp4")


def test_a_playlist_called_a_video_opens_nothing_else(tmp_path):
    pytest.importorskip("av", reason="it reads videos")
    lines = ["#EXTM3U", "#EXTINF:1,", "http://127.0.0.1:9/x.ts", "#EXT-X-ENDLIST", ""]
    (tmp_path / "a.mp4").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"a\.mp4 cannot be read as a video"):
        list(read_frames(tmp_path / "a.mp4"))


def test_missing_pyav_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"needs PyAV: pip install -e '\.\[video\]'"):
        next(read_frames(tmp_path / "a.mp4"))


class Camera:
    """Two red pictures, then nothing."""

    def __init__(self, number):
        self.left, self.there = 2, number == 0

    def isOpened(self):
        return self.there

    def read(self):
        self.left -= 1
        red = np.zeros((3, 5, 3), np.uint8)
        red[..., 2] = 200  # OpenCV's order is blue, green, red
        return self.left >= 0, red

    def release(self):
        self.there = False


def test_a_camera_is_followed_to_its_end(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    frames = list(read_camera(0))
    assert len(frames) == 2 and (frames[0][0] == 200).all() and (frames[0][1:] == 0).all()
    with pytest.raises(UserError, match="no camera 1"):
        next(read_camera(1))

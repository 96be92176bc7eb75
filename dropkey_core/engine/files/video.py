"""Video reader and writer: files and cameras frame by frame, in constant memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.atomic_write import whole_file
from dropkey_core.engine.files.outside import check_file, reading

VIDEO_SUFFIXES = {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}
LARGEST_FILE = 2**40  # bytes
# A playlist named like a video would open other files and addresses.
ONLY_THE_FILE = {"protocol_whitelist": "file"}
USUAL_RATE = Fraction(25)  # pictures a second, where a file or a camera does not say
Add = Callable[[Image.Image], None]  # adds a picture to a video


def import_av() -> ModuleType:
    """Import PyAV, which only videos need; UserError if it is not there."""
    try:
        import av
    except ImportError as error:
        reason = "reading and writing videos needs PyAV: pip install -e '.[video]'"
        raise UserError(reason) from error
    return av


def video_rate(path: str | Path) -> Fraction:
    """How many pictures a second a video file has, on average.

    Raises:
        UserError: it is no video that can be read, or PyAV is missing.
    """
    with _opened(path) as container:
        return container.streams.video[0].average_rate or USUAL_RATE


def read_frames(path: str | Path) -> Iterator[Tensor]:
    """Yield the pictures of a video file, upright: (3, H, W) uint8 RGB each.

    Raises:
        UserError: it is no video that can be read, is damaged further on, or PyAV is missing.
    """
    with _opened(path) as container:
        frames = container.decode(video=0)
        while True:
            with reading(path, "a video"):
                frame = next(frames, None)
            if frame is None:
                return
            pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
            yield torch.from_numpy(pixels.copy()).permute(2, 0, 1)


@contextmanager
def _opened(path: str | Path) -> Iterator:
    av = import_av()
    check_file(path, LARGEST_FILE)
    with reading(path, "a video"):
        container = av.open(str(path), options=ONLY_THE_FILE)
        if not container.streams.video:
            container.close()
            raise UserError(f"{path} has sound but no pictures")
    with container:
        container.streams.video[0].thread_type = "AUTO"  # several frames at once
        yield container


def read_camera(number: int) -> Iterator[Tensor]:
    """Yield what a camera sees until it ends: (3, H, W) uint8 RGB each; UserError if it is off."""
    camera = cv2.VideoCapture(number)
    try:
        if not camera.isOpened():
            raise UserError(f"no camera {number}: is it plugged in, and free?")
        while (seen := camera.read())[0]:
            yield torch.from_numpy(cv2.cvtColor(seen[1], cv2.COLOR_BGR2RGB)).permute(2, 0, 1)
    finally:
        camera.release()


@contextmanager
def video_writer(path: Path, rate: Fraction = USUAL_RATE) -> Iterator[Add]:
    """Give a function that adds a picture to an H.264 video, which appears when the block ends.

    All pictures must have the size of the first. Where that is odd, its last row or column is cut
    off, which the format does not have.

    Args:
        path: the .mp4 file, in place of what is there.
        rate: pictures a second.

    Raises:
        UserError: the file cannot be written, or PyAV is missing.
    """
    av = import_av()
    with whole_file(path, "wb") as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("h264", rate=rate)
        stream.pix_fmt = "yuv420p"  # what every player shows

        def add(picture: Image.Image) -> None:
            width, height = (side - side % 2 for side in picture.size)
            if not stream.width or not stream.codec_context.is_open:
                stream.width, stream.height = width, height
            frame = av.VideoFrame.from_image(picture.convert("RGB").crop((0, 0, width, height)))
            container.mux(stream.encode(frame))

        yield add
        if stream.codec_context.is_open:
            container.mux(stream.encode())

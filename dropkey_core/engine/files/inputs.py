"""Input readers: paths, URLs, arrays, PIL images, folders, videos and cameras as RGB tensors."""

import tempfile
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.images import (
    IMAGE_SUFFIXES,
    LARGEST_FILE,
    decode_with_pil,
    files_in,
    read_image,
)
from dropkey_core.engine.files.outside import reading
from dropkey_core.engine.files.video import VIDEO_SUFFIXES, read_camera, read_frames

SECONDS = 30  # without a byte from an address
ADDRESSES = ("http://", "https://")


@dataclass(frozen=True, eq=False)
class Input:
    """A picture to look at.

    Attributes:
        image: (3, H, W) uint8 RGB.
        file_name: where it is from; "" for pixels that came as such.
    """

    image: Tensor
    file_name: str = ""


def is_many(source: Any) -> bool:
    """Whether a source is a folder, a video, a camera's number, or yields pictures itself."""
    if isinstance(source, str | Path):
        return is_video(source) or (not is_address(source) and Path(source).is_dir())
    return isinstance(source, int | Iterator)


def is_video(source: str | Path) -> bool:
    """Whether a file is named like a video."""
    return not is_address(source) and Path(source).suffix.lower() in VIDEO_SUFFIXES


def is_address(source: str | Path) -> bool:
    """Whether a path is an address on the web."""
    return str(source).startswith(ADDRESSES)


def read_inputs(source: Any, on_error: Callable[[UserError], Any] | None = None) -> Iterator[Input]:
    """Yield the pictures of a source, each when it is asked for.

    Args:
        source: what :func:`read_input` takes, a list, tuple or iterator of that, a folder, a video
            file, or the number of a camera.
        on_error: is given the error about a file that cannot be read; the others go on. None
            warns of one that was found in a folder, and raises that of another.

    Raises:
        UserError: a picture cannot be read, a folder has none.
    """
    if isinstance(source, int):
        yield from (Input(frame, f"camera {source}") for frame in read_camera(source))
        return
    single = isinstance(source, str | Path) or not isinstance(source, Sequence | Iterator)
    for each in [source] if single else source:
        inside = isinstance(each, str | Path) and is_many(each) and not is_video(each)
        for place in find_inputs(each) if inside else [each]:
            try:
                yield from read_place(place)
            except UserError as error:
                if not (on_error or inside):
                    raise
                (on_error or warn_of)(error)


def warn_of(error: UserError) -> None:
    """Say that a file is left out, and why."""
    print(f"warning: left out: {error.one_line()}")


def read_place(place: Any) -> Iterator[Input]:
    """Yield the one picture of a source, or the frames of a video file."""
    if isinstance(place, str | Path) and is_video(place):
        yield from (Input(frame, str(place)) for frame in read_frames(place))
    else:
        yield read_input(place)


def find_inputs(folder: str | Path) -> list[Path]:
    """Return the pictures and videos in a folder in order of name, hidden files left out.

    Folders in it that have some, too, are told and not entered.

    Raises:
        UserError: there are none.
    """
    known = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    found = files_in(Path(folder), known)
    inside = []
    for child in sorted(Path(folder).iterdir()):
        with suppress(OSError):  # no folder, or one that may not be read
            inside += [child.name] if files_in(child, known) else []
    if not found and inside:
        names = ", ".join([*inside[:5], *["..."] * (len(inside) > 5)])
        raise UserError(f"no pictures in {folder} itself, but in its folders {names}: name those")
    if not found:
        raise UserError(f"no pictures in {folder} (looked for {', '.join(sorted(known))})")
    if inside:
        print(f"warning: folders with pictures in {folder} that are not entered: {len(inside)}")
    return found


def read_input(source: Any) -> Input:
    """Return one picture as RGB, turned as its camera noted.

    Args:
        source: path of a file or http(s) address; (H, W, 3) uint8 RGB array; (3, H, W) uint8
            tensor; or a PIL image.

    Raises:
        UserError: it is none of these, or cannot be read.
    """
    if isinstance(source, Input):
        return source
    if isinstance(source, str | Path):
        pixels = fetched(str(source)) if is_address(source) else read_image(source)
        return Input(pixels, str(source))
    if isinstance(source, Image.Image):
        name = str(getattr(source, "filename", ""))
        with reading(name or "a PIL image"):
            decoded = decode_with_pil(ImageOps.exif_transpose(source), name)
        return Input(torch.from_numpy(decoded).permute(2, 0, 1), name)
    if isinstance(source, np.ndarray):
        check_pixels(source.dtype == np.uint8, source, (source.ndim == 3) and source.shape[2])
        return Input(torch.from_numpy(np.ascontiguousarray(source)).permute(2, 0, 1))
    if isinstance(source, Tensor):
        check_pixels(source.dtype == torch.uint8, source, (source.ndim == 3) and source.shape[0])
        return Input(source.detach().cpu())
    raise UserError(
        "a picture is a path, an address, an array (H, W, 3), a tensor (3, H, W) or a PIL image, "
        f"got {type(source).__name__}"
    )


def check_pixels(is_uint8: bool, pixels: Any, channels: int) -> None:
    """Raise UserError unless pixels are (H, W, 3) or (3, H, W) uint8, at least one."""
    if not (is_uint8 and channels == 3 and min(pixels.shape)):
        wanted = "(H, W, 3)" if isinstance(pixels, np.ndarray) else "(3, H, W)"
        raise UserError(
            f"a picture of pixels is {wanted} uint8 RGB, 0 to 255, got {tuple(pixels.shape)} "
            f"{pixels.dtype}"
        )


def fetched(address: str) -> Tensor:
    """The picture (3, H, W) at an address; UserError if it is out of reach, too large or none."""
    if Path(urllib.parse.urlparse(address).path).suffix.lower() in VIDEO_SUFFIXES:
        raise UserError(f"{address} is a video: fetch it, and give the file")
    request = urllib.request.Request(address, headers={"User-Agent": "dropkey"})
    with reading(address), urllib.request.urlopen(request, timeout=SECONDS) as answer:
        content = answer.read(LARGEST_FILE + 1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "picture")
        file.write_bytes(content)
        try:
            return read_image(file)
        except UserError as error:
            raise UserError(str(error).replace(str(file), address)) from error


def in_batches(inputs: Iterable[Input], size: int) -> Iterator[list[Input]]:
    """Yield so many pictures at a time, the last of them fewer; UserError for less than one."""
    if size < 1:
        raise UserError(f"batch_size must be at least 1, got {size}")
    batch: list[Input] = []
    for each in inputs:
        batch.append(each)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch

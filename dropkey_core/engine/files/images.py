"""Reading image files as RGB tensors, and finding them in folders."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional as F

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.image_headers import (
    FORMATS,
    header_of,
    however_long_its_texts,
    opened_image,
    read_header,
)
from dropkey_core.engine.files.image_headers import LARGEST_FILE as LARGEST_FILE

# What turns stored pixels (3, height, width) upright, by orientation: from 5 on height and width
# change places, and then these dimensions are reversed.
REVERSED = {2: (2,), 3: (1, 2), 4: (1,), 5: (), 6: (2,), 7: (1, 2), 8: (1,)}
START_OF_SCAN = b"\xff\xda"
MOST_SCANS = 200  # encoders make about ten, thumbnails in the header a few more
DEPTHS = (8, 12, 16)  # bits that cameras and scanners use of the 16 of a file
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


def image_size(path: str | os.PathLike[str], formats: Sequence[str] = FORMATS) -> tuple[int, int]:
    """Return (height, width) of an image as it is stored; see :func:`opened_image`."""
    return read_header(path, formats).stored


def read_image(
    path: str | os.PathLike[str], size: tuple[int, int] | None = None, resize: bool = False
) -> Tensor:
    """Read an image file as RGB.

    Grey, CMYK, palette and 16-bit images are converted; transparency is dropped. A turn that a
    camera noted (EXIF orientation) is applied, unless only the stored pixels have the ``size`` that
    was asked for.

    Args:
        path: the file; JPEG is fastest, all of ``FORMATS`` will do.
        size: (height, width) that the annotations were made for, or None if not known.
        resize: give an image of another size the ``size`` that was asked for.

    Returns:
        (3, height, width) uint8. In memory the channels come last: resizing takes half the time.

    Raises:
        UserError: see :func:`opened_image`; another size than ``size``, or floating-point pixels.
    """
    pixels = however_long_its_texts(lambda bare: read_pixels(path, size, bare))
    height, width = pixels.shape[1:]
    if size in (None, (height, width)):
        return pixels
    if resize:
        return F.resize(pixels, list(size), antialias=True)
    raise UserError(
        f"{path} has {width} x {height} pixels (width x height), but its annotations are for "
        f"{size[1]} x {size[0]}"
    )


def read_pixels(path: str | os.PathLike[str], size: tuple[int, int] | None, bare: bool) -> Tensor:
    """Decode an image and turn it upright, or not; (3, height, width) uint8. See ``read_image``."""
    with opened_image(path, bare=bare) as image:
        header = header_of(image)
        if image.format in ("JPEG", "MPO"):
            content = np.fromfile(path, dtype=np.uint8)
            check_scans(content)
        if image.format == "JPEG" and image.mode in ("RGB", "L"):  # in less time than PIL takes
            pixels = decode_jpeg(torch.from_numpy(content), ImageReadMode.RGB)
        else:
            pixels = torch.from_numpy(decode_with_pil(image, path)).permute(2, 0, 1)
    if not header.is_turned(size):
        return pixels
    pixels = pixels.transpose(1, 2) if header.orientation >= 5 else pixels
    pixels = pixels.flip(REVERSED[header.orientation])
    return pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def check_scans(content: np.ndarray) -> None:
    """Raise ValueError for far more scans than an encoder makes: each takes time, however short."""
    scans = content.tobytes().count(START_OF_SCAN)
    if scans > MOST_SCANS:
        raise ValueError(f"it has {scans:,} scans, {MOST_SCANS} are allowed; save it anew")


def decode_with_pil(image: Image.Image, path: str | os.PathLike[str]) -> np.ndarray:
    """Decode what is no usual JPEG: other formats and colours; (height, width, 3) uint8."""
    if image.mode == "F":
        raise ValueError("it has floating-point pixels, whose range nobody knows; save 8 bits")
    if image.mode.startswith("I"):  # 16 bits of grey; PIL would cut off at 255
        image = Image.fromarray(eight_bits(np.asarray(image)))
    elif image.mode in ("RGB", "RGBA") and ";16" in str(getattr(image, "tile", "")):
        # 16 bits of colour, of which PIL would drop the lower 8.
        deep = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
        if deep is None or deep.ndim != 3:
            raise ValueError("its 16-bit pixels cannot be decoded")
        return eight_bits(np.ascontiguousarray(deep[..., 2::-1]))
    return np.array(image.convert("RGB"))


def eight_bits(deep: np.ndarray) -> np.ndarray:
    """Pixels of 16 bits as uint8: the upper 8 of as many bits as are used, see ``DEPTHS``."""
    most = int(deep.max())
    if most >= 2**16 or deep.min() < 0:
        raise ValueError("it has 32-bit pixels, whose range nobody knows; save 8 or 16 bits")
    used = next(depth for depth in DEPTHS if most < 2**depth)
    return (deep >> (used - 8)).astype(np.uint8)


def find_images(places: Sequence[str]) -> list[Path]:
    """Return image files: those named, and those in the folders named, in order of name.

    Raises:
        UserError: a place does not exist, or there are no images.
    """
    found = []
    for place in map(Path, places):
        if not place.exists():
            raise UserError(f"--images: no file or folder {place}")
        found += files_in(place, IMAGE_SUFFIXES) if place.is_dir() else [place]
    if not found:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(
            f"nothing to show: no images in {', '.join(places)} (looked for {suffixes})"
        )
    return found


def files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Return a folder's files with one of the suffixes in order of name, without hidden ones.

    macOS writes ``._a.jpg`` beside ``a.jpg``, which is no image.
    """
    found = [path for path in folder.iterdir() if path.suffix.lower() in suffixes]
    return sorted(path for path in found if not path.name.startswith("."))


def spread(records: Sequence[Any], count: int) -> list[Any]:
    """Return at most ``count`` of the records, evenly spread over them, in order."""
    count = min(count, len(records))
    return [records[position * len(records) // count] for position in range(count)]


def unique_stems(paths: Sequence[str]) -> list[str]:
    """Return file names without suffix; of those that occur again the later ones are numbered."""
    stems: list[str] = []
    for path in paths:
        stem, number = Path(path).stem, 2
        while stem in stems:
            stem = f"{Path(path).stem}_{number}"
            number += 1
        stems.append(stem)
    return stems

"""Reading image files as RGB tensors, and finding them in folders."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.outside import MEGABYTE, check_file, reading

EXIF_ORIENTATION = 0x0112

# PIL knows forty more, among them EPS, which it hands to another program to run.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
LARGEST_FILE = 512 * MEGABYTE
START_OF_SCAN = b"\xff\xda"
MOST_SCANS = 200  # encoders make about ten, thumbnails in the header a few more
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


@contextmanager
def opened_image(
    path: str | os.PathLike[str], formats: Sequence[str] = FORMATS
) -> Iterator[Image.Image]:
    """Open an image file, of which PIL reads the header only.

    Args:
        path: the file; its name says nothing of what it is.
        formats: that it may have, in PIL's words.

    Raises:
        UserError: no file, too large, of another format or damaged; and for what decoders raise
            within the block. PIL refuses 179 million pixels and more.
    """
    check_file(path, LARGEST_FILE)
    with (
        reading(path, f"an image of kind {', '.join(formats)}"),
        Image.open(path, formats=list(formats)) as image,
    ):
        yield image


def image_size(path: str | os.PathLike[str], formats: Sequence[str] = FORMATS) -> tuple[int, int]:
    """Return (height, width) of an image as it is stored; see :func:`opened_image`."""
    with opened_image(path, formats) as image:
        return image.height, image.width


def read_image(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> Tensor:
    """Read an image file as RGB.

    Grey, CMYK, palette and 16-bit images are converted; transparency is dropped. A rotation that a
    camera noted (EXIF orientation) is applied, unless the stored pixels have the ``size`` that was
    asked for.

    Args:
        path: the file; JPEG is fastest, all of ``FORMATS`` will do.
        size: (height, width) that the annotations were made for, or None if not known.

    Returns:
        (3, height, width) uint8. In memory the channels come last: resizing takes half the time.

    Raises:
        UserError: see :func:`opened_image`; another size than ``size``, or floating-point pixels.
    """
    with opened_image(path) as image:
        upright = image.getexif().get(EXIF_ORIENTATION, 1) == 1
        rotated = not upright and size != (image.height, image.width)
        if image.format in ("JPEG", "MPO"):
            content = np.fromfile(path, dtype=np.uint8)
            check_scans(content)
        if image.format == "JPEG" and image.mode in ("RGB", "L"):  # in less time than PIL takes
            jpeg = torch.from_numpy(content)
            pixels = decode_jpeg(jpeg, ImageReadMode.RGB, apply_exif_orientation=rotated)
        else:
            pixels = decode_with_pil(image, rotated)
    height, width = pixels.shape[1:]
    if size not in (None, (height, width)):
        raise UserError(
            f"{path} has {width} x {height} pixels (width x height), but its annotations are for "
            f"{size[1]} x {size[0]}"
        )
    return pixels


def check_scans(content: np.ndarray) -> None:
    """Raise ValueError for far more scans than an encoder makes: each takes time, however short."""
    scans = content.tobytes().count(START_OF_SCAN)
    if scans > MOST_SCANS:
        raise ValueError(f"it has {scans:,} scans, {MOST_SCANS} are allowed; save it anew")


def decode_with_pil(image: Image.Image, rotated: bool) -> Tensor:
    """Decode what is no usual JPEG: other formats and other colours; (3, height, width) uint8."""
    if rotated:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("it has floating-point pixels, whose range nobody knows")
    if image.mode.startswith("I"):  # 16 bits of grey; PIL would cut off at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    pixels = np.array(image.convert("RGB"))  # (height, width, 3)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def find_images(places: Sequence[str]) -> list[Path]:
    """Return image files: those named, and those in the folders named, in order of name.

    Raises:
        UserError: a place does not exist, or there are no images.
    """
    found = []
    for place in map(Path, places):
        if not place.exists():
            raise UserError(f"--images: no file or folder {place}")
        inside = sorted(place.iterdir()) if place.is_dir() else []
        found += [path for path in inside if path.suffix.lower() in IMAGE_SUFFIXES]
        found += [] if place.is_dir() else [place]
    if not found:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(
            f"nothing to show: no images in {', '.join(places)} (looked for {suffixes})"
        )
    return found


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

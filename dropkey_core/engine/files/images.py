"""Image files: their headers, their pixels as RGB tensors, and finding them in folders."""

import itertools
import os
import re
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional as F

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.outside import MEGABYTE, check_file, reading

EXIF_ORIENTATION = 0x0112
# PIL knows forty more, among them EPS, which it hands to another program to run.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
# What comes as a picture and is none of these, by what is near the beginning of the file.
OTHER_FORMATS = {
    rb"....ftyp(hei|hev|mif1|msf1)": "HEIC",
    rb"....ftypavi[fs]": "AVIF",
    rb"....ftyp": "a video",
    rb"....jP  |\xff\x4f\xff\x51": "JPEG 2000",
    rb"....JXL |\xff\x0a": "JPEG XL",
    rb"%PDF-": "PDF",
    rb"%!PS": "PostScript",
    rb"8BPS": "a Photoshop file",
    rb".{128}DICM": "DICOM",
    rb"[^<]*<(!DOCTYPE html|html)": "a web page",
    rb"[^<]*<([?]xml.{,400}<)?(!DOCTYPE )?svg": "SVG",
    rb"$": "empty",
}
LARGEST_FILE = 512 * MEGABYTE
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
# What turns stored pixels (3, height, width) upright, by orientation: from 5 on height and width
# change places, and then these dimensions are reversed.
REVERSED = {2: (2,), 3: (1, 2), 4: (1,), 5: (), 6: (2,), 7: (1, 2), 8: (1,)}
START_OF_SCAN = b"\xff\xda"
MOST_SCANS = 200  # encoders make about ten, thumbnails in the header a few more
DEPTHS = (8, 12, 16)  # bits that cameras and scanners use of the 16 of a file
AT_ONCE = 16  # files whose headers are read at once: over a network each takes long to open
# A colour profile or a prompt may be longer than the megabyte at which PIL refuses a PNG.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # 64 MiB


class Header(NamedTuple):
    """What an image file says before its pixels.

    Attributes:
        stored: (height, width) of the pixels in the file.
        orientation: EXIF's, how they are turned to be upright; 1 for not at all.
    """

    stored: tuple[int, int]
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) after the turn."""
        return self.stored[::-1] if self.orientation >= 5 else self.stored

    def is_turned(self, size: tuple[int, int] | None) -> bool:
        """Whether pixels are turned for annotations of a (height, width), None if not known.

        They are, unless that is the stored size and cannot be the upright one.
        """
        return self.orientation != 1 and (size != self.stored or self.stored == self.upright)


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
    with reading(path, f"an image of kind {', '.join(formats)}"):
        try:
            image = Image.open(path, formats=list(formats))
        except UnidentifiedImageError:
            with open(path, "rb") as file:  # noqa: PTH123
                start = file.read(512)
            for pattern, name in OTHER_FORMATS.items():
                if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
                    raise ValueError(
                        f"it is {name}; convert it to PNG or JPEG, or leave it out"
                    ) from None
            raise
        with image:
            yield image


def read_header(path: str | os.PathLike[str], formats: Sequence[str] = FORMATS) -> Header:
    """Read what is before an image's pixels; see :func:`opened_image`."""
    with opened_image(path, formats) as image:
        return header_of(image)


def header_of(image: Image.Image) -> Header:
    """The header of an opened image; orientations that EXIF does not know are none."""
    exif = Image.Image.getexif(image)  # PNG's own would decode the pixels to look behind them
    orientation: Any = exif.get(EXIF_ORIENTATION)
    known = int(orientation) if orientation in range(2, 9) else 1
    return Header((image.height, image.width), known)


def read_headers(paths: Sequence[str]) -> list[Header | UserError]:
    """Read the headers of many images, or why one cannot be read; 20,000 a second from a disk."""

    def read(path: str) -> Header | UserError:
        try:
            return read_header(path)
        except UserError as error:
            return error

    parts = [paths[start : start + 64] for start in range(0, len(paths), 64)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        read_parts = pool.map(lambda part: [read(path) for path in part], parts)
        return list(itertools.chain.from_iterable(read_parts))


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
    pixels = read_pixels(path, size)
    height, width = pixels.shape[1:]
    if size in (None, (height, width)):
        return pixels
    if resize:
        return F.resize(pixels, list(size), antialias=True)
    raise UserError(
        f"{path} has {width} x {height} pixels (width x height), but its annotations are for "
        f"{size[1]} x {size[0]}"
    )


def read_pixels(path: str | os.PathLike[str], size: tuple[int, int] | None) -> Tensor:
    """Decode an image and turn it upright, or not; (3, height, width) uint8. See ``read_image``."""
    with opened_image(path) as image:
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


def images_in(folder: Path) -> list[Path]:
    """Return the images in a folder in order of name; UserError if there are none."""
    with reading(folder):
        found = files_in(folder, IMAGE_SUFFIXES)
    if not found:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"there are no images in {folder} (looked for {suffixes})")
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

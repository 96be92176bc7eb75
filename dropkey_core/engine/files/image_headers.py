"""Image headers: format, size and EXIF orientation, read without decoding the pixels."""

import io
import itertools
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from PIL import Image, UnidentifiedImageError

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.outside import MEGABYTE, check_file, reading

T = TypeVar("T")

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
    rb"\x76\x2f\x31\x01": "OpenEXR",
    rb".{128}DICM": "DICOM",
    rb"[^<]*<(!DOCTYPE html|html)": "a web page",
    rb"[^<]*<([?]xml.{,400}<)?(!DOCTYPE )?svg": "SVG",
    rb"$": "empty",
}
LARGEST_FILE = 512 * MEGABYTE
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
FEW = 64  # headers that are read one after another


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
    path: str | os.PathLike[str], formats: Sequence[str] = FORMATS, bare: bool = False
) -> Iterator[Image.Image]:
    """Open an image file, of which PIL reads the header only.

    Args:
        path: the file; its name says nothing of what it is.
        formats: that it may have, in PIL's words.
        bare: leave out a PNG's texts and profile.

    Raises:
        UserError: no file, too large, of another format or damaged; and for what decoders raise
            within the block. PIL refuses 179 million pixels and more.
    """
    check_file(path, LARGEST_FILE)
    with reading(path, f"an image of kind {', '.join(formats)}"):
        try:
            image = Image.open(bare_png(Path(path)) if bare else path, formats=list(formats))
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


def bare_png(path: Path) -> io.BytesIO:
    """A PNG file without its texts and colour profile, which may be longer than PIL takes."""
    content, kept, start = path.read_bytes(), [], 8
    while start < len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if content[start + 4 : start + 8] not in PNG_TEXTS:
            kept.append(content[start:end])
        start = end
    return io.BytesIO(content[:8] + b"".join(kept))


def however_long_its_texts(read: Callable[[bool], T]) -> T:
    """Return what ``read(bare)`` does, of a PNG with texts that PIL refuses without these."""
    try:
        return read(False)
    except UserError as error:
        if "MAX_TEXT" not in str(error.__cause__):  # the setting that PIL's error names
            raise
        return read(True)


def read_header(path: str | os.PathLike[str], formats: Sequence[str] = FORMATS) -> Header:
    """Read what is before an image's pixels; see :func:`opened_image`."""

    def read(bare: bool) -> Header:
        with opened_image(path, formats, bare) as image:
            return header_of(image)

    return however_long_its_texts(read)


def header_of(image: Image.Image) -> Header:
    """The header of an opened image; orientations that EXIF does not know are none."""
    exif = Image.Image.getexif(image)  # PNG's own would decode the pixels to look behind them
    orientation: Any = exif.get(EXIF_ORIENTATION)
    known = int(orientation) if orientation in range(2, 9) else 1
    return Header((image.height, image.width), known)


def read_headers(paths: Sequence[str]) -> list[Header | UserError]:
    """Read the headers of many images, or why one cannot be read; 30,000 a second from a disk.

    Where a file takes long to open, as over a network, sixteen are opened at once.
    """

    def read_part(part: Sequence[str]) -> list[Header | UserError]:
        return [caught(path) for path in part]

    def caught(path: str) -> Header | UserError:
        try:
            return read_header(path)
        except UserError as error:
            return error

    headers = read_part(paths[:1])  # which also loads PIL's readers
    begun = time.perf_counter()
    headers += read_part(paths[1:FEW])
    is_slow = time.perf_counter() - begun > FEW * 0.0005
    parts = [paths[start : start + FEW] for start in range(FEW, len(paths), FEW)]
    with ThreadPoolExecutor(16) as pool:
        rest = (pool.map if is_slow else map)(read_part, parts)
        return [*headers, *itertools.chain.from_iterable(rest)]

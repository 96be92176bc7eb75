"""Image files as RGB tensors, whatever is in them."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.outside import MEGABYTE, check_file

EXIF_ORIENTATION = 0x0112

# PIL knows forty more, among them EPS, which it hands to another program to run.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
LARGEST_FILE = 512 * MEGABYTE
MOST_PIXELS = 2**27  # 134 million; a small file can unpack to that many
START_OF_SCAN = b"\xff\xda"
MOST_SCANS = 200  # encoders make about ten, thumbnails in the header a few more


@contextmanager
def opened_image(
    path: str | os.PathLike[str], formats: Sequence[str] = FORMATS
) -> Iterator[Image.Image]:
    """Open an image file, of which PIL reads the header only.

    Args:
        path: the file; its name says nothing of what it is.
        formats: that it may have, in PIL's words.

    Raises:
        UserError: no such file, none at all, too large, of another format or damaged; and for
            whatever decoders raise within the block.
    """
    check_file(path, LARGEST_FILE)
    try:
        with Image.open(path, formats=list(formats)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            yield image
    except UserError:
        raise
    except UnidentifiedImageError as error:
        kinds = ", ".join(formats)
        raise UserError(f"{path} is not an image, or of a kind other than {kinds}") from error
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{path} is too large: {error}; {MOST_PIXELS:,} pixels are allowed"
        ) from error
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except MemoryError as error:
        raise UserError(f"{path} needs more memory than there is") from error
    except Exception as error:  # each decoder has its own; only the file's bytes can be the cause
        raise UserError(f"{path} is damaged or cut short") from error


def image_size(path: str | os.PathLike[str], formats: Sequence[str] = FORMATS) -> tuple[int, int]:
    """Return (height, width) of an image as it is stored; see :func:`opened_image`."""
    with opened_image(path, formats) as image:
        return image.height, image.width


def read_image(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> Tensor:
    """Read an image file as RGB.

    Grey, CMYK, palette and 16-bit images are converted; transparency is dropped. Where a camera
    noted a rotation (EXIF orientation), it is applied, unless the stored pixels have the ``size``
    that was asked for: then whoever measured it looked at the stored pixels.

    Args:
        path: the file; JPEG is fastest, all of ``FORMATS`` will do.
        size: (height, width) that the annotations were made for, or None if not known.

    Returns:
        (3, height, width) uint8. In memory the channels come last, as decoders write them:
        resizing that takes half the time.

    Raises:
        UserError: see :func:`opened_image`; another size than ``size``, or floating-point pixels.
    """
    with opened_image(path) as image:
        rotated = has_rotation(image) and size != (image.height, image.width)
        found = (image.height, image.width)
        if size is not None and size not in (found, found[::-1]):
            raise other_size(path, found, size)  # before anything is unpacked
        if image.format in ("JPEG", "MPO"):
            content = np.fromfile(path, dtype=np.uint8)
            check_scans(path, content)
        if image.format == "JPEG" and image.mode in ("RGB", "L"):
            pixels = decode_as_jpeg(content, rotated)
        else:
            pixels = decode_with_pil(path, image, rotated)
    found = (pixels.shape[1], pixels.shape[2])
    if size is not None and size != found:
        raise other_size(path, found, size)
    return pixels


def other_size(
    path: str | os.PathLike[str], found: tuple[int, int], size: tuple[int, int]
) -> UserError:
    """The error for an image of another (height, width) than its annotations are for."""
    return UserError(
        f"{path} has {found[1]} x {found[0]} pixels (width x height), but its annotations are for "
        f"{size[1]} x {size[0]}"
    )


def has_rotation(image: Image.Image) -> bool:
    """Whether the stored pixels are not the way up that they are meant to be seen."""
    return image.getexif().get(EXIF_ORIENTATION, 1) != 1


def check_scans(path: str | os.PathLike[str], content: np.ndarray) -> None:
    """Raise UserError if a JPEG file goes over its pixels far more often than an encoder would.

    A scan of a few bytes takes as much time as one of all pixels.
    """
    scans = content.tobytes().count(START_OF_SCAN)
    if scans > MOST_SCANS:
        raise UserError(f"{path} has {scans:,} scans, {MOST_SCANS} are allowed: save it anew")


def decode_as_jpeg(content: np.ndarray, rotated: bool) -> Tensor:
    """Decode the bytes of a JPEG file with torchvision, which takes less time than PIL."""
    jpeg = torch.from_numpy(content)
    return decode_jpeg(jpeg, mode=ImageReadMode.RGB, apply_exif_orientation=rotated)


def decode_with_pil(path: str | os.PathLike[str], image: Image.Image, rotated: bool) -> Tensor:
    """Decode the rest: other formats and other colours."""
    if rotated:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise UserError(f"{path} has floating-point pixels, whose range nobody knows")
    if image.mode.startswith("I"):  # 16 bits of grey; PIL would cut off at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    pixels = np.array(image.convert("RGB"))  # (height, width, 3)
    return torch.from_numpy(pixels).permute(2, 0, 1)

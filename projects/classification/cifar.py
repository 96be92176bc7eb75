"""CIFAR-10 and CIFAR-100 in their authors' files, read by torchvision."""

import os

import numpy as np
from torchvision import datasets

from dropkey_core.engine import UserError, dataset_path
from dropkey_core.engine.paths import DATASETS_VARIABLE, datasets_root
from projects.classification.labelled_images import ImageArray, check_choice

SETS = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
SPLITS = ("train", "test")


def load_cifar(
    name: str, split: str, folder: str | os.PathLike[str] = "cifar", per_class: int | None = None
) -> ImageArray:
    """Load 50,000 training or 10,000 test images of 32 x 32 pixels.

    The files are pickles; torchvision opens them only if their checksums are those of the
    published ones.

    Args:
        name: ``cifar10`` or ``cifar100``.
        split: ``train`` or ``test``.
        folder: relative to the dataset root, or absolute; it holds ``cifar-10-batches-py`` or
            ``cifar-100-python``.
        per_class: keep only so many images of each class, the first of the split.

    Raises:
        UserError: another name or split, too many ``per_class``, or the files are not there or
            not the published ones.
    """
    check_choice("name", name, SETS)
    check_choice("split", split, SPLITS)
    cifar = SETS[name]
    root = dataset_path(folder)
    try:
        images = cifar(root, train=split == "train", download=False)
    except RuntimeError as error:  # torchvision's for missing files and for other checksums
        raise UserError(
            f"{name} is not in {root / cifar.base_folder}, or not as published (set by "
            f"dataset.folder, relative to {DATASETS_VARIABLE}, now {datasets_root()}); to fetch "
            f"it: python datasets/prepare_cifar.py {name}"
        ) from error
    return ImageArray(images.data, np.array(images.targets), images.classes, per_class)

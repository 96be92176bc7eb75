"""Image files sorted into a folder for each class, as ImageNet is."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dropkey_core.engine import UserError, dataset_path
from dropkey_core.engine.files.outside import check_inside, places_of
from dropkey_core.engine.paths import DATASETS_VARIABLE, datasets_root
from projects.classification.labelled_images import LabelledImages

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff", ".gif")
CLASSES_OF = "train"  # the split whose folders number the classes


class ImageFiles(LabelledImages):
    """Image files as records with a ``file_name``; a million take the memory of their names.

    Args:
        folder: what ``names`` are relative to.
        names: class folder and file, of each image.
        labels: see ``LabelledImages``, as the following two.
        classes: names.
        per_class: how many to keep.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        labels: np.ndarray,
        classes: Sequence[str],
        per_class: int | None = None,
    ) -> None:
        super().__init__(labels, classes, per_class)
        self.folder = folder
        # One array of bytes: loader processes would copy a list's million of objects.
        self.names = np.array([os.fsencode(name) for name in names])

    def content(self, row: int) -> dict[str, Any]:
        """``file_name``."""
        return {"file_name": str(self.folder / os.fsdecode(self.names[row]))}


def load_image_folder(
    folder: str | os.PathLike[str], split: str, per_class: int | None = None
) -> ImageFiles:
    """List the images of ``folder/split/<class>/``; they are read when they are needed.

    Classes are numbered in the order of their names in ``folder/train``, which for ImageNet's
    WordNet ids is everybody's order; without that folder, in ``folder/split``.

    Args:
        folder: relative to the dataset root, or absolute.
        split: name of the folder below it, such as ``train`` or ``val``.
        per_class: keep only so many images of each class, the first by name.

    Raises:
        UserError: there are no such folders or no images, a class that ``train`` has not, too many
            ``per_class``, or an image that is a link to elsewhere.
    """
    root = dataset_path(folder)
    place = root / split
    if not place.is_dir():
        raise UserError(
            f"images not found: {place} (set by dataset.folder, relative to {DATASETS_VARIABLE}, "
            f"now {datasets_root()}); see datasets/README.md"
        )
    present = subfolders(place)
    numbering = root / CLASSES_OF
    classes = subfolders(numbering) if numbering.is_dir() else present
    if not present:
        raise UserError(
            f"{place} has no folders: sort its images into one for each class, see "
            "datasets/README.md"
        )
    if unknown := sorted(set(present) - set(classes)):
        raise UserError(f"{place} has a class {unknown[0]!r} that {numbering} has not")
    files = {name: image_names(place / name) for name in present}
    names = [f"{name}/{file}" for name in present for file in files[name]]
    if not names:
        raise UserError(f"{place} has no images: their names end in {', '.join(SUFFIXES)}")
    numbers = [classes.index(name) for name in present]
    labels = np.repeat(numbers, [len(files[name]) for name in present])
    return ImageFiles(place, names, labels, classes, per_class)


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, sorted; hidden ones are left out."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def image_names(folder: Path) -> list[str]:
    """Names of the image files in ``folder``, sorted; hidden ones are left out.

    Raises:
        UserError: one of them is a link that leads out of the folder and of the dataset root.
    """
    places = places_of(folder)
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith("."):
                if entry.is_symlink():
                    check_inside(entry.path, places)
                names.append(entry.name)
    return sorted(names)

"""COCO-format detection sets as records to train on, and their categories as class indices."""

import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dropkey_core.engine import UserError, dataset_path
from dropkey_core.engine.errors import shown
from dropkey_core.engine.files.outside import check_inside, places_of
from projects.detr.annotation_file import (
    HOW_TO_GET_COCO,
    Category,
    read_annotation_file,
    where_data_lies,
)

logger = logging.getLogger(__name__)

# COCO numbers its 80 categories from 1 to 90; these ten numbers were never used.
COCO_CATEGORY_IDS = set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}

XYWH_ABS = 1  # detectron2's BoxMode.XYWH_ABS


class CategoryMap:
    """Which class index of the model stands for which category id of a file.

    A file with exactly COCO's 80 category ids keeps them as class indices, with 91 classes of which
    eleven stay unused: that is how the official DETR checkpoints are numbered. In any other file
    the categories get 0, 1, ... in the order of their ids.

    Args:
        categories: COCO's ``categories``.
    """

    def __init__(self, categories: Iterable[Category]) -> None:
        names = {category.id: category.name for category in categories}
        times = Counter(names.values())  # exports of some tools name two categories alike
        self.names = {  # by category id, each name once
            number: name if times[name] == 1 else f"{name} ({number})"
            for number, name in sorted(names.items())
        }
        ids = list(self.names)
        is_coco = set(ids) == COCO_CATEGORY_IDS
        self.num_classes = 91 if is_coco else len(ids)
        indices = ids if is_coco else range(len(ids))
        self._index_of = dict(zip(ids, indices, strict=True))
        self._category_id_of = dict(zip(indices, ids, strict=True))
        self.class_names = [  # by class index
            self.names.get(self._category_id_of.get(index), "unused")
            for index in range(self.num_classes)
        ]

    def class_index(self, category_id: int) -> int:
        """Class index of a category id of the file."""
        return self._index_of[category_id]

    def category_id(self, class_index: int) -> int | None:
        """Category id of a class index; None for an unused index of COCO's numbering.

        Raises:
            UserError: the index is not in [0, num_classes): model and file do not fit together.
        """
        if not 0 <= class_index < self.num_classes:
            raise UserError(
                f"the model predicted class index {class_index}, the annotation file has "
                f"{self.num_classes} classes; set model.num_classes to {self.num_classes}"
            )
        return self._category_id_of.get(class_index)


def num_classes(annotations: str | os.PathLike[str]) -> int:
    """Size of the class head (without "no object") that an annotation file asks for.

    It is 91 for COCO's own categories, else their number; see ``CategoryMap``. For paths and errors
    see ``read_annotation_file``.
    """
    return read_categories(annotations).num_classes


def read_categories(annotations: str | os.PathLike[str]) -> CategoryMap:
    """Read the categories of an annotation file; see ``num_classes``."""
    return CategoryMap(read_annotation_file(annotations).categories)


def load_coco(
    images: str | os.PathLike[str],
    annotations: str | os.PathLike[str],
    same_categories_as: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
    """Read a COCO-format set as detectron2's dataset dicts.

    Images without annotations stay in. Boxes that nothing can be learnt from (not finite, without
    area, wholly outside their image) are left out, counted and told in one warning; boxes that
    reach over the edge stay as they are, for the mapper to clip. Crowd regions stay, with
    ``iscrowd`` 1.

    Args:
        images: folder of the images, relative to the dataset root or absolute.
        annotations: COCO-format file, relative to the dataset root or absolute.
        same_categories_as: another annotation file, the one that is evaluated on; class indices
            mean the same in both only if both have the same categories.

    Returns:
        One dict per image, in the file's order: ``file_name`` (absolute), ``image_id``, ``height``,
        ``width`` in pixels, and ``annotations``, dicts with ``bbox`` [x, y, width, height] in
        pixels, ``bbox_mode`` 1 (XYWH_ABS), ``category_id`` (detectron2's name for the class index,
        which is ``label`` everywhere else) and ``iscrowd``.

    Raises:
        UserError: folder, file or images are missing, the file is not sound, or its categories
            are not those of ``same_categories_as``.
    """
    document = read_annotation_file(annotations)
    source = dataset_path(annotations)
    folder = image_folder(images)
    categories = CategoryMap(document.categories)
    if same_categories_as is not None:
        check_same_categories(categories, source, dataset_path(same_categories_as))
    records = {
        image.id: {
            "file_name": path_inside(folder, image.file_name, source),
            "image_id": image.id,
            "height": image.height,
            "width": image.width,
            "annotations": [],
        }
        for image in document.images
    }
    check_files([record["file_name"] for record in records.values()], folder, source)
    left_out = []
    for annotation in document.annotations:
        record = records[annotation.image_id]
        x, y, width, height = annotation.bbox
        if not is_learnable((x, y, x + width, y + height), record):
            left_out.append(annotation.id)
            continue
        record["annotations"].append(
            {
                "bbox": annotation.bbox,
                "bbox_mode": XYWH_ABS,
                "category_id": categories.class_index(annotation.category_id),
                "iscrowd": int(annotation.iscrowd),
            }
        )
    if left_out:
        logger.warning(
            f"{source}: left out {len(left_out)} of {len(document.annotations)} boxes that are "
            f"not finite, have no area or lie outside their image (first: annotation {left_out[0]})"
        )
    return list(records.values())


def check_same_categories(categories: CategoryMap, source: Path, other_source: Path) -> None:
    """Raise UserError unless both files have the same categories, ids and names."""
    other = read_categories(other_source)
    if differing := sorted(set(categories.names.items()) ^ set(other.names.items())):
        number, name = differing[0]
        place = source if number in categories.names else other_source
        raise UserError(
            f"{source} and {other_source} must have the same categories, {len(differing)} differ; "
            f"first: id {number} ({name}) of {place}"
        )


def is_learnable(box_xyxy: Sequence[float], record: Mapping[str, Any]) -> bool:
    """Whether a box [x1, y1, x2, y2] in pixels is finite and covers any of its record's image."""
    x1, y1, x2, y2 = box_xyxy
    return (
        all(map(math.isfinite, box_xyxy))
        and min(x2, record["width"]) > max(x1, 0)
        and min(y2, record["height"]) > max(y1, 0)
    )


def image_folder(images: str | os.PathLike[str], how_to_get_it: str = HOW_TO_GET_COCO) -> str:
    """Absolute path of the folder of images; raises UserError if there is none."""
    folder = dataset_path(images)
    if not folder.is_dir():
        raise UserError(
            f"image folder not found: {folder} (set by dataset.train.images or "
            f"dataset.test.images, {where_data_lies(how_to_get_it)}"
        )
    return os.path.normpath(folder)


# COCO has 118,287 images: os.path on text takes a fraction of the time of Path objects.
# ruff: noqa: PTH112, PTH118
def path_inside(folder: str, file_name: str, source: Path) -> str:
    """Absolute path of an image; raises UserError if it would lie outside the folder."""
    path = os.path.normpath(os.path.join(folder, file_name))
    if not path.startswith(os.path.join(folder, "")):
        raise UserError(f"{source}: file_name {shown(file_name)} leaves the image folder {folder}")
    return path


def check_files(paths: list[str], folder: str, source: Path) -> None:
    """Raise UserError if images are missing, or are links that lead out of the set.

    Folders are listed, which beats asking file by file, and tells which files are links.

    Args:
        paths: absolute, below ``folder``.
        folder: of the images.
        source: the file that lists them, for errors.
    """
    places = places_of(folder)
    missing = []
    listings: dict[str, dict[str, bool]] = {}
    for path in paths:
        parent, name = os.path.split(path)
        if parent not in listings:
            check_inside(parent, places)
            listings[parent] = links_among(parent)
        if name not in listings[parent]:
            missing.append(path)
        elif listings[parent][name]:
            check_inside(path, places)
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(paths)} images in {source} are missing, "
            f"first: {missing[0]}; was the download finished?"
        )


def links_among(folder: str) -> dict[str, bool]:
    """Names in a folder, and whether each is a link; none if there is no such folder."""
    if not os.path.isdir(folder):
        return {}
    with os.scandir(folder) as entries:
        return {entry.name: entry.is_symlink() for entry in entries}

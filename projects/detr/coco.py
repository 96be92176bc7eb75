"""COCO-format detection sets as records to train on, and their categories as class indices."""

import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dropkey_core.engine import UserError, dataset_path
from dropkey_core.engine.errors import listed
from projects.detr.annotation_file import (
    Annotation,
    Category,
    CocoCategories,
    read_annotation_file,
    read_typed_json,
)
from projects.detr.image_set import SizeMismatch, doubtful_boxes, load_images

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
        numbers = [self._category_id_of.get(index, index) for index in range(self.num_classes)]
        self.classes = [Category(number, self.names.get(number, "unused")) for number in numbers]

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


def num_classes(
    annotations: str | os.PathLike[str], same_categories_as: str | os.PathLike[str] | None = None
) -> int:
    """Size of the class head (without "no object") that an annotation file asks for.

    It is 91 for COCO's own categories, else their number; see ``CategoryMap``. For the arguments
    and errors see ``read_categories``.
    """
    return read_categories(annotations, same_categories_as).num_classes


def read_categories(
    annotations: str | os.PathLike[str], same_categories_as: str | os.PathLike[str] | None = None
) -> CategoryMap:
    """Read the categories of an annotation file, or of two that number them alike.

    Args:
        annotations: relative to the dataset root or absolute.
        same_categories_as: another annotation file; what either of both has is a category, so that
            class indices mean the same in both. One that does not exist counts for nothing.

    Raises:
        UserError: a file is not sound, or both call a category of one number differently.
    """
    paths = [dataset_path(annotations)]
    if same_categories_as is not None and (other := dataset_path(same_categories_as)).exists():
        paths.append(other)
    files = [read_typed_json(path, CocoCategories).categories for path in paths]
    names = [{category.id: category.name for category in categories} for categories in files]
    if differing := [key for key in names[0] if names[-1].get(key, names[0][key]) != names[0][key]]:
        number = differing[0]
        raise UserError(
            f"{paths[0]} and {paths[1]} must name their categories alike, {len(differing)} differ; "
            f"first: id {number} is {names[0][number]} and {names[1][number]}"
        )
    return CategoryMap(category for categories in files for category in categories)


def load_coco(
    images: str | os.PathLike[str],
    annotations: str | os.PathLike[str],
    same_categories_as: str | os.PathLike[str] | None = None,
    size_mismatch: SizeMismatch = "error",
    skip_missing: bool = False,
    output_dir: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
    """Read a COCO-format set as detectron2's dataset dicts.

    Images without annotations stay in. Boxes that nothing can be learnt from (not finite, without
    area, wholly outside their image) are left out; boxes that reach over the edge stay as they are,
    for the mapper to clip. Crowd regions stay, with ``iscrowd`` 1. One warning tells, with counts,
    what was left out or read in another way than it is written, and what looks wrong.

    Args:
        images: folder of the images, relative to the dataset root or absolute.
        annotations: COCO-format file, relative to the dataset root or absolute.
        same_categories_as: another annotation file, see ``read_categories``: the one that is
            evaluated on.
        size_mismatch: see ``load_images``, as the following.
        skip_missing: go on without images that are missing.
        output_dir: folder for a list of them.

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
    categories = read_categories(annotations, same_categories_as)
    listed_images = [
        {
            "file_name": image.file_name,
            "image_id": image.id,
            "height": image.height,
            "width": image.width,
            "annotations": [],
        }
        for image in document.images
    ]
    records, notes = load_images(
        listed_images, images, source, size_mismatch, skip_missing, output_dir
    )
    own = {category.id for category in document.categories}
    if others := [name for number, name in categories.names.items() if number not in own]:
        notes.append(f"it lacks categories of {same_categories_as}: {listed(others)}")
    notes += add_boxes(records, document.annotations, categories)
    if notes:
        logger.warning(f"{source}: {'; '.join(notes)}")
    return records


def add_boxes(
    records: Sequence[dict[str, Any]], annotations: Sequence[Annotation], categories: CategoryMap
) -> list[str]:
    """Put the boxes that can be learnt from into their images' records; what to tell of all."""
    by_id = {record["image_id"]: record for record in records}
    left_out = []
    is_taught = False
    for place, annotation in enumerate(annotations):
        if (record := by_id.get(annotation.image_id)) is None:
            continue
        if not is_learnable(corners(annotation.bbox), record):
            left_out.append(place)
            continue
        is_taught |= not annotation.iscrowd
        record["annotations"].append(
            {
                "bbox": annotation.bbox,
                "bbox_mode": XYWH_ABS,
                "category_id": categories.class_index(annotation.category_id),
                "iscrowd": int(annotation.iscrowd),
            }
        )
    notes = []
    if left_out:
        notes.append(
            f"left out {len(left_out)} of {len(annotations)} boxes that are not finite, have no "
            f"area or lie outside their image (first: annotations[{left_out[0]}])"
        )
    notes += doubtful_boxes(
        (corners(annotation["bbox"]), record)
        for record in records
        for annotation in record["annotations"]
    )
    crowds = sum(bool(annotation.iscrowd) for annotation in annotations)
    if not annotations:
        notes.append(
            "it has no annotations: there is nothing to learn from, and nothing to measure"
        )
    elif not is_taught:
        notes.append(
            f"nothing is left to learn from: {crowds} of {len(annotations)} annotations are crowd "
            "regions (iscrowd 1)"
        )
    return notes


def corners(bbox: Sequence[float]) -> tuple[float, ...]:
    """COCO's [x, y, width, height] as (x1, y1, x2, y2)."""
    x, y, width, height = bbox
    return x, y, x + width, y + height


def is_learnable(box_xyxy: Sequence[float], record: Mapping[str, Any]) -> bool:
    """Whether a box [x1, y1, x2, y2] in pixels is finite and covers any of its record's image."""
    x1, y1, x2, y2 = box_xyxy
    return (
        all(map(math.isfinite, box_xyxy))
        and min(x2, record["width"]) > max(x1, 0)
        and min(y2, record["height"]) > max(y1, 0)
    )

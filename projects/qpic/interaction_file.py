"""The schema of annotation files for human-object interactions, in QPIC's layout."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from dropkey_core.engine import UserError, dataset_path
from dropkey_core.engine.errors import listed
from dropkey_core.engine.files.json_file import LARGEST_FILE
from dropkey_core.engine.files.outside import read_file
from projects.detr.annotation_file import Box, Integer, Pixels, Text, read_typed_json
from projects.qpic.classes import HOW_TO_GET_IT, InteractionClasses

NO_OBJECT = -1  # ``object_id`` of a pair without object, as in V-COCO
VCOCO = (
    "is V-COCO's, which names no boxes: convert_vcoco_annotations.py of "
    "github.com/hitachi-rd-cv/qpic makes of it trainval_vcoco.json and test_vcoco.json, which "
    "dataset.train.annotations takes as they are, with a dataset.classes of its own verbs"
)


class BoxEntry(Struct, frozen=True, gc=False):
    """A person or an object: ``bbox`` [x1, y1, x2, y2] in pixels."""

    bbox: Box
    category_id: Integer


class HoiEntry(Struct, frozen=True, gc=False):
    """An interaction: subject and object by their places among the image's boxes, and the verb."""

    subject_id: Integer
    object_id: Integer
    category_id: Integer


class ImageEntry(Struct, frozen=True, gc=False):
    """What a file holds for an image."""

    file_name: Text
    annotations: list[BoxEntry] = []
    hoi_annotation: list[HoiEntry] = []
    height: Pixels | None = None
    width: Pixels | None = None


InteractionFile = Annotated[list[ImageEntry], Meta(min_length=1)]


def read_interactions(
    path: str | os.PathLike[str], classes: InteractionClasses
) -> list[dict[str, Any]]:
    """Read and check an annotation file; datasets/README.md says what it holds.

    Nothing is left out: interactions that are listed twice, boxes that are empty, not finite or out
    of the image, and combinations that ``classes`` does not know are all there, because the
    official evaluation counts them.

    Args:
        path: relative to the dataset root, or absolute.
        classes: what the file's category ids stand for.

    Returns:
        One dict per image, in the file's order: ``file_name`` as in the file, ``image_id`` (its
        position), ``height`` and ``width`` in pixels or None, ``boxes_xyxy`` (lists of four pixel
        coordinates, as in the file), ``labels`` (object class indices), ``hois`` ((subject, object,
        verb): two indices into the boxes, the object's -1 where there is none, and the verb's class
        index).

    Raises:
        UserError: the file is missing or not in this layout, or names a box, a category or a verb
            that is not there.
    """
    path = dataset_path(path)
    entries = read_entries(path)
    object_labels = {entry.id: label for label, entry in enumerate(classes.objects)}
    verb_labels = {entry.id: label for label, entry in enumerate(classes.verbs)}
    records = []
    for image_id, entry in enumerate(entries):
        if problem := image_problem(entry, object_labels, verb_labels):
            raise UserError(f"{path}: image [{image_id}] {entry.file_name!r}: {problem}")
        records.append(
            {
                "file_name": entry.file_name,
                "image_id": image_id,
                "height": entry.height,
                "width": entry.width,
                "boxes_xyxy": [box.bbox for box in entry.annotations],
                "labels": [object_labels[box.category_id] for box in entry.annotations],
                "hois": [
                    (hoi.subject_id, hoi.object_id, verb_labels[hoi.category_id])
                    for hoi in entry.hoi_annotation
                ],
            }
        )
    return records


def read_entries(path: Path) -> list[ImageEntry]:
    """The entries of a file as they are.

    Raises:
        UserError: the file is missing or not in this layout.
    """
    try:
        return read_typed_json(path, InteractionFile, HOW_TO_GET_IT)
    except UserError as error:
        # Lists of actions, each over all images.
        if path.is_file() and b'"action_name"' in read_file(path, LARGEST_FILE):
            raise UserError(f"{path} {VCOCO}") from error
        raise


def image_problem(
    entry: ImageEntry, object_ids: Collection[int], verb_ids: Collection[int]
) -> str | None:
    """What an image's entry names that is not there, or None."""
    for number, box in enumerate(entry.annotations):
        if box.category_id not in object_ids:
            return (
                f"annotations[{number}] has unknown category_id {box.category_id}; the objects of "
                f"the set have ids {listed(object_ids)}"
            )
    for number, hoi in enumerate(entry.hoi_annotation):
        if problem := hoi_problem(hoi, len(entry.annotations), verb_ids):
            return f"hoi_annotation[{number}] {problem}"
    return None


def hoi_problem(hoi: HoiEntry, num_boxes: int, verb_ids: Collection[int]) -> str | None:
    """What an interaction in an image of so many boxes names that is not there, or None."""
    for role, least in (("subject_id", 0), ("object_id", NO_OBJECT)):
        index = getattr(hoi, role)
        if not least <= index < num_boxes:
            allowed = "an index of one of" if least == 0 else "-1 or an index of one of"
            return f"has {role} {index}, which is not {allowed} the image's {num_boxes} boxes"
    if hoi.category_id not in verb_ids:
        return (
            f"has unknown category_id {hoi.category_id}; the verbs of the set have ids "
            f"{listed(verb_ids)}"
        )
    return None

"""An annotation file for human-object interactions, in QPIC's layout: reading and checking it."""

import os
from pathlib import Path
from typing import Any

from dropkey_core.engine import UserError, dataset_path
from dropkey_core.engine.errors import shown
from projects.detr.annotation_file import is_coordinate, listed, parse
from projects.qpic.classes import HOW_TO_GET_IT, InteractionClasses, is_integer, is_text

NO_OBJECT = -1  # ``object_id`` of a pair without object, as in V-COCO


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
        position), ``boxes_xyxy`` (lists of four pixel coordinates, as in the file), ``labels``
        (object class indices), ``hois`` ((subject, object, verb): two indices into the boxes, the
        object's -1 where there is none, and the verb's class index); ``height`` and ``width`` in
        pixels where the file has them.

    Raises:
        UserError: the file is missing, is not JSON, or is not in this layout: an index of a box
            that is not there, an unknown category or verb, a field missing or of another type.
    """
    path = dataset_path(path)
    document = parse(path, HOW_TO_GET_IT)
    if not isinstance(document, list):
        raise UserError(
            f"{path} is not in QPIC's layout: it holds a {type(document).__name__}, not a list "
            "with one object per image"
        )
    if not document:
        raise UserError(f"{path} has no images")
    object_labels = {number: label for label, number in enumerate(classes.object_ids)}
    verb_labels = {number: label for label, number in enumerate(classes.verb_ids)}
    records = []
    for image_id, entry in enumerate(document):
        if problem := image_problem(entry, object_labels, verb_labels):
            raise UserError(f"{image_name(path, image_id, entry)}: {problem}")
        records.append(
            {
                "file_name": entry["file_name"],
                "image_id": image_id,
                **{side: entry[side] for side in ("height", "width") if side in entry},
                "boxes_xyxy": [box["bbox"] for box in entry["annotations"]],
                "labels": [object_labels[box["category_id"]] for box in entry["annotations"]],
                "hois": [
                    (hoi["subject_id"], hoi["object_id"], verb_labels[hoi["category_id"]])
                    for hoi in entry["hoi_annotation"]
                ],
            }
        )
    return records


def image_name(path: Path, image_id: int, entry: Any) -> str:
    """How errors name an entry of a file."""
    name = entry.get("file_name") if isinstance(entry, dict) else None
    return f"{path}: image [{image_id}]" + (f" {shown(name)}" if isinstance(name, str) else "")


def image_problem(
    entry: Any, object_labels: dict[int, int], verb_labels: dict[int, int]
) -> str | None:
    """What is wrong with one image's entry, or None.

    Args:
        entry: what the file has for the image.
        object_labels: keyed by the category ids there are.
        verb_labels: keyed by the verb ids there are.
    """
    if not isinstance(entry, dict):
        return f"is not an object but {shown(entry)}"
    if not is_text(entry.get("file_name")):
        return "has no text file_name"
    if ("height" in entry) != ("width" in entry):
        return "has only one of height and width"
    for side in ("height", "width"):
        if side in entry and (not is_integer(entry[side]) or entry[side] < 1):
            return f"has {side} {shown(entry[side])}, which is not a whole number of pixels"
    for section in ("annotations", "hoi_annotation"):
        if not isinstance(entry.get(section), list):
            return f"has no list {section!r}"
    for number, box in enumerate(entry["annotations"]):
        if problem := box_problem(box, object_labels):
            return f"annotations[{number}] {problem}"
    for number, hoi in enumerate(entry["hoi_annotation"]):
        if problem := hoi_problem(hoi, len(entry["annotations"]), verb_labels):
            return f"hoi_annotation[{number}] {problem}"
    return None


def box_problem(box: Any, object_labels: dict[int, int]) -> str | None:
    """What is wrong with one of ``annotations``, or None."""
    if not isinstance(box, dict) or "bbox" not in box or "category_id" not in box:
        return f"is not an object with bbox and category_id but {shown(box)}"
    bbox = box["bbox"]
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(map(is_coordinate, bbox))):
        return f"has bbox {shown(bbox)}, which is not [x1, y1, x2, y2] in pixels"
    if not is_integer(box["category_id"]) or box["category_id"] not in object_labels:
        return (
            f"has unknown category_id {shown(box['category_id'])}; the objects of the set have "
            f"{listed(set(object_labels))}"
        )
    return None


def hoi_problem(hoi: Any, num_boxes: int, verb_labels: dict[int, int]) -> str | None:
    """What is wrong with one of ``hoi_annotation`` in an image of so many boxes, or None."""
    if not isinstance(hoi, dict):
        return f"is not an object but {shown(hoi)}"
    for role, least in (("subject_id", 0), ("object_id", NO_OBJECT)):
        index = hoi.get(role)
        if not is_integer(index) or not least <= index < num_boxes:
            allowed = "an index of one of" if least == 0 else "-1 or an index of one of"
            return (
                f"has {role} {shown(index)}, which is not {allowed} the image's {num_boxes} boxes"
            )
    verb = hoi.get("category_id")
    if not is_integer(verb) or verb not in verb_labels:
        return f"has unknown category_id {shown(verb)}; the verbs of the set have " + listed(
            set(verb_labels)
        )
    return None

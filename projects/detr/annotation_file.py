"""A COCO annotation file for detection: reading and checking it."""

import os
from pathlib import Path
from typing import Any

from dropkey_core.engine import UserError, dataset_path
from dropkey_core.engine.errors import shown
from dropkey_core.engine.files.json_file import read_json
from dropkey_core.engine.paths import DATASETS_VARIABLE, datasets_root

# What must be there for the set to be used, and its type.
FIELDS: dict[str, dict[str, type]] = {
    "categories": {"id": int, "name": str},
    "images": {"id": int, "file_name": str, "height": int, "width": int},
    "annotations": {"id": int, "image_id": int, "category_id": int, "bbox": list},
}

ANNOTATION_SETTINGS = "dataset.train.annotations or dataset.test.annotations"
HOW_TO_GET_COCO = (
    "to get COCO: python datasets/prepare_coco.py; "
    "to get a small set: python datasets/make_shapes.py"
)


def read_annotation_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and check a COCO annotation file, without its segmentations.

    Args:
        path: relative to the dataset root, or absolute.

    Returns:
        The document: lists of dicts ``categories``, ``images`` and ``annotations``, which have all
        of ``FIELDS``, ids that occur once, and references that lead somewhere. Boxes
        [x, y, width, height] are four numbers, but may be empty, not finite or out of the image.

    Raises:
        UserError: the file is missing, is not JSON, or is not what COCO's format asks for.
    """
    path = dataset_path(path)
    document = parse(path)
    check_sections(document, path)
    check_references(document, path)
    return document


def parse(
    path: Path,
    how_to_get_it: str = HOW_TO_GET_COCO,
    kind: str = "annotation file",
    settings: str = ANNOTATION_SETTINGS,
) -> Any:
    """Parse a JSON file without segmentations, which are nine tenths of COCO's files.

    Args:
        path: the file.
        how_to_get_it: what to do where there is no such file.
        kind: what the error calls it.
        settings: which settings of a config name it.

    Raises:
        UserError: the file is missing, or not one that ``read_json`` takes.
    """
    if not path.exists():
        raise UserError(
            f"{kind} not found: {path} (set by {settings}, {where_data_lies(how_to_get_it)}"
        )
    # Dropped object by object while parsing, so that they never fill the memory.
    return read_json(path, without="segmentation")


def where_data_lies(how_to_get_it: str = HOW_TO_GET_COCO) -> str:
    """What somebody needs to know who has not got the data; ends a parenthesis."""
    return f"relative to {DATASETS_VARIABLE}, now {datasets_root()}); {how_to_get_it}"


def check_sections(document: Any, path: Path) -> None:
    """Raise UserError unless the three lists are there, sound entry by entry."""
    if not isinstance(document, dict):
        raise UserError(
            f"{path} is not in COCO format: it holds a {type(document).__name__}, not an object "
            f"with {', '.join(FIELDS)}"
        )
    for section, fields in FIELDS.items():
        entries = document.get(section)
        if not isinstance(entries, list):
            raise UserError(f"{path} is not in COCO format: it has no list {section!r}")
        for number, entry in enumerate(entries):
            if problem := entry_problem(entry, fields):
                raise UserError(f"{path}: {section}[{number}] {problem}")
        check_unique([entry["id"] for entry in entries], f"{path}: {section}")
    for section in ("categories", "images"):
        if not document[section]:
            raise UserError(f"{path} has no {section}")


def entry_problem(entry: Any, fields: dict[str, type]) -> str | None:
    """What is wrong with one entry of a section, or None."""
    if not isinstance(entry, dict):
        return f"is not an object but {shown(entry)}"
    for name, kind in fields.items():
        if name not in entry:
            return f"has no {name!r}"
        if not isinstance(entry[name], kind) or entry[name] is True or entry[name] is False:
            return f"has {name} {shown(entry[name])}, which is not of type {kind.__name__}"
        if kind is int and not is_moderate(entry[name]):
            return f"has {name} {shown(entry[name])}, which is beyond 2^53"
        if kind is str and not is_encodable(entry[name]):
            return f"has {name} {shown(entry[name])}, which is no text in UTF-8"
    if "height" in fields and min(entry["height"], entry["width"]) < 1:
        return f"has height {entry['height']} and width {entry['width']}, both must be at least 1"
    if "bbox" in fields:
        return annotation_problem(entry)
    return None


def annotation_problem(annotation: dict[str, Any]) -> str | None:
    """What is wrong with the values of an annotation that has all its fields, or None."""
    bbox = annotation["bbox"]
    if len(bbox) != 4 or not all(map(is_coordinate, bbox)):
        return f"has bbox {shown(bbox)}, which is not [x, y, width, height] in pixels"
    if annotation.get("iscrowd", 0) not in (0, 1):
        return f"has iscrowd {shown(annotation['iscrowd'])}, allowed are 0 and 1"
    return None


def is_coordinate(value: Any) -> bool:
    """Whether a value from JSON is a number that a float can hold, not finite ones included."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and (isinstance(value, float) or is_moderate(value))


def is_moderate(number: int) -> bool:
    """Whether a whole number is the same in JSON, in a float and in 64 bits."""
    return -(2**53) <= number <= 2**53


def is_encodable(text: str) -> bool:
    """Whether a text from JSON, which knows halves of characters, can be printed and written."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_unique(ids: list[int], where: str) -> None:
    """Raise UserError if an id occurs twice."""
    seen: set[int] = set()
    for number in ids:
        if number in seen:
            raise UserError(f"{where} has id {number} twice")
        seen.add(number)


def check_references(document: dict[str, Any], path: Path) -> None:
    """Raise UserError if an annotation names an image or a category that is not in the file."""
    for kind, section in (("image", "images"), ("category", "categories")):
        known = {entry["id"] for entry in document[section]}
        for annotation in document["annotations"]:
            number = annotation[f"{kind}_id"]
            if number not in known:
                raise UserError(
                    f"{path}: annotation {annotation['id']} has unknown {kind}_id {number}; the "
                    f"file's {section} have {listed(known)}"
                )


def listed(ids: set[int]) -> str:
    """A dozen ids in full, more of them as a range."""
    if len(ids) <= 12:
        return f"ids {', '.join(map(str, sorted(ids)))}"
    return f"{len(ids)} ids from {min(ids)} to {max(ids)}"

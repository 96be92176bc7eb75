"""The schema of annotation files, checked by msgspec while a file is parsed; COCO's for detection.

Numbers and texts mean the same in all annotation files: of COCO, of interactions, of classes.
"""

import os
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeVar

from msgspec import Meta, Struct

from dropkey_core.engine import UserError, dataset_path
from dropkey_core.engine.errors import listed
from dropkey_core.engine.files.json_file import Text, read_json
from dropkey_core.engine.paths import DATASETS_VARIABLE, datasets_root

T = TypeVar("T")

# Up to 2^53 a whole number is the same in JSON, in a float and in 64 bits.
Integer = Annotated[int, Meta(ge=-(2**53), le=2**53)]
Pixels = Annotated[int, Meta(ge=0, le=2**53)]  # 0 is what some tools write for "not known"
Box = Annotated[list[Integer | float], Meta(min_length=4, max_length=4)]  # as the file writes it
# COCO's 0 and 1; some tools write them as false and true or as 0.0 and 1.0.
Flag = bool | Annotated[float, Meta(ge=0, le=1, multiple_of=1)]

ANNOTATION_SETTINGS = "dataset.train.annotations or dataset.test.annotations"
HOW_TO_GET_COCO = (
    "to get COCO: python datasets/prepare_coco.py; BCCD: python datasets/prepare_bccd.py; "
    "a generated set: python datasets/make_shapes.py"
)
# By the suffix of what other tools write: whose it is, and which script reads it.
OTHER_LAYOUTS = {
    ".xml": ("PASCAL VOC's", "convert_voc.py"),
    ".txt": ("YOLO's", "convert_yolo.py"),
    ".yaml": ("YOLO's", "convert_yolo.py"),
}


class Category(Struct, frozen=True, gc=False):
    """A class: the number that a file uses for it, and its name."""

    id: Integer
    name: Text


class Image(Struct, frozen=True, gc=False):
    """An image: its name below the folder of images; its sides in pixels, where the file knows."""

    id: Integer
    file_name: Text
    height: Pixels | None = None
    width: Pixels | None = None


class Annotation(Struct, frozen=True, gc=False):
    """An object: ``bbox`` [x, y, width, height] in pixels; may be empty, not finite, out of it.

    ``area`` may be anything: what is no positive number is not used. Nobody asks for its ``id``.
    """

    image_id: Integer
    category_id: Integer
    bbox: Box
    iscrowd: Flag = False
    area: Any = None


class CocoCategories(Struct, frozen=True, gc=False):
    """What a COCO annotation file says of its classes; the rest is skipped, in a second."""

    categories: Annotated[list[Category], Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Raise ValueError for an id that is there twice."""
        check_unique("categories", "id", [category.id for category in self.categories])


class CocoFile(CocoCategories, frozen=True, gc=False):
    """A COCO annotation file: ids occur once, references lead somewhere; other keys are skipped.

    Files for tests whose truth is kept secret have no ``annotations``.
    """

    images: Annotated[list[Image], Meta(min_length=1)]
    annotations: list[Annotation] = []

    def __post_init__(self) -> None:
        """Raise ValueError for an id that is there twice or leads nowhere."""
        super().__post_init__()
        check_unique("images", "id", [image.id for image in self.images])
        for key, entries in (("image_id", self.images), ("category_id", self.categories)):
            known = {entry.id for entry in entries}
            for place, annotation in enumerate(self.annotations):
                if (number := getattr(annotation, key)) not in known:
                    raise ValueError(
                        f"annotations[{place}] has unknown {key} {number}; the file has ids "
                        f"{listed(sorted(known))}"
                    )


def read_annotation_file(path: str | os.PathLike[str]) -> CocoFile:
    """Read and check a COCO annotation file, its path relative to the dataset root or absolute.

    Raises:
        UserError: the file is missing, is not JSON, or is not what COCO's format asks for.
    """
    return read_typed_json(dataset_path(path), CocoFile)


def read_typed_json(
    path: Path,
    kind: type[T],
    how_to_get_it: str = HOW_TO_GET_COCO,
    noun: str = "annotation file",
    settings: str = ANNOTATION_SETTINGS,
) -> T:
    """Parse a JSON file as ``read_json`` does; one that did not change is not parsed again.

    Args:
        path: the file.
        kind: a msgspec type, what it must hold.
        how_to_get_it: what to do where there is no such file.
        noun: what the error calls it.
        settings: which settings of a config name it.

    Raises:
        UserError: the file is missing or of another tool, or see ``read_json``.
    """
    if not path.exists():
        raise UserError(
            f"{noun} not found: {path} (set by {settings}, {where_data_lies(how_to_get_it)}"
        )
    status = path.stat()
    try:
        return _read_typed_json(path, kind, status.st_mtime_ns, status.st_size)
    except UserError:
        refuse_other_layouts(path, noun)
        raise


@lru_cache(maxsize=6)  # two sets, their categories and their classes
def _read_typed_json(path: Path, kind: Any, modified: int, size: int) -> Any:
    return read_json(path, kind)


def refuse_other_layouts(path: Path, noun: str) -> None:
    """Raise UserError for what YOLO's and VOC's tools write, with the script that converts it."""
    near = [path] if path.is_file() else [path, *islice(path.iterdir(), 100)]
    inside = [each for place in near if place.is_dir() for each in islice(place.iterdir(), 100)]
    for suffix, (whose, script) in OTHER_LAYOUTS.items():
        if any(each.suffix.lower() == suffix for each in [*near, *inside]):
            raise UserError(
                f"{path} is {whose}, which is not read here: python datasets/{script} --help says "
                f"how to make the {noun} of it"
            )


def where_data_lies(how_to_get_it: str = HOW_TO_GET_COCO) -> str:
    """What somebody needs to know who has not got the data; ends a parenthesis."""
    return f"relative to {DATASETS_VARIABLE}, now {datasets_root()}); {how_to_get_it}"


def check_unique(section: str, key: str, values: Iterable[Any]) -> None:
    """Raise ValueError if a value of a section's entries occurs twice."""
    value, times = Counter(values).most_common(1)[0] if values else (None, 0)
    if times > 1:
        raise ValueError(f"{section} has {key} {value!r} {times} times")

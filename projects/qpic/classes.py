"""What a set's classes are called and which of them go together: its ``classes.json``."""

import os
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dropkey_core.engine import UserError, dataset_path
from dropkey_core.engine.errors import shown
from projects.detr.annotation_file import is_encodable, is_moderate, parse

HOW_TO_GET_IT = (
    "to get HICO-DET: python datasets/prepare_hico_det.py; "
    "to get a small set: python datasets/make_interactions.py"
)


@dataclass(frozen=True)
class InteractionClasses:
    """Objects, verbs, and which of them occur together.

    Class indices are positions: object c of ``object_names``, verb v of ``verb_names``.

    Attributes:
        object_names: C names, one of them "person".
        object_ids: the numbers that annotation files use for them.
        verb_names: V names.
        verb_ids: the numbers that annotation files use for them.
        triplets: (object, verb) class indices of the combinations there are, in the set's order
            (600 in HICO-DET).
        rare_triplets: those with fewer than ten training instances.
    """

    object_names: tuple[str, ...]
    object_ids: tuple[int, ...]
    verb_names: tuple[str, ...]
    verb_ids: tuple[int, ...]
    triplets: tuple[tuple[int, int], ...]
    rare_triplets: tuple[tuple[int, int], ...]

    @property
    def person(self) -> int:
        """Object class index of the subjects."""
        return self.object_names.index("person")

    @property
    def non_rare_triplets(self) -> tuple[tuple[int, int], ...]:
        """(object, verb) that are not rare."""
        rare = set(self.rare_triplets)
        return tuple(triplet for triplet in self.triplets if triplet not in rare)

    def validity(self) -> np.ndarray:
        """Which verb goes with which object: (V, C) bool, True where it does."""
        valid = np.zeros((len(self.verb_names), len(self.object_names)), dtype=bool)
        for object_label, verb in self.triplets:
            valid[verb, object_label] = True
        return valid


def read_classes(path: str | os.PathLike[str]) -> InteractionClasses:
    """Read and check a ``classes.json``; datasets/README.md says what it holds.

    Args:
        path: relative to the dataset root, or absolute.

    Raises:
        UserError: the file is missing, is not JSON, or something in it is missing or wrong.
    """
    path = dataset_path(path)
    return _read_classes(path, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=16)
def _read_classes(
    path: Path, modified: int
) -> InteractionClasses:  # ``modified``: a file written anew is read anew
    document = parse(path, HOW_TO_GET_IT, "file of classes", "dataset.classes")
    if not isinstance(document, dict):
        raise UserError(f"{path} holds no classes but a {type(document).__name__}")
    object_ids, object_names = names_of(document, "objects", path)
    verb_ids, verb_names = names_of(document, "verbs", path)
    if "person" not in object_names:
        raise UserError(f'{path}: none of the objects is called "person"')
    sizes = (len(object_names), len(verb_names))
    triplets = triplets_of(document, "triplets", sizes, path)
    rare_triplets = triplets_of(document, "rare_triplets", sizes, path)
    for triplet in rare_triplets:
        if triplet not in triplets:
            raise UserError(f"{path}: {list(triplet)} of rare_triplets is not among the triplets")
    return InteractionClasses(
        object_names, object_ids, verb_names, verb_ids, triplets, rare_triplets
    )


def names_of(
    document: dict[str, Any], section: str, path: Path
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Ids and names of ``objects`` or ``verbs``; raises UserError unless they are sound."""
    entries = document.get(section)
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path} has no list {section!r}")
    for number, entry in enumerate(entries):
        if not (
            isinstance(entry, dict) and is_integer(entry.get("id")) and is_text(entry.get("name"))
        ):
            raise UserError(
                f"{path}: {section}[{number}] is {shown(entry)}, not an object with a whole number "
                "id and a text name"
            )
    for key in ("id", "name"):
        value, times = Counter(entry[key] for entry in entries).most_common(1)[0]
        if times > 1:
            raise UserError(f"{path}: {section} has {key} {value!r} {times} times")
    return tuple(entry["id"] for entry in entries), tuple(entry["name"] for entry in entries)


def triplets_of(
    document: dict[str, Any], section: str, sizes: tuple[int, int], path: Path
) -> tuple[tuple[int, int], ...]:
    """(object, verb) class indices; raises UserError unless they are of classes there are."""
    entries = document.get(section)
    if not isinstance(entries, list):
        raise UserError(f"{path} has no list {section!r}")
    for number, entry in enumerate(entries):
        if not (
            isinstance(entry, list)
            and len(entry) == 2
            and all(is_integer(n) and 0 <= n < size for n, size in zip(entry, sizes, strict=True))
        ):
            raise UserError(
                f"{path}: {section}[{number}] is {shown(entry)}, not [object, verb] with an object "
                f"below {sizes[0]} and a verb below {sizes[1]}"
            )
    if len({tuple(entry) for entry in entries}) < len(entries):
        raise UserError(f"{path}: {section} has an entry twice")
    return tuple((object_label, verb) for object_label, verb in entries)


def is_integer(value: Any) -> bool:
    """Whether a value from JSON is a whole number up to 2^53; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool) and is_moderate(value)


def is_text(value: Any) -> bool:
    """Whether a value from JSON is a text that can be printed and written."""
    return isinstance(value, str) and is_encodable(value)


def num_object_classes(classes: str | os.PathLike[str]) -> int:
    """Size of the object head (without "no object") that a ``classes.json`` asks for.

    Raises:
        UserError: see ``read_classes``.
    """
    return len(read_classes(classes).object_names)


def num_verb_classes(classes: str | os.PathLike[str]) -> int:
    """Size of the verb head that a ``classes.json`` asks for.

    Raises:
        UserError: see ``read_classes``.
    """
    return len(read_classes(classes).verb_names)

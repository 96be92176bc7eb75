"""JSON files from outside, in bounded memory: parsed makes up to a hundred times as much of them.

A file is looked at before it is parsed: by its size, and by how many lists, objects and values its
brackets, commas and quotes stand for. COCO's largest file has 470 MB, 4 million lists and objects
and 80 million commas and quotes.
"""

import gc
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dropkey_core.engine.errors import UserError, shown
from dropkey_core.engine.files.outside import read_file

LARGEST_VARIABLE = "DROPKEY_LARGEST_JSON"
LARGEST_FILE = 2**30  # bytes
# Of a file of that size, and of smaller ones: no annotations are as dense as the densest nonsense.
BYTES_PER_CONTAINER = 64
BYTES_PER_VALUE = 8
_PART = 2**18  # bytes that are counted at once, within the processor's cache


def read_json(path: Path, without: str | None = None) -> Any:
    """Parse a JSON file in UTF-8, with or without a mark of byte order.

    Args:
        path: the file. It may have 1 GiB, or as many bytes as ``DROPKEY_LARGEST_JSON`` says.
        without: what is left out of each object that has it, as soon as it is parsed.

    Raises:
        UserError: the file is missing or none, too large, not text, not JSON, has too many lists
            and objects or values, lists within lists beyond Python's depth, or two values of one
            name in an object.
    """
    largest = largest_file()
    content = read_file(path, largest, f"set {LARGEST_VARIABLE} to more")
    check_density(content, path, largest)
    try:
        text = content.decode("utf-8-sig")
        del content
        with no_collection():
            return json.loads(text, object_pairs_hook=object_maker(without, path))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file in UTF-8: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path} is not valid JSON here: lists within lists, too deep") from error
    except ValueError as error:  # Python's limit for the digits of a whole number
        raise UserError(f"{path} is not valid JSON here: a number is too long") from error


def largest_file() -> int:
    """Return how many bytes a file may have.

    Raises:
        UserError: the environment variable is no number of bytes.
    """
    chosen = os.environ.get(LARGEST_VARIABLE, "")
    if chosen and not (chosen.isascii() and chosen.isdecimal() and len(chosen) < 16):
        raise UserError(f"{LARGEST_VARIABLE} must be a number of bytes, got {chosen[:40]!r}")
    return int(chosen) if chosen else LARGEST_FILE


@contextmanager
def no_collection() -> Iterator[None]:
    """Spare the search for cycles among millions of new objects, of which a parser makes none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def object_maker(without: str | None, path: Path) -> Callable[[list[tuple[str, Any]]], Any]:
    """Return what makes a dict of an object's pairs; it refuses a name that is there twice."""

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
            raise UserError(f"{path} is not valid JSON here: an object has {shown(twice)} twice")
        if without is not None:
            found.pop(without, None)
        return found

    return made


def check_density(content: bytes, path: Path, largest: int) -> None:
    """Raise UserError if parsing would take much more memory than a set's annotations do."""
    counts = dict.fromkeys(b'[{,"', 0)
    signs = np.frombuffer(content, np.uint8)
    for start in range(0, len(signs), _PART):
        part = signs[start : start + _PART]
        for sign in counts:
            counts[sign] += int(np.count_nonzero(part == sign))
    found = {
        "lists and objects": (counts[ord("[")] + counts[ord("{")], BYTES_PER_CONTAINER),
        "commas and quotes": (counts[ord(",")] + counts[ord('"')], BYTES_PER_VALUE),
    }
    for what, (count, size) in found.items():
        if count > largest // size:
            raise UserError(
                f"{path} has {count:,} {what}, {largest // size:,} are allowed: if this is a set "
                f"of annotations, set {LARGEST_VARIABLE} to more, now {largest:,}"
            )

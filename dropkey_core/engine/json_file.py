"""JSON files from outside, in bounded memory: parsed makes up to a hundred times as much of them.

A file is looked at before it is parsed: by its size, and by how many lists, objects and values its
brackets, commas and quotes stand for. COCO's largest file has 470 MB, 4 million lists and objects
and 80 million commas and quotes.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.outside_file import read_file

LARGEST_VARIABLE = "DROPKEY_LARGEST_JSON"
LARGEST_FILE = 2**30  # bytes
# Of a file of that size, and of smaller ones: no annotations are as dense as the densest nonsense.
BYTES_PER_CONTAINER = 64
BYTES_PER_VALUE = 8


def read_json(path: Path, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Parse a JSON file in UTF-8, with or without a mark of byte order.

    Args:
        path: the file. It may have 1 GiB, or as many bytes as ``DROPKEY_LARGEST_JSON`` says.
        object_hook: gets each object as a dict as it is parsed; its result takes the dict's place.

    Raises:
        UserError: the file is missing or none, too large, not text, not JSON, has too many lists
            and objects or values, or lists within lists beyond Python's depth.
    """
    largest = largest_file()
    content = read_file(path, largest, f"set {LARGEST_VARIABLE} to more")
    check_density(content, path, largest)
    try:
        text = content.decode("utf-8-sig")
        del content
        return json.loads(text, object_hook=object_hook)
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


def check_density(content: bytes, path: Path, largest: int) -> None:
    """Raise UserError if parsing would take much more memory than a set's annotations do."""
    counts = {
        "lists and objects": (content.count(b"[") + content.count(b"{"), BYTES_PER_CONTAINER),
        "commas and quotes": (content.count(b",") + content.count(b'"'), BYTES_PER_VALUE),
    }
    for what, (count, size) in counts.items():
        if count > largest // size:
            raise UserError(
                f"{path} has {count:,} {what}, {largest // size:,} are allowed: if this is a set "
                f"of annotations, set {LARGEST_VARIABLE} to more, now {largest:,}"
            )

"""Reading JSON files, typed: msgspec checks a document against a type while it parses it."""

import json
from pathlib import Path
from typing import Any

import msgspec

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.outside import read_text, reading

LARGEST_FILE = 2**33  # bytes; the largest sets of annotations have a few gigabytes


def read_json(path: Path, type: Any = Any) -> Any:
    """Parse a JSON file in UTF-8, with or without a byte order mark.

    Args:
        path: the file.
        type: what it must hold, as msgspec knows types; what a type does not have is skipped while
            parsing. Lists, dicts and plain values for ``Any``.

    Raises:
        UserError: the file is missing or none, far too large, not text, not JSON, or holds
            something else than ``type``, with its place in the document.
    """
    text = read_text(path, LARGEST_FILE)
    with reading(path, "JSON"):
        try:
            return msgspec.json.decode(text, type=type)
        except msgspec.ValidationError as error:
            raise UserError(f"{path}: {error}") from error
        except (ValueError, RecursionError):  # not JSON, or NaN and infinity, which Python takes
            document = json.loads(text)
    try:
        return msgspec.convert(document, type)
    except ValueError as error:  # UnicodeEncodeError, too, for halves of characters
        raise UserError(f"{path}: {error}") from error

"""Reading JSON files, typed: msgspec checks a document against a type while it parses it."""

import json
import logging
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, inspect

from dropkey_core.engine.errors import UserError, listed, shown
from dropkey_core.engine.files.outside import read_text, reading

logger = logging.getLogger(__name__)

LARGEST_FILE = 2**33  # bytes; the largest sets of annotations have a few gigabytes
# Neither NUL nor halves of characters: a text that can be printed, and be the name of a file.
Text = Annotated[str, Meta(pattern=r"^[^\0\ud800-\udfff]*$")]
NUMBER = re.compile(r"\s*[+-]?\d{1,17}(\.\d{0,17})?([eE][+-]?\d{1,2})?\s*", re.ASCII)


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
        except (ValueError, RecursionError):  # another type, or NaN and infinity, or no JSON
            document = json.loads(text)
    try:
        return as_typed(document, type, path)
    except ValueError as error:  # UnicodeEncodeError, too, for halves of characters
        raise UserError(f"{path}: {error}") from error


def as_typed(document: Any, type: Any, source: Path) -> Any:
    """Convert plain values to a type; one warning counts what was not written as the type asks.

    Numbers may be text (``"18\\n"``), whole numbers have a point (``18.0``), texts be numbers, and
    null may stand where nothing has to: each can be meant in one way only.

    Raises:
        ValueError: something is of another type all the same, with its place in the document.
    """
    with suppress(ValueError):
        return msgspec.convert(document, type)
    taken: dict[str, list[Any]] = {}
    found = msgspec.convert(as_meant(document, inspect.type_info(type), "", taken), type)
    if taken:
        kinds = (f"{count} times {name} ({shown(first)})" for name, (count, first) in taken.items())
        logger.warning(f"{source}: read as what it can only mean: {listed(kinds)}")
    return found


def as_meant(value: Any, kind: inspect.Type, name: str, taken: dict[str, list[Any]]) -> Any:
    """What a plain value can only mean where a type is asked for, or itself where that is open.

    Args:
        value: of a document.
        kind: the type, as msgspec describes it.
        name: of the field that the value belongs to.
        taken: gets for each name how many values were mended, and the first of them.
    """
    if isinstance(value, dict) and isinstance(kind, inspect.StructType):
        fields = {field.encode_name: field for field in kind.fields}
        return {
            key: as_meant(part, fields[key].type, key, taken)
            for key, part in value.items()
            if key in fields and not is_unsaid(part, fields[key], taken)
        }
    if isinstance(value, list) and isinstance(kind, inspect.ListType | inspect.VarTupleType):
        return [as_meant(part, kind.item_type, name, taken) for part in value]
    if isinstance(value, list) and isinstance(kind, inspect.TupleType):
        return [as_meant(*pair, name, taken) for pair in zip(value, kind.item_types, strict=True)]
    if isinstance(value, list | dict) and isinstance(kind, inspect.UnionType):  # with None
        return as_meant(value, kind.types[0], name, taken)
    meant = scalar(value, {each.__class__ for each in getattr(kind, "types", (kind,))})
    if meant is not value:
        taken.setdefault(name, [0, value])[0] += 1
    return meant


def is_unsaid(value: Any, field: inspect.Field, taken: dict[str, list[Any]]) -> bool:
    """Whether a null stands where nothing has to stand, and no null may."""
    kinds = getattr(field.type, "types", (field.type,))
    unsaid = value is None and not field.required
    unsaid &= not any(isinstance(kind, inspect.NoneType | inspect.AnyType) for kind in kinds)
    if unsaid:
        taken.setdefault(field.encode_name, [0, value])[0] += 1
    return unsaid


def scalar(value: Any, kinds: set[Any]) -> Any:
    """A single value as what it can only mean among some kinds, or itself."""
    if inspect.StrType in kinds:
        return str(value) if value.__class__ is int else value
    if not kinds & {inspect.IntType, inspect.FloatType}:
        return value
    number = value
    if isinstance(value, str) and NUMBER.fullmatch(value):
        number = float(value) if re.search("[.eE]", value) else int(value)
    is_whole = isinstance(number, float) and number.is_integer()
    return int(number) if is_whole and inspect.FloatType not in kinds else number

"""Checkpoint files from anywhere: tensors and plain values, no more of them than the file holds.

Nothing in them is run. Beside code, such a file may hold archives that unpack to a thousand times
their size, and tensors whose shape claims more elements than are stored.
"""

import argparse
import pickle
import re
import zipfile
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from dropkey_core.engine.errors import UserError, said_by, shown
from dropkey_core.engine.files.outside import MEGABYTE, check_file
from dropkey_core.engine.files.pickle_cost import excess

LARGEST_FILE = 2**36  # bytes
# What the tensors of a file may take when each is copied: tied weights are stored once, and small
# ones may be expanded.
MOST_TIMES_STORED = 8
ALWAYS_ALLOWED = 64 * MEGABYTE

# Beside tensors and plain values: the official DETR and QPIC keep their command line in a file.
_INERT: list[Any] = [argparse.Namespace]
_LEGACY_PICKLES = 5  # one after the other in torch's format before zip archives
_HEAD = 16 * MEGABYTE  # where names are looked for that a refused file asks for
# How a pickle names a function or class, up to its protocol 3 and since.
_NAMES = re.compile(
    rb"c([A-Za-z_][\w.]*)\n([A-Za-z_][\w.]*)\n"
    rb"|\x8c.([A-Za-z_][\w.]*)\x94?\x8c.([A-Za-z_][\w.]*)\x94?\x93",
    re.DOTALL,
)
_HARMLESS = ("torch", "collections", "argparse")  # modules of what is named in any checkpoint


def read_content(path: Path, source: str) -> dict[str, Any]:
    """Return the content of a checkpoint file, tensors on the CPU.

    Args:
        path: the file.
        source: what errors call it.

    Raises:
        UserError: it is no file, is damaged, holds anything but tensors and plain values (what it
            asks for is named), is compressed, has keys that take years to hash, or tensors far
            larger than the file.
    """
    size = check_file(path, LARGEST_FILE)
    if reason := archive_problem(path, size) or pickle_problem(path):
        raise UserError(f"{source} is refused: {reason}")
    try:
        with torch.serialization.safe_globals(_INERT):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = asked_for(path)
        what = f"asks to run {asked!r}" if asked else "is damaged or holds other things"
        raise UserError(
            f"{source} is refused: only tensors and plain values are loaded, and it {what}"
        ) from error
    except MemoryError as error:
        raise UserError(f"{source} cannot be read: it needs more memory than there is") from error
    except Exception as error:  # nothing but the bytes of the file can be the cause
        asked = asked_for(path)
        if asked:
            reason = f"it is in a format of torch that can run code, and asks to run {asked!r}"
        else:
            reason = said_by(error)
        raise UserError(f"cannot read {source}: {reason}") from error
    if not isinstance(content, dict):
        raise UserError(f"{source} must hold a dict, not a {type(content).__name__}")
    if reason := tensor_problem(content):
        raise UserError(f"{source} is refused: {reason}")
    return content


def archive_problem(path: Path, size: int) -> str | None:
    """What a zip archive has that torch never writes, or None; also for what is no archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None  # another format, or damaged, as torch will find
    if any(member.filename.endswith("/constants.pkl") for member in members):
        return "it is a TorchScript archive, a program; save the state_dict() of the model instead"
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED:
            return f"{shown(member.filename)} in it is compressed, which torch never does"
    unpacked = sum(member.file_size for member in members)
    if unpacked > size:
        return f"its parts claim {unpacked:,} bytes, the file has {size:,}"
    return None


def pickle_problem(path: Path) -> str | None:
    """What is wrong with the pickles of a file, whatever its format, or None."""
    try:
        if not zipfile.is_zipfile(path):
            # A map has no more bytes than the file, which takes memory for as many as it is asked.
            with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as mapped:
                content = cast("IO[bytes]", mapped)
                found = [excess(content) for _ in range(_LEGACY_PICKLES)]
        else:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith(".pkl")]
                found = [excess(archive.open(name)) for name in names]
    except Exception as error:  # zipfile has many; only the bytes can be the cause
        return f"it is damaged ({said_by(error)})"
    return next((f"it has {what}" for what in found if what), None)


def asked_for(path: Path) -> str | None:
    """The first name of a function or class in a file that no checkpoint has a use for, if any."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    for match in _NAMES.finditer(head):
        module, name = (part.decode() for part in match.groups() if part is not None)
        if module.split(".")[0] not in _HARMLESS:
            return f"{module}.{name}"[:100]
    return None


def tensor_problem(content: dict[str, Any]) -> str | None:
    """What is wrong with the tensors in a nest of dicts and lists, or None."""
    stored: dict[int, int] = {}
    claimed = 0
    seen: set[int] = set()
    waiting: list[tuple[Any, Any]] = [("", content)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Tensor):
            if value.layout is not torch.strided or value.device.type != "cpu":
                return f"{shown(name)} is no dense tensor"
            storage = value.untyped_storage()
            stored[storage.data_ptr()] = storage.nbytes()
            claimed += value.numel() * value.element_size()
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            inside = value.items() if isinstance(value, dict) else ((name, v) for v in value)
            waiting.extend(inside)
    if claimed > ALWAYS_ALLOWED + MOST_TIMES_STORED * sum(stored.values()):
        return (
            f"its tensors claim {claimed:,} bytes, but {sum(stored.values()):,} are stored: "
            "their shapes are made up"
        )
    return None

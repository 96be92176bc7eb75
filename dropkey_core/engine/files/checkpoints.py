"""Reading checkpoint files safely: weights_only, with limits on what a small file may cost.

Nothing in a file is run. Beside code, a checkpoint from anywhere may hold an archive that unpacks
to a thousand times its size, tensors whose shape claims more elements than are stored, and a pickle
that takes years to read.
"""

import argparse
import io
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.outside import MEGABYTE, check_file, reading

LARGEST_FILE = 2**36  # bytes
# What the tensors of a file may take when each is copied: tied weights are stored once, and small
# ones may be expanded.
MOST_TIMES_STORED = 8
ALWAYS_ALLOWED = 64 * MEGABYTE
MOST_HASHED = 10**7  # values, which take a second; sound files ask for the hashes of thousands
LONGEST_NAME = 1000  # characters, of a class or function with its module

# Beside tensors and plain values: the official DETR and QPIC keep their command line in a file.
_INERT: list[Any] = [argparse.Namespace]
# Opcodes that put values into one that there is, that have keys, and that only gather.
_CHANGING = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD"}
_KEYED = {"SETITEM", "SETITEMS"}
_GATHERING = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS"}
_LEGACY_PICKLES = 5  # one after the other in torch's format before zip archives


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
    with reading(source, "tensors and plain values"):
        for file in pickles_of(path, size):
            check_cost(file)
        content = load(path, source)
    if not isinstance(content, dict):
        raise UserError(f"{source} must hold a dict, not a {type(content).__name__}")
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(content))
    if claimed > ALWAYS_ALLOWED + MOST_TIMES_STORED * size:
        raise UserError(
            f"{source} is refused: its tensors claim {claimed:,} bytes, the file has {size:,}"
        )
    return content


def load(path: Path, source: str) -> Any:
    """Call ``torch.load``; of a file that names a function or class, tell which.

    Raises:
        UserError: with the name.
        Exception: torch's.
    """
    try:
        with torch.serialization.safe_globals(_INERT):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = error.__context__ or error  # without torch's advice to load it all the same
        if asked := re.search(r"GLOBAL (\S+)", str(reason)):
            raise UserError(
                f"{source} is refused: only tensors and plain values are loaded, and it asks to "
                f"run {asked[1]!r}"
            ) from error
        raise reason from None


def pickles_of(path: Path, size: int) -> Iterator[IO[bytes]]:
    """Yield the pickles of a checkpoint file, each at its beginning; it must be read to its end.

    Raises:
        ValueError: it is a TorchScript archive, or a zip archive that unpacks to more than it has.
        zipfile.BadZipFile: it is damaged.
    """
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\3\4"  # as torch tells
        file.seek(0)
        if not is_zip:
            yield from [file] * _LEGACY_PICKLES
            return
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if any(member.filename.endswith("/constants.pkl") for member in members):
                raise ValueError("it is a TorchScript archive, a program; save the state_dict()")
            unpacked = sum(member.file_size for member in members)
            if unpacked > size:  # torch does not compress
                raise ValueError(f"its parts claim {unpacked:,} bytes, the file has {size:,}")
            for member in members:
                if member.filename.endswith(".pkl"):
                    yield io.BytesIO(archive.read(member))


def check_cost(file: IO[bytes]) -> None:
    """Read a pickle to its end, or to where it is unsound, as torch will find.

    Raises:
        ValueError: it takes far longer to unpickle than its size lets expect, or far more memory.
            Pairs of pairs of pairs, a hundred bytes of a pickle, take years to hash as a key: a
            tuple does not remember its hash, and it asks each of its parts every time. torch looks
            through the message with which it refuses a name in time quadratic in the name's
            length; of what it allows, a bytearray takes the memory that a number asks for.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    hashed = 0
    opcodes = pickletools.genops(file)
    while True:
        try:
            opcode, argument, _ = next(opcodes)
            hashed += hashed_by(opcode, argument, stack, memo)
        except Exception:  # its end, or it is no sound pickle
            return
        if hashed > MOST_HASHED:
            raise ValueError("it has keys of tuples within tuples, which take years to hash")
        if opcode.name == "GLOBAL" and len(str(argument)) > LONGEST_NAME:
            raise ValueError(f"it has a name of {len(str(argument)):,} characters")
        if opcode.name == "GLOBAL" and str(argument).endswith(" bytearray"):
            raise ValueError("it has a bytearray, which no checkpoint needs")


def hashed_by(
    opcode: pickletools.OpcodeInfo, argument: Any, stack: list[Any], memo: dict[int, Any]
) -> int:
    """Follow an opcode of a pickle; return how many values it may have to hash.

    Only what torch's unpickler knows is followed: that stops at any other opcode.

    Args:
        opcode: one step of the pickle.
        argument: what stands behind the opcode.
        stack: has, in place of each value, a list of one number: how many values its hash asks.
            Values that are the same object share it. None is a mark.
        memo: values by their number.
    """
    if "PUT" in opcode.name:
        memo[argument] = stack[-1]
        return 0
    if "GET" in opcode.name:
        stack.append(memo[argument])
        return 0
    if opcode.name == "MARK":
        stack.append(None)
        return 0
    wanted, taken = opcode.stack_before, []
    if pickletools.stackslice in wanted:  # back to the latest mark
        while (value := stack.pop()) is not None:
            taken.append(value)
        wanted = wanted[: wanted.index(pickletools.markobject)]
    taken += [stack.pop() for _ in wanted]
    taken.reverse()
    made = taken.pop(0) if opcode.name in _CHANGING else [1]
    if opcode.name in _KEYED:
        taken = taken[::2]
    cost = sum(value[0] for value in taken)
    made[0] = min(made[0] + cost, MOST_HASHED + 1)  # larger numbers would take long to add
    stack += [made] * len(opcode.stack_after)
    return 0 if opcode.name in _GATHERING else cost


def tensors_in(content: Any) -> Iterator[Tensor]:
    """Yield the tensors in a nest of dicts, lists and tuples."""
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value

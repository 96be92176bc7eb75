"""MATLAB files up to version 7, read by scipy after a look at what they claim to hold.

Such a file is a tree of arrays, each variable of it compressed on its own. scipy takes memory for
as many cells or structs as an array claims, and calls itself for each level of the tree.
"""

import math
import struct
import zlib
from pathlib import Path
from typing import Any

from scipy.io import loadmat

from dropkey_core.engine import UserError
from dropkey_core.engine.outside_file import MEGABYTE, read_file

LARGEST_FILE = 256 * MEGABYTE
LARGEST_UNPACKED = 1024 * MEGABYTE
DEEPEST = 30  # arrays within arrays; HICO-DET's have five

HEADER = 128  # bytes; the last four of them are version and byte order
ORDERS = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}
MATRIX, COMPRESSED = 14, 15  # kinds of elements
CELL, STRUCT, OBJECT, SPARSE, LAST_NUMERIC = 1, 2, 3, 5, 15  # classes of arrays
COMPLEX = 0x800


class Damaged(Exception):
    """A file is not what it should be; the message says what is wrong with it."""


def read_mat(path: Path, names: list[str]) -> dict[str, Any]:
    """Read variables of a file, structs as dicts; those that are not there are left out.

    Raises:
        UserError: it is missing, too large, packed or not, damaged, or of another version.
    """
    content = read_file(path, LARGEST_FILE)
    try:
        check_variables(content)
        return loadmat(path, simplify_cells=True, variable_names=names)
    except Exception as error:  # Damaged, or scipy's; only the file's bytes can be the cause
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{path} cannot be read as a MATLAB file up to version 7: {reason}"
        ) from error


def check_variables(content: bytes) -> None:
    """Raise Damaged if a variable claims more arrays than there are bytes for."""
    order = ORDERS.get(content[HEADER - 4 : HEADER])
    if order is None:
        raise Damaged("it has no such header")
    position, unpacked = HEADER, 0
    while position < len(content):
        kind, start, size = tag(content, position, order)
        position = start + size
        variable = content[start - 8 : position]
        if kind == COMPRESSED:
            inflater = zlib.decompressobj()
            variable = inflater.decompress(content[start:position], LARGEST_UNPACKED - unpacked + 1)
        unpacked += len(variable)
        if unpacked > LARGEST_UNPACKED:
            raise Damaged(f"it unpacks to more than {LARGEST_UNPACKED:,} bytes")
        check_arrays(variable, order)


def tag(data: bytes, position: int, order: str) -> tuple[int, int, int]:
    """Kind of an element, where its content starts, and how many bytes that has."""
    kind, size = struct.unpack_from(f"{order}II", data, position)
    if kind >> 16:  # a small one, within eight bytes
        return kind & 0xFFFF, position + 4, kind >> 16
    return kind, position + 8, size


def after(start: int, size: int) -> int:
    """Where the element after one that starts and ends there begins: elements fill eight bytes."""
    return (start + size + 7) // 8 * 8


def check_arrays(data: bytes, order: str) -> None:
    """Walk over the arrays of a variable as scipy does; raise Damaged as ``check_variables``."""
    position, waiting = 0, [1]  # arrays that are still to come, level by level
    while waiting:
        if not waiting[-1]:
            waiting.pop()
            continue
        waiting[-1] -= 1
        kind, position, size = tag(data, position, order)
        if kind != MATRIX:
            raise Damaged(f"it has an element of kind {kind} where an array should be")
        if not size:
            continue
        (flags,) = struct.unpack_from(f"{order}I", data, position + 8)
        _, start, size = tag(data, position + 16, order)
        sizes = struct.unpack_from(f"{order}{size // 4}i", data, start)
        position = skip(data, after(start, size), 1, order)  # the name
        count, which = math.prod(sizes), flags & 0xFF
        if which in (STRUCT, OBJECT):
            position = skip(data, position, which - STRUCT, order)  # the name of its class
            _, start, length = tag(data, position, order)
            (length,) = struct.unpack_from(f"{order}i", data, start)
            position = after(start, 4)
            _, start, size = tag(data, position, order)
            position = after(start, size)
            count *= size // max(length, 1)
        elif which != CELL:
            if not SPARSE - 1 <= which <= LAST_NUMERIC:
                raise Damaged("it holds functions or objects, not arrays only")
            elements = (3 if which == SPARSE else 1) + bool(flags & COMPLEX)
            position = skip(data, position, elements, order)
            continue
        if not 0 <= count <= (len(data) - position) // 8 or min(sizes, default=0) < 0:
            raise Damaged(f"it claims {count:,} arrays within {len(data) - position:,} bytes")
        if len(waiting) > DEEPEST:
            raise Damaged("it has arrays within arrays, too deep")
        waiting.append(count)


def skip(data: bytes, position: int, count: int, order: str) -> int:
    """Where the element after so many ones begins."""
    for _ in range(count):
        _, start, size = tag(data, position, order)
        position = after(start, size)
    return position

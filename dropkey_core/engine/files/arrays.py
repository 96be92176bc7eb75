"""Files of named arrays (.npz) with a known layout: nothing in them is unpickled."""

import math
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from dropkey_core.engine.errors import UserError, said_by
from dropkey_core.engine.files.outside import check_file

# What a file holds, by name: kind of values (f, i or U) and shape; a letter stands for any size,
# but always for the same.
Layout = Mapping[str, tuple[str, tuple[str | int, ...]]]

KINDS = {"f": "f", "i": "iu", "U": "U"}  # numpy's dtype.kind that may stand for a kind of values
KIND_NAMES = {"f": "floating point numbers", "i": "whole numbers", "U": "text"}
LARGEST_FILE = 2**32  # bytes, unpacked: a small file must not fill the memory


def read_arrays(path: Path, layout: Layout, largest: int = LARGEST_FILE) -> dict[str, np.ndarray]:
    """Those arrays of a layout that a file has.

    Args:
        path: the file.
        layout: names the arrays; :func:`layout_problem` looks at the rest of it.
        largest: how many bytes the arrays may have in all.

    Raises:
        UserError: the file is no .npz, is damaged, too large when unpacked, or one of the arrays
            holds objects, or claims a shape that its bytes do not have.
    """
    check_file(path, largest)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.filename: member for member in archive.infolist()}
            wanted = {name: members[f"{name}.npy"] for name in layout if f"{name}.npy" in members}
            size = sum(member.file_size for member in wanted.values())
            if size > largest:
                raise UserError(f"{path} unpacks to {size:,} bytes; {largest:,} are allowed")
            return {
                name: read_member(archive, member, f"{path}: {name}")
                for name, member in wanted.items()
            }
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{path} needs more memory than there is") from error
    except Exception as error:  # of zip, zlib, numpy; only the file's bytes can be the cause
        raise UserError(f"{path} cannot be read as .npz: {said_by(error)}") from error


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, source: str) -> np.ndarray:
    """One array of an archive; see :func:`read_npy`."""
    with archive.open(member) as file:
        return read_npy(file, member.file_size, source)


def read_npy(file: IO[bytes], size: int, source: str) -> np.ndarray:
    """An array of numbers or text from what a .npy file holds.

    Args:
        file: at its beginning.
        size: how many bytes it has. The array has no more of them, whatever its header says.
        source: what errors call it.

    Raises:
        UserError: it holds objects, has more or fewer bytes than its shape takes, or what is no
            text.
        Exception: numpy's, for another header.
    """
    version = npy.read_magic(file)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    shape, is_fortran, dtype = read_header[version](file)
    if dtype.hasobject:
        raise UserError(f"{source} holds objects, which could be code: only numbers are read")
    there = size - file.tell()
    count = math.prod(int(length) for length in shape)
    if count * dtype.itemsize != there or (count and not there):
        raise UserError(f"{source} has {there:,} bytes, not those of shape {shape} of {dtype}")
    raw = np.empty(there, np.uint8)
    filled = 0
    while filled < there:
        length = file.readinto(raw[filled:].data)  # type: ignore[attr-defined]
        if not length:
            raise UserError(f"{source} is cut short")
        filled += length
    array = raw.view(dtype).reshape(shape, order="F" if is_fortran else "C")
    if dtype.kind == "U" and there:
        signs = raw.view(np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if signs.max() > sys.maxunicode:
            raise UserError(f"{source} holds what is no text")
    return array


def layout_problem(arrays: Mapping[str, np.ndarray], layout: Layout) -> str | None:
    """Which array is missing, has another shape or kind of values, or is not finite; or None."""
    sizes: dict[str, int] = {}
    for name, (kind, dimensions) in layout.items():
        if name not in arrays:
            return f"it has no array {name!r}"
        array = arrays[name]
        if array.dtype.kind not in KINDS[kind]:
            return f"{name} is of {array.dtype}, not {KIND_NAMES[kind]}"
        if array.ndim == len(dimensions):
            for dimension, size in zip(dimensions, array.shape, strict=True):
                if isinstance(dimension, str):
                    sizes.setdefault(dimension, size)
        wanted = tuple(sizes.get(d, d) if isinstance(d, str) else d for d in dimensions)
        if array.shape != wanted:
            text = ", ".join(map(str, wanted)) + ("," if len(wanted) == 1 else "")
            return f"{name} has shape {array.shape}, not ({text})"
    for name, (kind, _) in layout.items():
        if kind == "f" and not np.isfinite(arrays[name]).all():
            return f"{name} holds NaN or infinity"
    return None


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file that is either there in full or not there; folders above it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    members: dict[str, Any] = dict(arrays)
    with unfinished.open("wb") as file:
        np.savez_compressed(file, **members)
    unfinished.replace(path)

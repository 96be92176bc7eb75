"""Reading and writing .npz files of named arrays with a known layout, without pickle."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, get_type_hints

import numpy as np

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.atomic_write import make_folder, whole_file
from dropkey_core.engine.files.outside import check_file, reading

# What a file holds, by name: kind of values (f, i or U) and shape; a letter stands for any size,
# but always for the same.
Layout = Mapping[str, tuple[str, tuple[str | int, ...]]]

KINDS = {"f": "f", "i": "iu", "U": "U"}  # numpy's dtype.kind that may stand for a kind of values
KIND_NAMES = {"f": "floating point numbers", "i": "whole numbers", "U": "text"}
LARGEST_FILE = 2**32  # bytes, unpacked: a small file must not fill the memory


def read_arrays(path: Path, layout: Layout, largest: int = LARGEST_FILE) -> dict[str, np.ndarray]:
    """Return those arrays of a layout that a file has.

    Args:
        path: the file.
        layout: names the arrays; :func:`layout_problem` looks at the rest of it.
        largest: how many bytes the arrays may have in all.

    Raises:
        UserError: it is no .npz, is damaged, or too large when unpacked; see :func:`read_npy`.
    """
    check_file(path, largest)
    with reading(path, ".npz"), zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        wanted = {name: members[f"{name}.npy"] for name in layout if f"{name}.npy" in members}
        size = sum(member.file_size for member in wanted.values())
        if size > largest:
            raise UserError(f"{path} unpacks to {size:,} bytes; {largest:,} are allowed")
        found = {}
        for name, member in wanted.items():
            with archive.open(member) as file:
                found[name] = read_npy(file, f"{path}: {name}")
        return found


def read_npy(file: IO[bytes], source: str) -> np.ndarray:
    """Return the array of numbers or text that a .npy file holds.

    Args:
        file: at its beginning.
        source: what errors call it.

    Raises:
        UserError: it is no .npy, is damaged, holds objects, or claims a shape of more bytes.
    """
    with reading(source, ".npy"):
        # A shape that is made up takes no memory: numpy only reserves it, and misses the bytes.
        array = np.lib.format.read_array(file, allow_pickle=False)
        if array.size and not array.itemsize:
            raise ValueError(f"no bytes for {array.size:,} values")
        return array


def layout_of(kind: type) -> Layout:
    """Return the layout of a dataclass's arrays: ``Annotated[np.ndarray, kind, shape]`` each."""
    hints = get_type_hints(kind, include_extras=True)
    return {name: hint.__metadata__ for name, hint in hints.items()}


def layout_problem(arrays: Mapping[str, np.ndarray], layout: Layout) -> str | None:
    """Say which array is missing, of another shape or kind of values, or not finite; or None."""
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
        if kind == "f" and not np.isfinite(array).all():
            return f"{name} holds NaN or infinity"
    return None


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a .npz whole or not at all, see ``whole_file``; folders above it are made."""
    members: dict[str, Any] = dict(arrays)
    make_folder(path.parent)
    with whole_file(path, "wb") as file:
        np.savez_compressed(file, **members)

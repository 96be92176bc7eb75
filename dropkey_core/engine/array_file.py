"""Files of named arrays (.npz) with a known layout: nothing in them is unpickled."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dropkey_core.engine.errors import UserError

# What a file holds, by name: kind of values (f, i or U) and shape; a letter stands for any size,
# but always for the same.
Layout = Mapping[str, tuple[str, tuple[str | int, ...]]]

KINDS = {"f": "f", "i": "iu", "U": "U"}  # numpy's dtype.kind that may stand for a kind of values
KIND_NAMES = {"f": "floating point numbers", "i": "whole numbers", "U": "text"}
LARGEST_FILE = 2**32  # bytes, unpacked: a small file must not fill the memory


def read_arrays(path: Path, layout: Layout) -> dict[str, np.ndarray]:
    """Those arrays of a layout that a file has.

    Raises:
        UserError: the file is no .npz, is damaged, or holds objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > LARGEST_FILE:
            raise UserError(f"{path} unpacks to {size:,} bytes; {LARGEST_FILE:,} are allowed")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in layout if name in arrays}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read as .npz: {error}") from error


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

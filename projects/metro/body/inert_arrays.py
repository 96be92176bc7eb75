"""Arrays of what ``inert_pickle`` read: numpy's, scipy's sparse ones, chumpy's.

Nothing of numpy's or scipy's own unpickling is used: a made-up state can make that read and write
anywhere in memory. Every size and index is checked against the bytes that are there.
"""

import math
import re
from typing import Any

import numpy as np

from projects.metro.body.inert_pickle import Note

MOST_NUMBERS = 10**8  # in one array; SMPL's largest has 6 million
DEEPEST = 10  # notes within notes
MOST_DIMENSIONS = 32  # numpy's own limit, in some versions
NUMBER_TYPE = re.compile(r"[<>|=]?(f[248]|[iu][1248]|b1)")


class NotAnArray(Exception):
    """A part of a pickle is not what it should be; the message says what is wrong with it."""


def as_array(value: Any, depth: int = 0) -> np.ndarray:
    """An array of numbers from what a pickle holds for it.

    Args:
        value: an array's, a sparse matrix's or a chumpy object's ``Note``; an array is returned.
        depth: how many other objects it is within.

    Raises:
        NotAnArray: it is none of these, is damaged, or has objects in it.
    """
    if isinstance(value, np.ndarray):
        return value
    if not isinstance(value, Note):
        raise NotAnArray(f"is {described(value)}, not an array")
    if depth > DEEPEST:
        raise NotAnArray("consists of objects within objects")
    if value.maker.name in ("_reconstruct", "_frombuffer"):
        dtype, shape, order, data = numpy_parts(value)
        return numbers(dtype, shape, order, data)
    if value.maker.module.startswith("scipy.sparse."):
        return dense(value, depth)
    if value.maker.module.split(".")[0] == "chumpy":
        return chumpy_array(value, depth)
    raise NotAnArray(f"is {described(value)}, not an array")


def as_objects(value: Any) -> list[Any]:
    """The objects of an array of objects, in order.

    Raises:
        NotAnArray: it is none.
    """
    if not isinstance(value, Note) or value.maker.name != "_reconstruct":
        raise NotAnArray(f"is {described(value)}, not an array of objects")
    dtype, _, _, data = numpy_parts(value)
    if number_type(dtype) != "O" or not isinstance(data, list):
        raise NotAnArray("is an array of numbers, not of objects")
    return data


def described(value: Any) -> str:
    """What errors call a part of a pickle."""
    return str(value.maker) if isinstance(value, Note) else f"a {type(value).__name__}"


# ---- numpy ---------------------------------------------------------------------------------------
def numpy_parts(value: Note) -> tuple[Any, Any, str, Any]:
    """The dtype, shape, order ("C" or "F") and data that a numpy array was written with."""
    if value.maker.name == "_frombuffer" and len(value.arguments) == 4:
        data, dtype, shape, order = value.arguments
        return dtype, shape, order, data
    if isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, dtype, is_fortran, data = value.state
        return dtype, shape, "F" if is_fortran else "C", data
    raise NotAnArray("is a damaged array")


def number_type(dtype: Any) -> str:
    """A dtype of plain numbers, as ``np.dtype`` understands it, or "O"."""
    if isinstance(dtype, Note) and str(dtype.maker) == "numpy.dtype" and dtype.arguments:
        code = dtype.arguments[0]
        order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "|"
        if code in ("O", "O4", "O8"):
            return "O"
        if isinstance(code, str) and NUMBER_TYPE.fullmatch(code) and order in ("<", ">", "|", "="):
            return ("<" if order == "=" else order) + code[-2:]
    raise NotAnArray("has elements that are no plain numbers")


def numbers(dtype: Any, shape: Any, order: str, data: Any) -> np.ndarray:
    """An array of numbers, provided that there are as many bytes as it takes."""
    code = number_type(dtype)
    if code == "O":
        raise NotAnArray("is an array of objects, not of numbers")
    if isinstance(data, str) and max(data, default="") <= "\xff":  # Python 2's bytes are text here
        data = data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)) or order not in ("C", "F"):
        raise NotAnArray("is a damaged array")
    return plain_numbers(np.dtype(code), shape, order, data)


def plain_numbers(dtype: np.dtype, shape: Any, order: Any, data: bytes | bytearray) -> np.ndarray:
    """The same of a dtype that is sound, in the machine's own byte order."""
    if dtype.kind not in "fiub":
        raise NotAnArray("has elements that are no plain numbers")
    shape = sizes(shape)
    if math.prod(shape) * dtype.itemsize != len(data):
        raise NotAnArray(f"is a damaged array: {len(data)} bytes for shape {shape} of {dtype}")
    found = np.frombuffer(data, dtype).reshape(shape, order=order)
    return found.astype(dtype.newbyteorder("="))


def sizes(shape: Any) -> tuple[int, ...]:
    """A shape, if it is one and its array is not too large."""
    if not isinstance(shape, tuple) or len(shape) > MOST_DIMENSIONS:
        raise NotAnArray("is a damaged array")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise NotAnArray("is a damaged array")
    if max(shape, default=0) > MOST_NUMBERS or math.prod(shape) > MOST_NUMBERS:
        raise NotAnArray(f"has a shape of more than {MOST_NUMBERS:,} numbers")
    return shape


# ---- scipy ---------------------------------------------------------------------------------------
def dense(value: Note, depth: int) -> np.ndarray:
    """The dense array of a compressed sparse one."""
    state = value.state if isinstance(value.state, dict) else {}
    shape = sizes(state.get("_shape", state.get("shape")))
    if len(shape) != 2 or not {"data", "indices", "indptr"} <= state.keys():
        raise NotAnArray("is a damaged sparse matrix")
    parts = [as_array(state[part], depth + 1) for part in ("data", "indices", "indptr")]
    data, indices, starts = parts
    if any(part.ndim != 1 for part in parts) or {p.dtype.kind for p in parts[1:]} - {"i", "u"}:
        raise NotAnArray("is a damaged sparse matrix")
    by_column = value.maker.name.startswith("csc")
    lines, length = (shape[1], shape[0]) if by_column else shape
    counts = np.diff(starts.astype(np.int64))
    if not (
        len(data) == len(indices) == counts.sum()
        and len(counts) == lines
        and (counts >= 0).all()
        and (not len(indices) or within(indices, length))
    ):
        raise NotAnArray("is a damaged sparse matrix")
    line = np.repeat(np.arange(lines), counts)
    found = np.zeros(shape)
    np.add.at(found, (indices, line) if by_column else (line, indices), data)
    return found


# ---- chumpy --------------------------------------------------------------------------------------
def chumpy_array(value: Note, depth: int) -> np.ndarray:
    """What a chumpy object holds, or selects of what another one holds.

    A plain ``Ch`` has its array as ``x``. A ``Select`` has the flat indices ``idxs`` into the
    object ``a``, and mostly the ``preferred_shape`` of the result.
    """
    state = value.state if isinstance(value.state, dict) else {}
    if "x" in state:
        return as_array(state["x"], depth + 1)
    if value.maker.name == "Select" and {"a", "idxs"} <= state.keys():
        source = as_array(state["a"], depth + 1).ravel()
        chosen = as_array(state["idxs"], DEEPEST)  # computed indices do not occur
        if chosen.dtype.kind not in "iu" or (chosen.size and not within(chosen, len(source))):
            raise NotAnArray("selects what is not there")
        found = source[chosen]
        if "preferred_shape" in state:
            shape = sizes(plain_shape(state["preferred_shape"]))
            if math.prod(shape) != found.size:
                raise NotAnArray("is a damaged selection")
            found = found.reshape(shape)
        return found
    raise NotAnArray(f"is computed by {value.maker}, which cannot be read; save its array instead")


def within(indices: np.ndarray, count: int) -> bool:
    """Whether all of these are indices into ``count`` elements."""
    return bool(indices.min() >= 0 and indices.max() < count)


def plain_shape(value: Any) -> Any:
    """A shape that may be given as an array."""
    if isinstance(value, Note):
        found = as_array(value, DEEPEST)
        return tuple(found.tolist()) if found.ndim == 1 else None
    return value

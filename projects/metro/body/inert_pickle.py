"""Allow-list unpickler for files of arrays: nothing that a pickle names is imported or called.

A pickle is a program that may call any function of any module. Here its names, and what calling
them would give, are ``Inert`` objects that only remember the arguments. ``as_array`` makes arrays
of those that numpy, scipy.sparse and chumpy write. It never hands a state to numpy's or scipy's own
unpickling, which a made-up one can make read and write anywhere in memory.
"""

import io
import pickle
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dropkey_core.engine import UserError
from dropkey_core.engine.files.outside import reading

LARGEST_FILE = 2**30  # bytes; SMPL's largest has 250 million
MOST_STEPS = 10**6  # of the program that a pickle is; an object of each may take 200 bytes
MOST_NUMBERS = 10**8  # of a sparse matrix that becomes dense; SMPL's have 12 million

# Everything that a pickle of arrays may name, as module.name.
ALLOWED = re.compile(
    r"numpy\.(ndarray|dtype)"
    r"|numpy\._?core\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)"
    r"|scipy\.sparse\._?cs[cr]\.cs[cr]_(matrix|array)"
    r"|chumpy\..+"  # of its objects only the arrays are looked at
    r"|copy_?reg\._reconstructor|_codecs\.encode|collections\.OrderedDict"
    r"|(__builtin__|builtins)\.(object|bytes|set|frozenset)"
)
NUMBER_TYPE = re.compile(r"f[248]|[iu][1248]|b1")


class Inert:
    """What stands for a class or function that a pickle names, and for the result of its call.

    ``arguments`` of the call are None for the class or function itself; ``state`` is what the
    object's ``__setstate__`` would have got, or None.
    """

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: tuple | None = None):
        self.name, self.arguments, self.state = name, arguments, None

    def __call__(self, *arguments: Any) -> Any:
        """Remember a call."""
        make = PLAIN_RESULTS.get(self.name)
        return make(*arguments) if make else Inert(self.name, arguments)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class PlainKeyDict(dict):
    """A dict whose keys have no parts: pairs of pairs of pairs, in 40 bytes, take years to hash."""

    __slots__ = ()

    def __init__(self, pairs: Iterable[tuple[Any, Any]] = ()):
        super().__init__()
        for key, value in pairs:
            self[key] = value

    def __setitem__(self, key: Any, value: Any) -> None:
        for part in key if isinstance(key, tuple) else (key,):
            if not isinstance(part, str | bytes | int | float | Inert | None):
                raise pickle.UnpicklingError(f"a {type(part).__name__} in a key")
        super().__setitem__(key, value)


# What pickles write as a call though it is a plain value.
PLAIN_RESULTS: dict[str, Callable] = {
    "_codecs.encode": lambda text, encoding: text.encode("latin1"),  # bytes, up to protocol 2
    "__builtin__.bytes": lambda: b"",
    "copy_reg._reconstructor": lambda kind, *base: kind(),  # objects, in protocols 0 and 1
    "copyreg._reconstructor": lambda kind, *base: kind(),
    "collections.OrderedDict": PlainKeyDict,
}


class CountedOpcodes(dict):
    """What the opcodes of a pickle do, for a pickle of at most ``MOST_STEPS`` of them."""

    steps = 0

    def __getitem__(self, opcode: int) -> Callable:
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise pickle.UnpicklingError(f"more than {MOST_STEPS:,} steps")
        return super().__getitem__(opcode)

    def __missing__(self, opcode: int) -> Callable:
        raise pickle.UnpicklingError(f"it has the byte {opcode} where an instruction belongs")


# The implementation in Python: that in C fills the memory where a hostile file asks for it, and
# hashes keys before they can be looked at.
class InertUnpickler(pickle._Unpickler):
    """An unpickler that makes plain Python data and ``Inert`` objects."""

    def __init__(self, data: bytes):
        # A file that never hands out more than there is, whatever a pickle says.
        super().__init__(io.BytesIO(data), encoding="latin1")  # Python 2's text may be bytes
        plain = pickle._Unpickler
        self.dispatch = CountedOpcodes(plain.dispatch)
        for opcode, load in {
            pickle.NEWOBJ: plain.load_reduce,
            pickle.BYTEARRAY8: plain.load_binbytes8,  # the other takes the memory first
            pickle.EMPTY_DICT: lambda self: self.append(PlainKeyDict()),
            pickle.DICT: load_dict,
            # Sets are read as lists: nothing is hashed.
            pickle.EMPTY_SET: plain.load_empty_list,
            pickle.ADDITEMS: plain.load_appends,
            pickle.FROZENSET: plain.load_list,
        }.items():
            self.dispatch[opcode[0]] = load
        for opcode in (pickle.EXT1, pickle.EXT2, pickle.EXT4):  # by-pass find_class
            del self.dispatch[opcode[0]]

    def find_class(self, module: str, name: str) -> Inert:
        """The stand-in of a name; UnpicklingError if no array needs it."""
        full_name = f"{module}.{name}"
        if not ALLOWED.fullmatch(full_name):
            raise pickle.UnpicklingError(
                f"it names {full_name[:80]}, which no array needs; such a file can run any code: "
                "do not unpickle it elsewhere"
            )
        return Inert(full_name)


def load_dict(unpickler: InertUnpickler) -> None:
    """The opcode of a dict with its items."""
    items = unpickler.pop_mark()
    unpickler.append(PlainKeyDict(zip(items[::2], items[1::2], strict=True)))


def read_pickle(data: bytes, source: str | Path) -> Any:
    """Read a pickle of Python 2 or 3 as plain data and ``Inert`` objects.

    Args:
        data: the pickle.
        source: what errors call it.

    Raises:
        UserError: it is no pickle, is damaged, or names something that no array needs.
    """
    with reading(source, "pickled arrays"):
        return InertUnpickler(data).load()


# ---- arrays --------------------------------------------------------------------------------------
def as_array(value: Any, source: str) -> np.ndarray:
    """An array of numbers from what a pickle holds for it.

    Args:
        value: numpy's array, a compressed sparse matrix, or a chumpy object that holds one.
        source: what errors call it.

    Raises:
        UserError: it is none of these, is damaged, or has objects in it.
    """
    kind = value.name.split(".")[0] if isinstance(value, Inert) else None
    if kind not in ("numpy", "scipy", "chumpy"):
        name = value.name if kind else f"a {type(value).__name__}"
        raise UserError(f"{source} is {name}, not an array")
    with reading(source, "an array"):
        if kind == "chumpy":
            return chumpy_array(value, source)
        return sparse_array(value) if kind == "scipy" else numpy_array(value)


def as_objects(value: Any, source: str) -> list[Any]:
    """The objects of numpy's array of objects, in order.

    Raises:
        UserError: it is none.
    """
    try:
        _, _, _, objects = numpy_parts(value)
    except (AttributeError, TypeError, ValueError):
        objects = None
    if not isinstance(objects, list):
        raise UserError(f"{source} is not an array of objects")
    return objects


def numpy_parts(value: Inert) -> tuple[Any, Any, str, Any]:
    """The dtype, shape, order ("C" or "F") and data that a numpy array was written with."""
    if value.name.endswith("._frombuffer"):  # pickle's protocol 5
        data, dtype, shape, order = value.arguments
        return dtype, shape, order, data
    _, shape, dtype, is_fortran, data = value.state
    return dtype, shape, "F" if is_fortran else "C", data


def numpy_array(value: Inert) -> np.ndarray:
    """A numpy array of numbers; numpy checks that there are as many bytes as its shape takes."""
    dtype, shape, order, data = numpy_parts(value)
    code = dtype.arguments[0]
    if not NUMBER_TYPE.fullmatch(code):
        raise ValueError("its elements are no plain numbers")
    if isinstance(data, str):  # Python 2's bytes
        data = data.encode("latin1")
    stored = np.frombuffer(data, np.dtype(code).newbyteorder(dtype.state[1]))
    return stored.reshape(shape, order=order).astype(code)


def sparse_array(value: Inert) -> np.ndarray:
    """The dense array (rows, columns) float64 of scipy's compressed sparse one."""
    state = value.state
    rows, columns = map(int, state.get("_shape", state.get("shape")))
    if rows * columns > MOST_NUMBERS:
        raise ValueError(f"it has more than {MOST_NUMBERS:,} numbers when dense")
    data, indices, starts = (numpy_array(state[part]) for part in ("data", "indices", "indptr"))
    line = np.searchsorted(starts, np.arange(len(indices)), side="right") - 1
    found = np.zeros((rows, columns))
    # numpy checks every index.
    np.add.at(found, (indices, line) if ".csc_" in value.name else (line, indices), data)
    return found


def chumpy_array(value: Inert, source: str) -> np.ndarray:
    """What a chumpy object holds, or selects of what another one holds.

    A plain ``Ch`` has its array as ``x``. A ``Select`` has the flat indices ``idxs`` into the
    object ``a``, and mostly the ``preferred_shape`` of the result.

    Raises:
        UserError: it is computed in another way.
    """
    state = value.state if isinstance(value.state, dict) else {}
    if "x" in state:
        return as_array(state["x"], source)
    if not value.name.endswith(".Select"):
        raise UserError(
            f"{source} is computed by {value.name}, which cannot be read: save its array"
        )
    found = as_array(state["a"], source).ravel()[numpy_array(state["idxs"])]
    shape = state.get("preferred_shape", found.shape)
    return found.reshape(numpy_array(shape) if isinstance(shape, Inert) else shape)

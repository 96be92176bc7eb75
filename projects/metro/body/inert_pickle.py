"""Reading Python pickles as data: nothing that a pickle names is imported, called or built.

A pickle is a program that may call any function of any module. Here its names stay names and its
calls stay notes of who would have been called with what; ``inert_arrays`` then makes arrays of the
notes that it knows. What a body model has no use for is refused while reading, by its name.
"""

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dropkey_core.engine import UserError

LARGEST_FILE = 2**30  # bytes; SMPL's largest has 250 million
MOST_STEPS = 10**6  # of the program that a pickle is; an object of each may take 200 bytes

NUMPY_CORES = ("numpy.core", "numpy._core")  # before and since numpy 2
BUILTINS = ("__builtin__", "builtins")  # Python 2 and 3
SPARSE_CLASSES = ("csc_matrix", "csr_matrix", "csc_array", "csr_array")
SPARSE_MODULES = ("csc", "csr", "_csc", "_csr")

# Everything that a pickle of arrays may name, as (module, name).
ALLOWED = frozenset(
    {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        *((f"{core}.multiarray", "_reconstruct") for core in NUMPY_CORES),
        *((f"{core}.multiarray", "scalar") for core in NUMPY_CORES),
        *((f"{core}.numeric", "_frombuffer") for core in NUMPY_CORES),  # pickle's protocol 5
        *((f"scipy.sparse.{m}", name) for m in SPARSE_MODULES for name in SPARSE_CLASSES),
        # How pickle's own protocols 0 to 2 write objects, bytes and sets.
        ("copy_reg", "_reconstructor"),
        ("copyreg", "_reconstructor"),
        ("_codecs", "encode"),
        *((m, n) for m in BUILTINS for n in ("object", "bytes", "set", "frozenset")),
        ("collections", "OrderedDict"),
    }
)
CHUMPY = "chumpy"  # its classes may all be named: of their instances only the arrays are looked at


@dataclass(frozen=True, eq=False)
class Name:
    """What stands for a class or function that a pickle names."""

    __slots__ = ("module", "name")

    module: str
    name: str

    def __call__(self, *arguments: Any) -> "Note":
        """Note a call."""
        return Note(self, arguments)

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Note:
    """What stands for the result of a call, and for an object with a state.

    Attributes:
        maker: whose result or instance it would be.
        arguments: what it would have been called with.
        state: what the object's ``__setstate__`` would have got; None where there was none.
        items: what would have been put into it by key.
    """

    def __init__(self, maker: Name, arguments: tuple):
        self.maker = maker
        self.arguments = arguments
        self.state: Any = None
        self.items: dict = {}

    def __setstate__(self, state: Any) -> None:
        """Note a state; called by the unpickler."""
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Note an item, as of an OrderedDict; called by the unpickler."""
        self.items[key] = value


# The implementation in Python: that in C fills the memory where a hostile file asks for it, and
# calls what it finds by other ways than ``find_class`` alone.
class InertUnpickler(pickle._Unpickler):
    """An unpickler that makes plain Python data, names and notes."""

    dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)
    steps = 0

    def find_class(self, module: str, name: str) -> Name:
        """The stand-in of a name.

        Raises:
            UserError: a body model has no use for it.
        """
        is_chumpy = module == CHUMPY or module.startswith(f"{CHUMPY}.")
        if (module, name) not in ALLOWED and not is_chumpy:
            raise RefusedName(f"{module}.{name}")
        return Name(module, name)

    def persistent_load(self, identity: Any) -> Any:
        """Refuse references to objects outside the file."""
        name = repr(identity[:50]) if isinstance(identity, str) else f"a {type(identity).__name__}"
        raise RefusedName(f"the outside object {name}")

    def get_extension(self, code: int) -> Any:
        """Refuse objects that other code of this process has registered."""
        raise RefusedName(f"the registered object {code}")

    def load_newobj(self) -> None:
        """Note an object instead of making one."""
        arguments = self.stack.pop()
        self.stack.append(note(self.stack.pop(), arguments))

    def load_newobj_ex(self) -> None:
        """Note an object instead of making one; keywords do not occur."""
        keywords = self.stack.pop()
        if keywords:
            raise pickle.UnpicklingError("an object made with keywords")
        self.load_newobj()

    def load_reduce(self) -> None:
        """Note a call instead of making one."""
        arguments = self.stack.pop()
        self.stack.append(note(self.stack.pop(), arguments))

    def load_bytearray8(self) -> None:
        """Take as many bytes as there are, not the memory that a pickle asks for."""
        length = int.from_bytes(self.read(8), "little")
        self.stack.append(bytearray(self.read(length)))

    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def with_plain_keys(load: Callable, keys: slice) -> Callable:
    """An opcode's function, that refuses to put anything but plain values in as keys.

    Pairs of pairs of pairs in forty bytes of a pickle take years to hash.

    Args:
        load: the function.
        keys: which objects above the latest mark of the stack become keys.
    """

    def checked(unpickler: InertUnpickler) -> None:
        for key in unpickler.stack[keys]:
            if not all(map(is_plain, key if isinstance(key, tuple) else (key,))):
                raise pickle.UnpicklingError(f"a {type(key).__name__} as a key")
        load(unpickler)

    return checked


def counted(load: Callable) -> Callable:
    """An opcode's function, that refuses to run in a pickle that has too many of them."""

    def checked(unpickler: InertUnpickler) -> None:
        unpickler.steps += 1
        if unpickler.steps > MOST_STEPS:
            raise pickle.UnpicklingError(f"more than {MOST_STEPS:,} steps")
        load(unpickler)

    return checked


def is_plain(value: Any) -> bool:
    """Whether a value has no parts."""
    return isinstance(value, str | bytes | int | float | Name | Note | None)


for opcode, keys in {
    pickle.SETITEM: slice(-2, None, 2),
    pickle.SETITEMS: slice(0, None, 2),
    pickle.DICT: slice(0, None, 2),
    pickle.ADDITEMS: slice(None),
    pickle.FROZENSET: slice(None),
}.items():
    InertUnpickler.dispatch[opcode[0]] = with_plain_keys(InertUnpickler.dispatch[opcode[0]], keys)
InertUnpickler.dispatch.update({n: counted(f) for n, f in InertUnpickler.dispatch.items()})


class RefusedName(Exception):
    """A pickle names what it has no business with."""


def note(maker: Any, arguments: Any) -> Any:
    """What stands for a call: a ``Note``, or the bytes that one is written for."""
    if not isinstance(maker, Name) or not isinstance(arguments, tuple):
        raise pickle.UnpicklingError("a call of something that is not a name")
    if maker.name == "_reconstructor" and arguments and isinstance(arguments[0], Name):
        return Note(arguments[0], ())  # of (class, base, the base's state)
    if (maker.module, maker.name) == ("_codecs", "encode"):
        return latin1(*arguments)
    if maker.name == "bytes" and maker.module in BUILTINS and not arguments:
        return b""
    return Note(maker, arguments)


def latin1(text: str, encoding: str) -> bytes:
    """Bytes as Python 3 writes them for Python 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("bytes that are not encoded as latin1")
    return text.encode("latin1")


def read_pickle(data: bytes, source: str | Path) -> Any:
    """Read a pickle of Python 2 or 3 as plain data, ``Name`` and ``Note``.

    Args:
        data: the pickle.
        source: what errors call it.

    Raises:
        UserError: it is no pickle, is damaged, or names something that no body model needs.
    """
    file = io.BytesIO(data)  # never hands out more than there is, whatever a pickle pretends
    try:
        return InertUnpickler(file, encoding="latin1").load()
    except RefusedName as error:
        if file.tell() == len(data) and not data.endswith(b"."):  # as every whole pickle does
            raise UserError(f"{source} is not a sound pickle (it ends within a name)") from error
        raise UserError(
            f"{source} was not read: it names {str(error)[:100]}, which is none of the arrays that "
            "a body model is made of; such a file can run any code, do not unpickle it elsewhere"
        ) from error
    except Exception as error:  # whatever goes wrong, nothing but the file's bytes can be the cause
        cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UserError(f"{source} is not a sound pickle ({cause[:100]})") from error

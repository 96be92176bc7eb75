"""Code inspection: the names that the methods of a class use, and the functions that these call."""

import dis
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType

_NAMES: dict[tuple[type, int], frozenset[str]] = {}  # what names() has found before

_PRODUCTS = {"@", "BINARY_MATRIX_MULTIPLY", "matmul", "bmm", "baddbmm", "einsum"}


def names(cls: type, calls: int = 0) -> frozenset[str]:
    """Return the names that the methods of a class use, other than those inherited from torch.

    Args:
        cls: any class.
        calls: names used by functions that many calls away count too.
    """
    if (cls, calls) in _NAMES:
        return _NAMES[cls, calls]
    used: set[str] = set()
    functions = set(_methods(cls))
    seen: set[FunctionType] = set()
    for _ in range(calls + 1):
        seen |= functions
        found = {function: set(_names(function.__code__)) for function in functions}
        used = used.union(*found.values())
        functions = {
            called
            for function, its_names in found.items()
            for name in its_names
            if (called := _as_function(function.__globals__.get(name))) and called not in seen
        }
    return _NAMES.setdefault((cls, calls), frozenset(used))


def makes_weights(cls: type) -> bool:
    """Return whether a method of a class takes a softmax and at least two products of matrices.

    Attention does that where it is written out: queries by keys, weights by values.
    """
    return any(
        {"softmax", "Softmax"} & set(_names(method.__code__)) and _num_products(method.__code__) > 1
        for method in _methods(cls)
    )


def _num_products(code: CodeType) -> int:
    """Return how often a function multiplies matrices, which is an operator or a name."""
    words = [{i.opname, *i.argrepr.split()} for i in dis.get_instructions(code)]
    return sum(not _PRODUCTS.isdisjoint(used) for used in words)


def _methods(cls: type) -> Iterator[FunctionType]:
    """Yield the methods of a class, and those that they reach by super()."""
    for name in dir(cls):
        for base in cls.__mro__:
            if name in vars(base):
                function = _as_function(vars(base)[name])
                if function:
                    yield function
                if function is None or "super" not in function.__code__.co_names:
                    break


def _as_function(x: object) -> FunctionType | None:
    """Return x without its decorators if it is a function that is not torch's, else None."""
    try:
        x = getattr(x, "__func__", x)  # of static and class methods
        x = getattr(x, "fget", x)  # of properties
        x = inspect.unwrap(x) if callable(x) else x
        is_function = isinstance(x, FunctionType)
    except Exception:  # what stands for a library that is not there may raise anything
        return None
    # A function that was made at run time, as those of torch.fx are, may be of no module.
    is_foreign = is_function and (x.__module__ or "").split(".")[0] != "torch"
    return x if is_foreign else None  # type: ignore[return-value]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):  # of a function inside the function
            yield from _names(constant)

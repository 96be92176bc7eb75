"""Which lines of a reader its inputs reach."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

Line = tuple[str, int]  # file, number


class ReachedLines:
    """Collects the lines of some modules' functions that are run.

    Args:
        modules: the only ones that are looked at, which keeps the rest fast.
    """

    def __init__(self, modules: Iterable[ModuleType]) -> None:
        files = [str(module.__file__) for module in modules]
        self.functions = {code: lines_of(code) for file in files for code in functions_of(file)}
        self.files = frozenset(files)
        self.reached: set[Line] = set()

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Collect what runs within; it is several times slower."""
        sys.settrace(self.trace)
        try:
            yield
        finally:
            sys.settrace(None)

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        """Python calls this for each function, and for each line of those it was returned for."""
        if frame.f_code.co_filename not in self.files:
            return None
        if event == "line":
            self.reached.add((frame.f_code.co_filename, frame.f_lineno))
        return self.trace

    def missed(self) -> tuple[list[Line], int]:
        """Lines not reached of those functions that were entered, and how many these have."""
        entered = [lines for lines in self.functions.values() if lines & self.reached]
        wanted = set().union(*entered)
        return sorted(wanted - self.reached), len(wanted)


def functions_of(file: str) -> Iterator[CodeType]:
    """The code of all functions in a file."""
    todo = [compile(Path(file).read_text(encoding="utf-8"), file, "exec")]
    while todo:
        code = todo.pop()
        todo.extend(inner for inner in code.co_consts if isinstance(inner, CodeType))
        if code.co_flags & 1:  # CO_OPTIMIZED: a function, no module and no class
            yield code


def lines_of(code: CodeType) -> set[Line]:
    """The lines of a function, without the one that it begins with."""
    numbers = {number for *_, number in code.co_lines() if number is not None}
    return {(code.co_filename, number) for number in numbers - {code.co_firstlineno}}

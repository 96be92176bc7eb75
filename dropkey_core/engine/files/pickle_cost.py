"""What in a pickle takes far longer than its size lets expect, told without unpickling it.

Pairs of pairs of pairs, a hundred bytes of a pickle, take years to hash as a key of a dict or a
member of a set: a tuple does not remember its hash, and it asks each of its parts every time.
torch looks through the message with which it refuses a name in time quadratic in the name's length.
"""

import pickletools
from typing import IO, Any

MOST_HASHED = 10**7  # values, which take a second; sound files ask for the hashes of thousands
LONGEST_NAME = 1000  # characters, of a class or function with its module

_PUT = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_GET = {"GET", "BINGET", "LONG_BINGET"}
_KEYED = {"SETITEM", "SETITEMS", "DICT", "ADDITEMS", "FROZENSET"}
# Their results cannot be keys, or have a hash that does not ask their parts.
_PLAIN = {"LIST", "DICT", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "FROZENSET"}
_SLICE, _MARK = pickletools.stackslice, pickletools.markobject


def excess(file: IO[bytes]) -> str | None:
    """What the next pickle of a file has that takes far too long, in a few words, or None.

    Reads to its end, or to where it is no sound pickle, which whoever reads it will find as well.
    """
    costs = _Costs()
    try:
        for opcode, argument, _ in pickletools.genops(file):
            costs.follow(opcode, argument)
            if costs.hashed > MOST_HASHED:
                return "keys of tuples within tuples, which take years to hash"
            if opcode.name == "GLOBAL" and len(str(argument)) > LONGEST_NAME:
                return f"a name of {len(str(argument)):,} characters"
    except (ValueError, LookupError, OverflowError):
        pass
    return None


class _Costs:
    """The stack of a pickle, with what each value on it costs to hash in place of the value.

    Attributes:
        hashed: cost of the keys so far, values included, which are counted as if they were keys.
    """

    def __init__(self) -> None:
        self.stack: list[int | None] = []  # None is a mark
        self.memo: dict[int, int] = {}
        self.hashed = 0

    def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Do what an opcode does to the stack.

        Raises:
            LookupError: there is not what it takes.
        """
        name = opcode.name
        if name in _PUT:
            self.memo[len(self.memo) if argument is None else int(argument)] = self.stack[-1] or 1
        elif name in _GET:
            self.stack.append(self.memo[int(argument)])
        elif name == "DUP":
            self.stack.append(self.stack[-1])
        else:
            cost = sum(self.take(opcode))
            if name in _KEYED:
                self.hashed += cost
            # Larger numbers would take long to add.
            result = 1 if name in _PLAIN else min(1 + cost, MOST_HASHED + 1)
            made = (None if kind is _MARK else result for kind in opcode.stack_after)
            self.stack.extend(made)

    def take(self, opcode: pickletools.OpcodeInfo) -> list[int]:
        """Take from the stack what an opcode does, back to the latest mark if it takes a slice."""
        wanted = opcode.stack_before
        found: list[int] = []
        if _SLICE in wanted or wanted == [_MARK]:
            while (value := self.stack.pop()) is not None:
                found.append(value)
            wanted = wanted[: wanted.index(_MARK)]
        return found + [self.stack.pop() or 1 for _ in wanted]

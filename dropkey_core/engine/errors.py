"""UserError: an error that the user can mend, told in one line."""

import reprlib
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Any

LONGEST_MESSAGE = 1000  # characters; a file's own texts may be in it, as long as the file likes

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlist = _SHORT.maxdict = _SHORT.maxtuple = 6
_SHORT.maxlevel = 3


class UserError(Exception):
    """Bad input, told in one line: what, where, what is allowed, what to do.

    Tools print it as ``error: ...`` without a traceback and exit with code 2.
    """

    def one_line(self) -> str:
        """Return the message alone: a loader process sends it at the end of its traceback.

        What would move the cursor or colour the terminal is written out; a long end is left out.
        """
        message = str(self).strip()
        _, found, original = message.rpartition(f"{type(self).__name__}: ")
        line = " ".join((original if found else message)[: 2 * LONGEST_MESSAGE].split())
        line = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line)
        return line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}..."


def said_by(error: BaseException) -> str:
    """Return what a library's error says, in one short line, or its kind if it says nothing."""
    return " ".join(str(error)[:1000].split())[:200] or type(error).__name__


def listed(names: Iterable[Any], most: int = 16) -> str:
    """Return names in one line; of many the first ``most`` and how many more there are."""
    names = [str(name) for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def shown(value: Any) -> str:
    """Return a value from a file as errors show it: its ``repr``, shortened if it is long."""
    return _SHORT.repr(value)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text; OmegaConf and YAML add theirs below it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unknown_key(key: str, known: Collection[str]) -> UserError:
    """Return the error about a key that nothing reads."""
    parent, _, name = key.rpartition(".")
    return UserError(f"unknown key {key!r}{suggestion(name, known, parent)}")


def suggestion(name: str, known: Collection[str], parent: str = "") -> str:
    """Return ``; nearest is ...`` for a misspelt name, or what there is if nothing is near."""
    full = [f"{parent}.{choice}" if parent else choice for choice in known]
    near = get_close_matches(f"{parent}.{name}" if parent else name, full, n=1, cutoff=0.5)
    if near:
        return f"; nearest is {near[0]!r}"
    return f"; there are {', '.join(sorted(known))}" if known and len(known) <= 40 else ""

"""Write variables of a MATLAB file as JSON, within bounds; ``mat_file`` starts this.

mat_to_json.py FILE OUTPUT MEMORY SECONDS LARGEST_OUTPUT VARIABLE [VARIABLE ...]
"""

import contextlib
import json
import resource
import sys
from pathlib import Path
from typing import Any


def bound(memory: int, seconds: int, output: int) -> None:
    """Bound this process: bytes of address space, seconds of processor time, bytes written."""
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: output,
        resource.RLIMIT_CORE: 0,
    }
    for what, limit in limits.items():
        with contextlib.suppress(ValueError, OSError):  # macOS has no bound of address space
            resource.setrlimit(what, (limit, limit + 1))  # a second to end by SIGXCPU


def plain(value: Any) -> Any:
    """An array or a number of numpy's as JSON can write it."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"it holds a {type(value).__name__}, which is not expected in such a file")


def main(path: str, output: str, *arguments: str) -> None:
    """Convert; any exception is the answer to ``mat_file``, by its last line."""
    bound(*map(int, arguments[:3]))
    from scipy.io import loadmat  # within the bounds, too

    names = list(arguments[3:])
    found = loadmat(path, simplify_cells=True, variable_names=names)
    with Path(output).open("w", encoding="utf-8") as file:
        json.dump({name: found[name] for name in names if name in found}, file, default=plain)


if __name__ == "__main__":
    main(*sys.argv[1:])

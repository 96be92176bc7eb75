"""MATLAB files up to version 7, read by scipy in a process of its own.

scipy's reader is compiled code that believes what a file claims. A damaged file makes it take any
amount of memory, call itself without end, or end the process. So this file runs itself in a child,
whose memory, time and output are bounded, and what scipy found comes back as JSON:

    mat_file.py FILE OUTPUT MEMORY SECONDS LARGEST_OUTPUT VARIABLE [VARIABLE ...]
"""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from operator import methodcaller
from pathlib import Path
from typing import Any

LARGEST_FILE = 2**28  # bytes
LARGEST_OUTPUT = 2**30
MOST_MEMORY = 2**32  # of address space; a made-up file of HICO-DET's size took 0.7 GB
MOST_SECONDS = 600  # of processor time


def read_mat(path: Path, names: list[str]) -> dict[str, Any]:
    """Read variables of a file; those that are not there are left out.

    Args:
        path: a MATLAB file of version 4, 6 or 7.
        names: the variables.

    Returns:
        Variable -> value: structs as dicts, arrays of numbers, cells and structs as nested lists,
        those with a single element as the element itself.

    Raises:
        UserError: it is missing, too large, damaged, of another version, holds what JSON cannot
            (complex numbers), or reading it takes too much memory or time.
    """
    from dropkey_core.engine import UserError  # here: the child imports nothing of ours
    from dropkey_core.engine.files.json_file import read_json
    from dropkey_core.engine.files.outside import check_file

    check_file(path, LARGEST_FILE)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "variables.json"
        limits = (MOST_MEMORY, MOST_SECONDS, LARGEST_OUTPUT)
        # -I: nothing of the current folder or the environment is imported.
        command = [sys.executable, "-I", __file__, path, output, *limits, *names]
        child = subprocess.run([*map(str, command)], capture_output=True, text=True)
        if child.returncode:
            reason = reason_of(child)
            raise UserError(f"{path} cannot be read as a MATLAB file up to version 7: {reason}")
        return read_json(output)


def reason_of(child: "subprocess.CompletedProcess[str]") -> str:
    """Why a conversion has failed, in a few words."""
    if child.returncode < 0:  # not on Windows
        if child.returncode == -signal.SIGXCPU:
            return f"it takes more than {MOST_SECONDS} seconds"
        return f"it is damaged (scipy ended with {signal.Signals(-child.returncode).name})"
    last = child.stderr.strip().splitlines()[-1:] or ["?"]  # of a traceback
    return last[0][:200]


# ---- the child -----------------------------------------------------------------------------------
def bound(memory: int, seconds: int, output: int) -> None:
    """Bound this process: bytes of address space, seconds of processor time, bytes written."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows, where the child is there all the same: it may die alone
        return
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: output,
        resource.RLIMIT_CORE: 0,
    }
    for what, limit in limits.items():
        with contextlib.suppress(ValueError, OSError):  # macOS has no bound of address space
            resource.setrlimit(what, (limit, limit + 1))  # a second to end by SIGXCPU


def main(path: str, output: str, *arguments: str) -> None:
    """Convert; any exception is the answer to ``read_mat``, by its last line."""
    bound(*map(int, arguments[:3]))
    from scipy.io import loadmat  # within the bounds, too

    names = list(arguments[3:])
    found = loadmat(path, simplify_cells=True, variable_names=names)
    with Path(output).open("w", encoding="utf-8") as file:
        wanted = {name: found[name] for name in names if name in found}
        json.dump(wanted, file, default=methodcaller("tolist"))  # of numpy's arrays and numbers


if __name__ == "__main__":
    main(*sys.argv[1:])

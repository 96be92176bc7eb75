"""MATLAB files up to version 7, read by scipy in a process of its own.

scipy's reader is compiled code that believes what a file claims. A damaged file makes it take any
amount of memory, call itself without end, or end the process. So ``mat_to_json.py`` calls it in a
child, whose memory, time and output are bounded, and what it found comes back as JSON.
"""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dropkey_core.engine import UserError
from dropkey_core.engine.files.json_file import read_json
from dropkey_core.engine.files.outside import MEGABYTE, check_file

LARGEST_FILE = 256 * MEGABYTE
LARGEST_OUTPUT = 1024 * MEGABYTE
MOST_MEMORY = 4096 * MEGABYTE  # of address space; a made-up file of HICO-DET's size took 0.7 GB
MOST_SECONDS = 600  # of processor time
CONVERTER = Path(__file__).with_name("mat_to_json.py")


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
    check_file(path, LARGEST_FILE)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "variables.json"
        limits = (MOST_MEMORY, MOST_SECONDS, LARGEST_OUTPUT)
        # -I: nothing of the current folder or the environment is imported.
        command = [sys.executable, "-I", CONVERTER, path, output, *limits, *names]
        child = subprocess.run([*map(str, command)], capture_output=True, text=True)
        if child.returncode:
            reason = reason_of(child)
            raise UserError(f"{path} cannot be read as a MATLAB file up to version 7: {reason}")
        return read_json(output)


def reason_of(child: "subprocess.CompletedProcess[str]") -> str:
    """Why a conversion has failed, in a few words."""
    if child.returncode == -signal.SIGXCPU:
        return f"it takes more than {MOST_SECONDS} seconds"
    if child.returncode < 0:
        return f"it is damaged (scipy ended with {signal.Signals(-child.returncode).name})"
    last = child.stderr.strip().splitlines()[-1:] or ["?"]  # of a traceback
    return last[0][:200]

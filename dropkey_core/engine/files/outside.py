"""Files from outside: ordinary files of a bounded size, or an error of one line.

Every reader of a file that this project has not written begins here. A device or a pipe has no end
or keeps whoever opens it waiting; a file far larger than any of its kind would fill the memory.
"""

import os
import stat
from pathlib import Path

from dropkey_core.engine.errors import UserError

MEGABYTE = 2**20


def check_file(path: str | os.PathLike[str], largest: int, remedy: str = "") -> int:
    """Return the size of a file in bytes, if it may be read.

    Args:
        path: the file, or a link to it.
        largest: how many bytes a file of its kind may have.
        remedy: what to do about one that has more, for the error.

    Raises:
        UserError: it is missing, a folder, a device or a pipe, or too large.
    """
    try:
        status = os.stat(path)  # noqa: PTH116, once per image
    except (OSError, ValueError) as error:  # ValueError: no file has such a name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read: {reason}") from error
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or a pipe"
        raise UserError(f"{path} cannot be read: it is {what}, not a file")
    if status.st_size > largest:
        raise UserError(
            f"{path} has {status.st_size:,} bytes, {largest:,} are allowed"
            + (f": {remedy}" if remedy else "")
        )
    return status.st_size


def read_file(path: Path, largest: int, remedy: str = "") -> bytes:
    """Return the content of a file; see :func:`check_file` for arguments and errors."""
    size = check_file(path, largest, remedy)
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def read_text(path: Path, largest: int) -> str:
    """Return the content of a text file in UTF-8; see :func:`check_file` for arguments.

    Raises:
        UserError: as :func:`check_file`, or it is no text.
    """
    try:
        return read_file(path, largest).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file: {error}") from error

"""Opening files from outside safely: size limits, no devices or pipes, no links out of a dataset.

Every reader of a file that this project has not written begins here. A device has no end, a pipe
keeps whoever opens it waiting, and a link may lead to files that are none of the dataset's.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dropkey_core.engine.errors import UserError, said_by
from dropkey_core.engine.paths import DATASETS_VARIABLE, datasets_root

MEGABYTE = 2**20


def check_file(path: str | os.PathLike[str], largest: int) -> int:
    """Return the size of a file in bytes, if it may be read.

    Args:
        path: the file, or a link to it.
        largest: how many bytes a file of its kind may have.

    Raises:
        UserError: it is missing, a folder, a device or a pipe, or too large.
    """
    with reading(path):
        status = os.stat(path)  # noqa: PTH116, once per image
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or a pipe"
            raise UserError(f"{path} cannot be read: it is {what}, not a file")
    if status.st_size > largest:
        raise UserError(f"{path} has {status.st_size:,} bytes, {largest:,} are allowed")
    return status.st_size


def read_file(path: Path, largest: int) -> bytes:
    """Return the content of a file; see :func:`check_file` for arguments and errors."""
    size = check_file(path, largest)
    with reading(path), path.open("rb") as file:
        return file.read(size)


def read_text(path: Path, largest: int) -> str:
    """Return the content of a text file in UTF-8, without a byte order mark.

    Raises:
        UserError: as :func:`check_file`, or it is no text.
    """
    try:
        return read_file(path, largest).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file: {error}") from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(MEGABYTE):
            digest.update(part)
    return digest.hexdigest()


@contextmanager
def reading(source: str | os.PathLike[str], kind: str = "") -> Iterator[None]:
    """Tell in one line what a library has against a file, whatever error it has for that.

    Args:
        source: the file, as the error names it. Nothing but its bytes may fail in the block.
        kind: what it is read as, for the error.

    Raises:
        UserError: for any error.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or said_by(error)
        as_kind = f" as {kind}" if kind else ""
        raise UserError(f"{source} cannot be read{as_kind}: {reason}") from error


def places_of(*folders: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return where files of a dataset may lie: its folders and the dataset root, links followed.

    Users link whole folders; a link from a single file to outside came with the files.
    """
    return tuple(os.path.realpath(folder) for folder in (*folders, datasets_root()))


def check_inside(path: str | Path, places: tuple[str, ...]) -> None:
    """Raise UserError unless a path, its links followed, leads into one of ``places_of``."""
    real = os.path.realpath(path)
    if not any(real == place or real.startswith(place.rstrip(os.sep) + os.sep) for place in places):
        raise UserError(
            f"{path} leads to {real}, which is neither in {places[0]} nor in the dataset root "
            f"{places[-1]}: link the whole folder instead, or set {DATASETS_VARIABLE} to a folder "
            "that holds both"
        )

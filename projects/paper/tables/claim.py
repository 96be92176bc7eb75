"""One process at a time works on a job, so that several may share the work of a table."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dropkey_core.engine.errors import UserError

LOCK = ".lock"


class ClaimedElsewhere(Exception):
    """Another process works on the job."""


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Hold a folder for the time of the block; the system lets go of it if this process dies.

    Raises:
        ClaimedElsewhere: another process holds it.
        UserError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("w")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ClaimedElsewhere(folder) from error
        yield

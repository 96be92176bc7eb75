"""Atomic writes: a file holds all of its new content or is as before, whatever ends the writing.

The new content goes to a file beside its place, reaches the disk, and then takes the place in one
step. A killed process can only leave the file beside it, ``.NAME.unfinished``: nothing looks for
that, and the next start of a run in its folder removes it.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from dropkey_core.engine.errors import UserError


class WriteError(UserError):
    """The system does not let a file be written; what stood there before still stands there."""


@contextmanager
def whole_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file that appears as ``path``, in place of what is there, when the block has ended.

    Args:
        path: the file; its folder exists.
        mode: ``w`` for text, with line ends as they are written, or ``wb``.

    Raises:
        WriteError: if the system refuses; ``path`` stays as it was.
    """
    unfinished = _beside(path)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    with writing(path):
        try:
            with unfinished.open(mode, **text) as file:  # type: ignore[call-overload]
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def output_file(path: Path) -> Path:
    """Return where a command is going to write a file; its folder is made, and writing is tried.

    So a path that is no good is told before the work rather than after it.

    Raises:
        WriteError: if the system refuses, or ``path`` is a folder.
    """
    path = path.expanduser()
    make_folder(path.parent)
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        _beside(path).touch()
        _beside(path).unlink()
    return path


def link_file(path: Path, other: Path) -> None:
    """Make ``other`` a second name of ``path``, or a copy where the file system has no hard links.

    Args:
        path: a file that is replaced when its content changes, never rewritten.
        other: the second name, in place of what is there.

    Raises:
        WriteError: if the system refuses; ``other`` stays as it was.
    """
    unfinished = _beside(other)
    with writing(other):
        unfinished.unlink(missing_ok=True)
        try:
            os.link(path, unfinished)
        except OSError:
            with path.open("rb") as source, whole_file(other, "wb") as target:
                shutil.copyfileobj(source, target)
            return
        unfinished.replace(other)
        # Two names of one file already: then replacing does nothing, by POSIX.
        unfinished.unlink(missing_ok=True)
        _sync_folder(other.parent)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell what the system has against writing to ``path`` in one line.

    Raises:
        WriteError: for a full disk, a folder that is read-only or gone, and the like.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if (reason := _reason(error)) is None:
            raise
        raise WriteError(f"cannot write {path}: {reason}") from error


def make_folder(folder: Path) -> Path:
    """Make a folder and those above it, and return it; WriteError if the system refuses."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes have left half-written in ``folder``."""
    for path in folder.glob(".*.unfinished"):
        path.unlink()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.unfinished")


def _sync_folder(folder: Path) -> None:
    """Let new names survive a power cut, where the system can say so of a folder."""
    with suppress(OSError):  # on Windows, and of some network file systems
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _reason(error: BaseException | None) -> str | None:
    """Find what the system said: torch's writer puts a complaint of its own on top of it."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return None if error is None else error.strerror or str(error)

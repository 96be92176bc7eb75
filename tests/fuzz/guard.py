"""What a reader may cost and do, and that it did not exceed it.

``Guard`` allows so much processor time and memory and watches, by Python's audit events, that a
reader opens no file but its own and starts, writes, fetches and runs nothing.
"""

import encodings
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Audit events whose mere occurrence is a finding; names that end in a dot stand for all below.
FORBIDDEN = (
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.kill"),
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"),
    *("os.chmod", "os.chown", "os.putenv", "os.unsetenv", "os.setxattr", "os.utime"),
    *("subprocess.Popen", "pty.spawn", "webbrowser.open", "urllib.Request", "socket.", "shutil."),
    *("tempfile.", "ctypes.", "ftplib.", "http.", "smtplib.", "sqlite3.", "pickle.find_class"),
)
CODE = ("exec", "marshal.loads", "import")  # running Python code, which importing is


class Overstep(BaseException):
    """A reader did or cost what it must not; not an Exception, so that no reader catches it."""


class Guard:
    """Watches readers; there is one for the process, as audit hooks are there for good.

    Args:
        folder: where the inputs lie: nothing else may be opened.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.watching = False
        self.thread = threading.get_ident()
        self.may_import = False
        self.found = ""
        sys.addaudithook(self.hear)
        signal.signal(signal.SIGPROF, self.stop)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Refuse an event, in a way that is noticed even where the refusal is swallowed."""
        if not self.watching or threading.get_ident() != self.thread:
            return
        if event == "open" and not self.may_open(*arguments[:3]):
            self.overstep(f"opens {arguments[0]!r:.200} ({arguments[1]})")
        elif event == "os.listdir" and not self.may_list(arguments[0]):
            self.overstep(f"lists {arguments[0]!r:.200}")
        elif event in CODE and not self.may_import and not is_codec(event, *arguments[:1]):
            self.overstep(f"runs code: {event} {arguments!r:.200}")
        elif event.startswith(FORBIDDEN):
            self.overstep(f"calls {event} {arguments!r:.200}")

    def may_open(self, path: Any, mode: Any, flags: Any) -> bool:
        """Whether a file may be opened: for reading, among the inputs or to import it."""
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        inside = isinstance(path, int) or os.path.normpath(name).startswith(str(self.folder))
        return not writes and (inside or self.may_import)

    def may_list(self, path: Any) -> bool:
        """Whether a folder may be looked into: where the inputs are, or codecs, or to import."""
        inside = str(path).startswith(str(self.folder)) or str(path) in encodings.__path__
        return self.may_import or inside

    def overstep(self, what: str) -> None:
        """Note what happened and stop it."""
        self.found = self.found or what
        raise Overstep(what)

    def stop(self, *_: Any) -> None:
        """Stop what takes too long."""
        if self.watching:
            self.overstep("takes too long")

    @contextmanager
    def watch(self, seconds: float, megabytes: int, may_import: bool = False) -> Iterator[None]:
        """Watch what happens within.

        Raises:
            Overstep: it took more processor time or memory, or did what it must not.
        """
        self.found, self.may_import = "", may_import
        forget_highest_memory()
        before, start = highest_memory(), time.process_time()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        # Address space is more than memory: a library reserves some that it never touches.
        resource.setrlimit(resource.RLIMIT_AS, (address_space() + (megabytes << 21), hard))
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_VIRTUAL, 5 * seconds)  # ends the process, even one in C
        self.watching = True
        try:
            yield
        finally:
            self.watching = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        taken, grown = time.process_time() - start, highest_memory() - before
        if not self.found and taken > seconds:  # in C, which no signal interrupts
            self.found = f"takes {taken:.2f} s"
        if not self.found and grown > megabytes << 20:
            self.found = f"takes {grown >> 20} MB"
        if self.found:
            raise Overstep(self.found)


def is_codec(event: str, name: Any = None) -> bool:
    """Whether Python looks for an encoding that a file names; it does so among its own only."""
    return event == "import" and str(name).startswith("encodings.")


def highest_memory() -> int:
    """The most memory, in bytes, that this process has had since it was last forgotten."""
    with Path("/proc/self/status").open() as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))


def forget_highest_memory() -> None:
    """Begin anew with what there is now."""
    Path("/proc/self/clear_refs").write_text("5")


def address_space() -> int:
    """The address space, in bytes, of this process."""
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[0]) * resource.getpagesize()

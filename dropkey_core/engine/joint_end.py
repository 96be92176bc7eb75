"""The processes of a run end together, with the error of the one that failed.

When one fails, those that wait for it fail soon after: the connection is gone. That says nothing of
the cause, so they leave the one that knows it the time to say so, and to end them.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import Popen
from typing import TYPE_CHECKING, Any

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.signals import TrainingStopped

if TYPE_CHECKING:
    from lightning.fabric import Fabric

POLL_S = 0.2
# What a process waits with its own error before it tells it, and ends the others that it started.
USER_ERROR_S = 1.0  # most mistakes are the same in every process: the first one tells them
OTHER_ERROR_S = 5.0  # likely the consequence of another process's


class JointEnd:
    """Watches over the processes on this machine that belong with this one.

    Args:
        launcher: Lightning's; it keeps the processes that it has started in ``procs``.
    """

    def __init__(self, launcher: Any) -> None:
        self._launcher = launcher
        self._is_told = False  # this process tells an error of its own
        self._parent = os.getppid()

    @property
    def _others(self) -> list["Popen[bytes]"]:
        return list(getattr(self._launcher, "procs", []))

    def watch(self) -> None:
        """Begin to watch, in a thread: the main one may wait for a dead process for long."""
        threading.Thread(target=self._watch, name="joint-end", daemon=True).start()

    @contextmanager
    def guard(self, fabric: "Fabric") -> Iterator[None]:
        """Run a block; if it fails, end the other processes here and say which one failed.

        Raises:
            UserError: the block's, with the rank unless it is 0.
        """
        try:
            yield
        except (TrainingStopped, KeyboardInterrupt):
            raise  # asked for, and in every process
        except Exception as error:
            if fabric.world_size == 1:
                raise
            self._let_others_speak(isinstance(error, UserError), fabric.global_rank)
            self._end_others()
            name = f"rank {fabric.global_rank} of {fabric.world_size}"
            if isinstance(error, UserError) and fabric.global_rank:
                raise UserError(f"{name}: {error.one_line()}") from error
            if not isinstance(error, UserError):
                print(f"{name} fails; if another one has failed, see there", file=sys.stderr)
            raise

    def _let_others_speak(self, is_user_error: bool, rank: int) -> None:
        if not is_user_error:
            time.sleep(OTHER_ERROR_S * (1 if rank == 0 else 2))
        elif rank:
            time.sleep(USER_ERROR_S)

    def _end_others(self) -> None:
        self._is_told = True
        for process in self._others:
            process.kill()

    def _watch(self) -> None:
        was_launched = int(os.environ.get("LOCAL_RANK", 0)) > 0
        while not self._is_told:
            time.sleep(POLL_S)
            codes = {rank: process.poll() for rank, process in enumerate(self._others, 1)}
            failed = [(rank, code) for rank, code in codes.items() if code]
            if failed and not self._is_told:
                self._end(*failed[0])
            if was_launched and os.getppid() != self._parent:
                os._exit(1)  # nobody is left to tell it to

    def _end(self, local_rank: int, code: int) -> None:
        """End everything here: the process of ``local_rank`` has ended with ``code``."""
        self._end_others()
        if code < 0:  # it had no time to say anything
            name = signal.Signals(-code).name
            print(f"error: process {local_rank} was ended by {name}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 - code if code < 0 else code)

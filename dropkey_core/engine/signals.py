"""Signal handling: Ctrl-C and SIGTERM end a run between two steps, when it is whole and saved."""

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from dropkey_core.engine.distributed import is_first_process

if TYPE_CHECKING:
    from lightning.fabric import Fabric

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingStopped(Exception):
    """The run was asked to stop and has saved ``last.pth``; ``--resume`` goes on from there.

    Attributes:
        exit_code: 130 after Ctrl-C, as shells have it; 0 after SIGTERM, so that a scheduler starts
            the job again; 0 of processes that the first one launched, which is watching them.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.exit_code = 130 if signal_number == signal.SIGINT and is_first_process() else 0


class StopRequests:
    """Remembers signals while it is entered; a second Ctrl-C interrupts at once, unsaved."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequests":
        is_main = threading.current_thread() is threading.main_thread()
        for number in SIGNALS if is_main else ():  # Python lets no other thread handle signals
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        with contextlib.suppress(OSError):  # Ctrl-C has also ended the program that reads this
            os.write(2, b"\nfinishing this step, then saving ...\n")

    def raise_if_received(self, fabric: "Fabric | None" = None) -> None:
        """Stop here if this process, or with ``fabric``, which all must pass, any was asked to."""
        received = self.received
        if fabric is not None and fabric.world_size > 1:
            here = torch.tensor(received, device=fabric.device)
            received = int(fabric.strategy.all_reduce(here, reduce_op="max"))
        if received:
            raise TrainingStopped(received)

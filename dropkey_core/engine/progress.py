"""Progress: a bar on a terminal, plain lines elsewhere, with speed, time to go and memory."""

import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial

import torch
from tqdm import tqdm

_OF_LAYER = re.compile(r"_\d+$")


class Progress:
    """Progress bar, or plain lines where there is no terminal, with speed and time to go.

    Time is that of the training itself, without evaluations and checkpoints.

    Args:
        quiet: print nothing, as every process but the first does.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.max_iter = 0
        self._steps = self._images = 0
        self._seconds = self._seconds_per_step = self._started = 0.0
        self._quiet = quiet
        self._bar = None

    def begin(self, first_step: int, max_iter: int) -> None:
        """Show a bar, if there is a terminal: ``first_step`` of ``max_iter`` steps are done."""
        self.max_iter = max_iter
        if not self._quiet and sys.stderr.isatty():
            self._bar = tqdm(total=max_iter, initial=first_step, desc="train", dynamic_ncols=True)

    def start(self) -> None:
        """Begin to count time for a step."""
        self._started = time.perf_counter()

    def finish_step(self, images: int) -> None:
        """Count one step over ``images`` images."""
        self._seconds += time.perf_counter() - self._started
        self._steps += 1
        self._images += images
        if self._bar is not None:
            self._tell(self._bar.update)

    def measure(self) -> dict[str, float]:
        """Return speed since the last call, and the most memory used so far."""
        self._seconds_per_step = self._seconds / max(self._steps, 1)
        speed = self._images / self._seconds if self._seconds else 0.0
        self._steps, self._images, self._seconds = 0, 0, 0.0
        return {"images_per_second": speed, "memory_mb": peak_mb()}

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tell the state after ``step`` steps: time to go, losses, learning rate, speed, memory.

        Loss terms of single layers, ``loss_ce_0``, are for ``metrics.csv`` alone.
        """
        shown = {name: value for name, value in metrics.items() if not _OF_LAYER.search(name)}
        words = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        left = timedelta(seconds=round((self.max_iter - step) * self._seconds_per_step))
        if self._bar is not None:
            self._tell(self._bar.set_postfix_str, words)
        else:
            self.say(f"step {step}/{self.max_iter}  eta {left}  {words}")

    def say(self, text: str) -> None:
        """Print a line without disturbing the bar."""
        if self._quiet:
            return
        write = partial(print, flush=True) if self._bar is None else self._bar.write
        self._tell(write, text)

    def _tell(self, write: Callable[..., object], *what: object) -> None:
        try:
            write(*what)
        except OSError:
            # The terminal is closed, a `| tee` has ended, or the disk under it is full: no reason
            # to lose a run. From here on to nowhere.
            self._quiet, self._bar = True, None
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


def peak_mb() -> float:
    """Return the most memory used so far in MiB: of the GPU if one is used, else of the process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**10 if sys.platform != "darwin" else peak / 2**20

"""Logging: ``metrics.csv``, TensorBoard, and a progress bar or plain lines on the terminal."""

import contextlib
import csv
import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from dropkey_core.engine.files.atomic_write import whole_file, writing
from dropkey_core.engine.memory import peak_mb

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class MetricsLog:
    """CSV and TensorBoard logger; a resumed run goes on where its checkpoint stood.

    Lightning's CSV logger starts an existing file anew, and gives an evaluation a row of its own.

    Args:
        folder: holds ``metrics.csv`` and the folder ``tensorboard``.
        done: finished steps of the run. What the files say of later ones, which a killed process
            logged and did not save, is forgotten: they are done again.
    """

    def __init__(self, folder: Path, done: int) -> None:
        self.folder = folder
        self.path = folder / "metrics.csv"
        self.done = done
        self._tensorboard: SummaryWriter | None = None
        self._columns = ["step"]
        self._last_row: dict[str, str] = {}

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add ``metrics`` of ``step``, a count that never falls; WriteError if the disk is full."""
        from torch.utils.tensorboard import SummaryWriter  # takes a second

        if self._tensorboard is None:
            self._rewrite([row for row in self._read() if int(row["step"]) <= self.done])
        self._write_row(step, metrics)
        logs = self.folder / "tensorboard"
        with writing(logs):
            if self._tensorboard is None:
                self._tensorboard = SummaryWriter(str(logs), purge_step=self.done + 1)
            for name, value in metrics.items():
                self._tensorboard.add_scalar(name, value, step)
            self._tensorboard.flush()

    def sync(self) -> None:
        """Let what is written survive a power cut."""
        if self._tensorboard is not None:
            with writing(self.path), self.path.open("a") as file:
                os.fsync(file.fileno())

    def close(self) -> None:
        """Finish the TensorBoard file."""
        if self._tensorboard is not None:
            with contextlib.suppress(OSError):  # what could not be written was told
                self._tensorboard.close()

    def _write_row(self, step: int, metrics: Mapping[str, float]) -> None:
        is_new = self._last_row.get("step") != str(step)
        row = {} if is_new else self._last_row
        row |= {"step": str(step), **{name: repr(float(v)) for name, v in metrics.items()}}
        if is_new and row.keys() <= set(self._columns) and self.path.exists():
            with writing(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)
            self._last_row = row
        else:  # rare: the first row, and evaluations
            earlier = self._read() if is_new else self._read()[:-1]
            self._rewrite([*earlier, row])

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        # A full disk or a power cut may leave a row in part, or zeros in its place.
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
        reader = csv.DictReader(line for line in lines if "\0" not in line)
        whole = [row for row in reader if None not in row and None not in row.values()]
        return [row for row in whole if row.get("step", "").isdigit()]

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        names = [name for row in rows for name in row]
        self._columns = list(dict.fromkeys([*self._columns, *names]))
        with whole_file(self.path) as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        self._last_row = rows[-1] if rows else {}


class Progress:
    """Progress bar, or plain lines where there is no terminal, with speed and time to go.

    Time is that of the training itself, without evaluations and checkpoints.

    Args:
        first_step: steps done before this run.
        max_iter: steps in all.
        quiet: print nothing, as every process but the first does.
    """

    def __init__(self, first_step: int, max_iter: int, quiet: bool = False) -> None:
        self.max_iter = max_iter
        self._steps = self._images = 0
        self._seconds = self._seconds_per_step = self._started = 0.0
        self._quiet = quiet
        self._bar = None
        if not quiet and sys.stderr.isatty():
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
        """Tell the state after ``step`` steps: time to go, losses, learning rate, speed, memory."""
        words = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
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

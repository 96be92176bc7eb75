"""What a run measured, on disk: ``metrics.csv`` to plot, TensorBoard to look at."""

import contextlib
import csv
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dropkey_core.engine.files.atomic_write import whole_file, writing


class MetricsLog:
    """One row per logged step; a resumed run goes on where its checkpoint stood.

    Lightning's own CSV logger starts an existing file anew, and splits training and evaluation of
    one step into two rows.

    Args:
        folder: holds ``metrics.csv`` and the folder ``tensorboard``.
        done: finished steps of the run. What the files say of later ones, which a process logged
            and was killed before it saved them, is forgotten: they are done again.
    """

    def __init__(self, folder: Path, done: int) -> None:
        self.path = folder / "metrics.csv"
        self.done = done
        self._tensorboard_folder = folder / "tensorboard"
        self._tensorboard: EventFile | None = None
        self._columns: list[str] = ["step"]
        self._last_row: dict[str, Any] = {}

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add ``metrics`` of ``step``, a count of finished steps that never falls.

        Raises:
            WriteError: if the disk is full, or the folder read-only or gone.
        """
        with writing(self._tensorboard_folder):
            if self._tensorboard is None:
                self._tensorboard = EventFile(self._tensorboard_folder, self.done)
                self._rewrite([row for row in self._read() if int(row["step"]) <= self.done])
            self._tensorboard.write(step, metrics)
        self._write_csv(step, metrics)

    def sync(self) -> None:
        """Let what is written survive a power cut."""
        if self._tensorboard is not None:
            with writing(self.path), self.path.open("a") as file:
                os.fsync(file.fileno())

    def close(self) -> None:
        """Finish the TensorBoard file."""
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _write_csv(self, step: int, metrics: Mapping[str, float]) -> None:
        is_new_row = self._last_row.get("step") != str(step)
        row = {} if is_new_row else self._last_row
        row |= {"step": str(step), **{name: repr(float(v)) for name, v in metrics.items()}}
        new_columns = [name for name in row if name not in self._columns]
        self._columns += new_columns
        if is_new_row and not new_columns and self.path.exists():
            with writing(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)
            self._last_row = row
        else:  # rare: the first row, and evaluations
            earlier = self._read() if is_new_row else self._read()[:-1]
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
        self._columns += [name for row in rows for name in row if name not in self._columns]
        self._columns = list(dict.fromkeys(self._columns))
        with whole_file(self.path) as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        self._last_row = rows[-1] if rows else {}


class EventFile:
    """One file of scalars, made when a run starts or goes on.

    tensorboard's own writer hands all it gets to a thread: that one dies with a traceback of its
    own when the disk is full, and loader processes would be forked beside it. This one writes when
    it is told to.

    Args:
        folder: where the run's event files lie; made if need be.
        done: finished steps of the run: TensorBoard forgets later ones in older files.
    """

    def __init__(self, folder: Path, done: int) -> None:
        # Imported here: it takes a second.
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{time.time_ns()}.{platform.node()}.{os.getpid()}"
        self._event = Event
        self._records = RecordWriter((folder / name).open("wb"))
        self._write(file_version="brain.Event:2")
        self._write(step=done + 1, session_log=SessionLog(status=SessionLog.START))
        self._records.flush()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add the scalars of a step; they have left this process when it returns."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        for name, value in scalars.items():
            summary = Summary(value=[Summary.Value(tag=name, simple_value=float(value))])
            self._write(step=step, summary=summary)
        self._records.flush()

    def close(self) -> None:
        """Let go of the file."""
        with contextlib.suppress(OSError):  # what could not be written is tried again, and was told
            self._records.close()

    def _write(self, **fields: object) -> None:
        event = self._event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())


class Progress:
    """Counts steps and images of the training itself; evaluations and checkpoints do not count.

    Args:
        first_step: steps done before this run.
        max_iter: steps in all.
        quiet: print nothing, as every process but the first does.
    """

    def __init__(self, first_step: int, max_iter: int, quiet: bool = False) -> None:
        self.max_iter = max_iter
        self.seconds_per_step = 0.0
        self._steps = self._images = 0
        self._seconds = 0.0
        self._started: float | None = None
        self._quiet = quiet
        self._bar = None
        if not quiet and sys.stderr.isatty():
            self._bar = tqdm(total=max_iter, initial=first_step, desc="train", dynamic_ncols=True)

    def start(self) -> None:
        """Begin to count time for a step."""
        self._started = time.perf_counter()

    def finish_step(self, images: int) -> None:
        """Count one step over ``images`` images."""
        assert self._started is not None
        self._seconds += time.perf_counter() - self._started
        self._steps += 1
        self._images += images
        if self._bar is not None:
            self._tell(self._bar.update)

    def measure(self) -> dict[str, float]:
        """Return speed since the last call, and the most memory used so far."""
        self.seconds_per_step = self._seconds / max(self._steps, 1)
        speed = self._images / self._seconds if self._seconds else 0.0
        self._steps = self._images = 0
        self._seconds = 0.0
        return {"images_per_second": speed, "memory_mb": memory_mb()}

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tell the state after ``step`` steps: time to go, losses, learning rate, speed, memory."""
        words = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        left = timedelta(seconds=round((self.max_iter - step) * self.seconds_per_step))
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
            # The terminal is closed, what reads the output has ended (Ctrl-C ends a `| tee`, too),
            # or the disk under it is full: no reason to lose a run. From here on to nowhere.
            self._quiet, self._bar = True, None
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


def memory_mb() -> float:
    """Return the most memory used so far in MiB: of the GPU if one is used, else of the process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**10 if sys.platform != "darwin" else peak / 2**20

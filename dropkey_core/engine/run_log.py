"""What a run measured, on disk: ``metrics.csv`` to plot, TensorBoard to look at."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dropkey_core.engine.event_file import EventFile
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

"""What a run measured, on disk: ``metrics.csv`` to plot, TensorBoard to look at."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class MetricsLog:
    """One row per logged step; a resumed run goes on where its checkpoint stood.

    Lightning's own CSV logger starts an existing file anew, and splits training and evaluation of
    one step into two rows.

    Args:
        folder: holds ``metrics.csv`` and the folder ``tensorboard``.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.csv"
        self._tensorboard_folder = folder / "tensorboard"
        self._tensorboard: Any = None
        self._columns: list[str] = ["step"]
        self._last_row: dict[str, Any] = {}

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add ``metrics`` of ``step``, a count of finished steps that never falls."""
        if self._tensorboard is None:
            self._open(step)
        for name, value in metrics.items():
            self._tensorboard.add_scalar(name, value, step)
        self._tensorboard.flush()
        self._write_csv(step, metrics)

    def close(self) -> None:
        """Finish the TensorBoard file."""
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _open(self, step: int) -> None:
        # Imported here: it takes seconds.
        from torch.utils.tensorboard import SummaryWriter

        # Steps after the checkpoint that the run resumed from are done again: forget them.
        self._tensorboard = SummaryWriter(str(self._tensorboard_folder), purge_step=step)
        rows = [row for row in self._read() if int(row["step"]) <= step]
        self._rewrite(rows)

    def _write_csv(self, step: int, metrics: Mapping[str, float]) -> None:
        is_new_row = self._last_row.get("step") != str(step)
        row = {} if is_new_row else self._last_row
        row |= {"step": str(step), **{name: repr(float(v)) for name, v in metrics.items()}}
        new_columns = [name for name in row if name not in self._columns]
        self._columns += new_columns
        if is_new_row and not new_columns:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(row)
            self._last_row = row
        else:  # rare: the first row, and evaluations
            earlier = self._read() if is_new_row else self._read()[:-1]
            self._rewrite([*earlier, row])

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            # A row that a killed process wrote only in part lacks its last columns.
            return [row for row in reader if None not in row.values() and row["step"].isdigit()]

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        self._columns += [name for row in rows for name in row if name not in self._columns]
        self._columns = list(dict.fromkeys(self._columns))
        unfinished = self.path.with_name(f".{self.path.name}.unfinished")
        with unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        unfinished.replace(self.path)
        self._last_row = rows[-1] if rows else {}

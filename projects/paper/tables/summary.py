"""Numbers of a table, ours beside the paper's: mean and spread over seeds."""

import csv
import statistics
from dataclasses import dataclass
from pathlib import Path

from dropkey_core.engine.errors import UserError
from projects.paper.tables.job import Job, Plan, jobs_of_row
from projects.paper.tables.record import Metrics, metrics_of
from projects.paper.tables.schema import Metric, Quoted, Row
from projects.paper.tables.table import Table

NONE = "-"


@dataclass(frozen=True)
class Cell:
    """One metric of one row.

    Attributes:
        metric: the column.
        paper: the paper's number, if it has one.
        values: ours, one per seed that is done.
    """

    metric: Metric
    paper: Quoted | None
    values: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """Mean over seeds; None before the first."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds (n - 1 in the denominator); None for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def paper_text(self) -> str:
        """The paper's number with its ± if it has one, or a dash."""
        if self.paper is None:
            return NONE
        value, spread = self.paper
        return self.number(value) + ("" if spread is None else f" ± {self.number(spread)}")

    @property
    def ours_text(self) -> str:
        """Mean ± spread, never one without the other: the spread of a single seed is a dash."""
        if self.mean is None:
            return NONE
        return f"{self.number(self.mean)} ± {self.number(self.spread)}"

    def number(self, value: float | None) -> str:
        """A value of this metric with its digits, or a dash."""
        return NONE if value is None else f"{value:.{self.metric.digits}f}"


@dataclass(frozen=True)
class RowSummary:
    """A row of the report.

    Attributes:
        row: of the table.
        cells: in the order of the table's metrics.
        seeds: those that are done.
        planned: all that are wanted.
        failure: why a seed of it failed in this call; empty if none did.
    """

    row: Row
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    planned: tuple[int, ...]
    failure: str = ""

    @property
    def state(self) -> str:
        """How many seeds the numbers stand on."""
        if self.row.left_out:
            return "left out"
        done, planned = len(self.seeds), len(self.planned)
        if not done:
            return "failed" if self.failure else "not run"
        of = "" if done == planned else f" of {planned}"
        return f"{done}{of} seed{'' if planned == 1 else 's'}"


def summarise(table: Table, plan: Plan, failed: dict[str, str] | None = None) -> list[RowSummary]:
    """Collect the numbers that are there, of the rows wanted.

    Args:
        table: whose rows.
        plan: which of them, where.
        failed: reasons by name of job.

    Raises:
        UserError: a finished run does not have a metric of the table.
    """
    summaries = []
    for row in plan.rows_of(table):
        jobs = jobs_of_row(table, row, plan)
        done = [(job, metrics_of(job)) for job in jobs]
        found = [(job, metrics) for job, metrics in done if metrics is not None]
        summaries.append(
            RowSummary(
                row,
                tuple(_cell(metric, row, found) for metric in table.metrics),
                tuple(job.seed for job, _ in found),
                tuple(job.seed for job in jobs),
                next((failed[job.name] for job in jobs if failed and job.name in failed), ""),
            )
        )
    return summaries


def _cell(metric: Metric, row: Row, found: list[tuple[Job, Metrics]]) -> Cell:
    for job, metrics in found:
        if metric.name not in metrics:
            raise UserError(
                f"{job.table.path}: {job.name} has no metric {metric.name!r}; it has "
                + ", ".join(sorted(metrics))
            )
    values = tuple(metric.factor * metrics[metric.name] for _, metrics in found)
    return Cell(metric, row.paper.get(metric.name), values)


def write_csv(path: Path, table: Table, plan: Plan) -> Path:
    """Write every number of every finished job of the rows wanted: row, seed, metric, value."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "seed", "metric", "value"])
        for row in plan.rows_of(table):
            for job in jobs_of_row(table, row, plan):
                for name, value in (metrics_of(job) or {}).items():
                    writer.writerow([row.id, job.seed, name, repr(value)])
    return path

"""Results of a table: mean and standard deviation over seeds, beside the paper's numbers."""

import csv
import statistics
from dataclasses import dataclass
from pathlib import Path

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.atomic_write import whole_file
from projects.paper.tables.job import Plan, jobs_of_row
from projects.paper.tables.table import Metric, Row, Table

NONE = "-"


@dataclass(frozen=True)
class Line:
    """A row of the report, in words.

    Attributes:
        row: of the table.
        paper: the paper's number for each metric, with its ± if it has one, or a dash.
        ours: mean ± standard deviation for each metric, or a dash.
        state: how many seeds the numbers stand on.
    """

    row: Row
    paper: list[str]
    ours: list[str]
    state: str


def summarise(table: Table, plan: Plan) -> list[Line]:
    """Collect the numbers that are there, of the rows wanted.

    Raises:
        UserError: a finished run does not have a metric of the table.
    """
    lines = []
    for row in plan.rows_of(table):
        jobs = jobs_of_row(table, row, plan)
        found = {job.name: metrics for job in jobs if (metrics := job.metrics()) is not None}
        state = "left out" if row.left_out else _state(len(found), len(jobs))
        paper = [_paper(metric, row) for metric in table.metrics]
        ours = [mean_and_spread(metric, _values(metric, found)) for metric in table.metrics]
        lines.append(Line(row, paper, ours, state))
    return lines


def _state(done: int, planned: int) -> str:
    if not done:
        return "not run"
    of = "" if done == planned else f" of {planned}"
    return f"{done}{of} seed{'' if planned == 1 else 's'}"


def _paper(metric: Metric, row: Row) -> str:
    found = row.paper.get(metric.name)
    numbers = found if isinstance(found, list) else [] if found is None else [found]
    return " ± ".join(f"{number:.{metric.digits}f}" for number in numbers) or NONE


def mean_and_spread(metric: Metric, values: list[float]) -> str:
    """Mean ± standard deviation (n - 1 in the denominator); of a single seed the latter is a dash.

    A dash alone if there are no values.
    """
    if not values:
        return NONE
    spread = f"{statistics.stdev(values):.{metric.digits}f}" if len(values) > 1 else NONE
    return f"{statistics.fmean(values):.{metric.digits}f} ± {spread}"


def _values(metric: Metric, found: dict[str, dict[str, float]]) -> list[float]:
    for name, metrics in found.items():
        if metric.name not in metrics:
            known = ", ".join(sorted(metrics))
            raise UserError(f"{name} has no metric {metric.name!r}; it has {known}")
    return [metric.factor * metrics[metric.name] for metrics in found.values()]


def write_csv(path: Path, table: Table, plan: Plan) -> None:
    """Write every number of every finished job of the rows wanted: row, seed, metric, value.

    Raises:
        UserError: the file cannot be written.
    """
    with whole_file(path) as file:
        writer = csv.writer(file)
        writer.writerow(["row", "seed", "metric", "value"])
        for row in plan.rows_of(table):
            for job in jobs_of_row(table, row, plan):
                for name, value in (job.metrics() or {}).items():
                    writer.writerow([row.id, job.seed, name, repr(value)])

"""Reports of a table: mean and standard deviation over seeds, beside the paper's numbers."""

import csv
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.atomic_write import make_folder, whole_file
from dropkey_core.engine.paths import PROJECT_ROOT
from dropkey_core.engine.run_folder import LAST
from projects.paper.tables.job import Job, Plan, jobs_of_row, plan_jobs
from projects.paper.tables.table import Metric, Row, Table

NONE = "-"
OURS = (
    "Ours: mean ± standard deviation over seeds of the evaluation after the last step; the "
    f"standard deviation of one seed is unknown ({NONE})."
)


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


def write_reports(table: Table, plan: Plan) -> list[Path]:
    """Write a table's reports, Markdown and CSV, with the numbers there are; return where.

    Raises:
        UserError: the folder cannot be written to, or a run lacks a metric.
    """
    folder = plan.folder(table)
    lines = summarise(table, plan)
    make_folder(folder)
    with whole_file(folder / "table.md") as file:
        file.write(markdown(table, plan, lines))
    write_csv(folder / "results.csv", table, plan)
    return [folder / "table.md", folder / "results.csv"]


def markdown(table: Table, plan: Plan, lines: Sequence[Line]) -> str:
    """Return the report: title, table, notes, and how it was made."""
    head, *body = cells(table, lines)
    rows = [head, ["---", *["---:"] * (len(head) - 2), "---"]]
    rows += [line if any(line[1:]) else [f"**{line[0]}**", *line[1:]] for line in body]
    drawn = ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in rows]
    before = [text for text in (table.scale_notes.get(plan.scale), *table.notes) if text]
    made = f"Made by: {command(table, plan)}"
    after = [*notes(lines), OURS, f"Paper: {table.source}", made]
    return "\n\n".join([f"# {table.title}", *before, "\n".join(drawn), *after]) + "\n"


def cells(table: Table, lines: Sequence[Line]) -> list[list[str]]:
    """Return the table's head and its rows, all of one length; headings of groups are alone.

    The paper has a column for each metric of which it has a number.
    """
    known = [any(line.paper[i] != NONE for line in lines) for i in range(len(table.metrics))]
    head = [""]
    for metric, has_paper in zip(table.metrics, known, strict=True):
        label = metric.label + " ↓" * (metric.better == "lower")
        head += [f"{label}, paper", f"{label}, ours"] if has_paper else [f"{label}, ours"]
    rows, group = [[*head, "seeds"]], ""
    for line in lines:
        if line.row.group != group and (group := line.row.group):
            rows.append([group, *[""] * len(head)])
        texts = [line.row.label]
        for paper, ours, has_paper in zip(line.paper, line.ours, known, strict=True):
            texts += [paper, ours] if has_paper else [ours]
        rows.append([*texts, line.state])
    return rows


def notes(lines: Sequence[Line]) -> list[str]:
    """What there is to say about single rows."""
    return [
        f"{line.row.full_label}: {text}"
        for line in lines
        for text in (line.row.note, line.row.left_out and f"left out: {line.row.left_out}")
        if text
    ]


def command(table: Table, plan: Plan) -> str:
    """Return the command that runs and reports a part of a table, quoted for a shell."""
    path = table.path
    inside = path.is_relative_to(PROJECT_ROOT)
    words = ["tools/reproduce.py", str(path.relative_to(PROJECT_ROOT) if inside else path)]
    words += plan.overrides
    words += ["--scale", plan.scale] if plan.scale != Plan.scale else []
    words += ["--rows", *plan.rows] if plan.rows else []
    words += ["--seeds", *map(str, plan.seeds)] if plan.seeds else []
    words += ["--output", str(plan.output)] if plan.output != Plan.output else []
    return shlex.join(words)


def listing(table: Table, plan: Plan) -> str:
    """Return a line per row for a terminal: its id, the paper's numbers, how far, what it is."""
    lines = summarise(table, plan)
    rows = [["row", *(metric.label for metric in table.metrics), "ours", ""]]
    rows += [[line.row.id, *line.paper, line.state, line.row.full_label] for line in lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    jobs = plan_jobs(table, plan)
    records = [record for job in jobs if (record := job.record())]
    done = sum(record["metrics"] is not None for record in records)
    begun = len(records) - done
    return "\n".join(
        [
            f"{table.title}: the paper's numbers",
            *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows),
            f"Paper: {table.source}",
            *(f"* {note}" for note in (*table.notes, *notes(lines))),
            f"{done} of {len(jobs)} jobs are done" + (f", {begun} unfinished" if begun else ""),
        ]
    )


def commands(table: Table, plan: Plan, num_gpus: int | None = None) -> str:
    """Return the command of each job, and why rows have none.

    What such a command trains is the table's: ``tools/reproduce.py`` finds it in the same folder.
    """
    lines = []
    for job in plan_jobs(table, plan):
        lines.append(f"# {job.row.id}: {job.row.full_label}, seed {job.seed}")
        lines.append(_command_of(job, num_gpus))
    left_out = [row for row in plan.rows_of(table) if row.left_out]
    lines += [f"# {row.id}: {row.full_label}, left out: {row.left_out}" for row in left_out]
    return "\n".join(lines)


def _command_of(job: Job, num_gpus: int | None) -> str:
    if job.setup.measure:
        return command(job.table, replace(job.plan, rows=(job.row.id,), seeds=(job.seed,)))
    words = ["tools/train_net.py", "--config", job.setup.config]
    words += ["--num-gpus", str(num_gpus)] if num_gpus else []
    words += ["--weights", str(job.parent.folder / LAST)] if job.parent else []
    words += [*job.overrides, f"train.seed={job.seed}", f"train.output_dir={job.folder}"]
    return shlex.join(words)

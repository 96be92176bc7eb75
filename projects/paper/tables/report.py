"""Reports of a table: Markdown and CSV, and the listing for a terminal."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dropkey_core.engine.files.atomic_write import whole_file, writing
from dropkey_core.engine.paths import PROJECT_ROOT
from dropkey_core.engine.run_folder import LAST
from projects.paper.tables.job import Job, Plan, plan_jobs
from projects.paper.tables.summary import NONE, Line, summarise, write_csv
from projects.paper.tables.table import Table

OURS = (
    "Ours: mean ± standard deviation over seeds of the evaluation after the last step; the "
    f"standard deviation of one seed is unknown ({NONE})."
)

def write_reports(table: Table, plan: Plan) -> list[Path]:
    """Write a table's reports, Markdown and CSV, with the numbers there are; return where.

    Raises:
        UserError: the folder cannot be written to, or a run lacks a metric.
    """
    folder = plan.folder(table)
    lines = summarise(table, plan)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
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

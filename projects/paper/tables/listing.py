"""A table for the terminal: the paper's numbers, how far each row is, the commands behind it."""

import shlex
from collections.abc import Sequence

from dropkey_core.engine.run_folder import LAST
from projects.paper.tables.job import Job, Plan, plan_jobs
from projects.paper.tables.markdown import notes_of_rows
from projects.paper.tables.record import State, state_of
from projects.paper.tables.summary import RowSummary, summarise
from projects.paper.tables.table import Table


def listing(table: Table, plan: Plan) -> str:
    """Return a line per row: its id, the paper's numbers, how far it is, what it is.

    Raises:
        UserError: an unknown scale or row, or a run that lacks a metric.
    """
    heads = ["row", *(metric.label for metric in table.metrics), "ours", ""]
    rows = summarise(table, plan)
    lines = [heads, *map(_line, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    states = [state_of(job) for job in plan_jobs(table, plan)]
    done, begun = (states.count(state) for state in (State.done, State.unfinished))
    return "\n".join(
        [
            f"{table.title}: the paper's numbers",
            *(_padded(line, widths) for line in lines),
            f"Paper: {table.source}",
            *(f"* {note}" for note in table.notes),
            *(f"* {label}: {note}" for label, note in notes_of_rows(rows)),
            f"{done} of {len(states)} jobs are done" + (f", {begun} unfinished" if begun else ""),
        ]
    )


def _line(summary: RowSummary) -> list[str]:
    row = summary.row
    label = f"{row.group}, {row.label}" if row.group else row.label
    return [row.id, *(cell.paper_text for cell in summary.cells), summary.state, label]


def _padded(line: Sequence[str], widths: Sequence[int]) -> str:
    first, *middle, last = (text.ljust(width) for text, width in zip(line, widths, strict=True))
    return "  ".join([first, *middle, last]).rstrip()


def commands(table: Table, plan: Plan, num_gpus: int | None = None) -> str:
    """Return the command of each job, those that others need first.

    What such a command trains is the table's: ``tools/reproduce.py`` finds it in the same folder.

    Raises:
        UserError: an unknown scale or row.
    """
    return "\n".join(
        f"# {job.row.label}, seed {job.seed}\n{_command(job, num_gpus)}"
        for job in plan_jobs(table, plan)
    )


def _command(job: Job, num_gpus: int | None) -> str:
    if job.setup.measure:
        words = ["tools/reproduce.py", str(job.table.path), "--scale", job.plan.scale]
        words += ["--rows", job.row.id, "--seeds", str(job.seed), "--output", str(job.plan.output)]
    else:
        words = ["tools/train_net.py", "--config", job.setup.config]
        words += ["--num-gpus", str(num_gpus)] if num_gpus else []
        words += ["--weights", str(job.parent.folder / LAST)] if job.parent else []
        words += [*job.overrides, f"train.seed={job.seed}", f"train.output_dir={job.folder}"]
    return shlex.join(words)

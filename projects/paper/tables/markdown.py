"""A table as Markdown, for a README or a terminal."""

from collections.abc import Sequence

from projects.paper.tables.job import Plan
from projects.paper.tables.summary import NONE, RowSummary
from projects.paper.tables.table import Table


def markdown(table: Table, plan: Plan, rows: Sequence[RowSummary]) -> str:
    """Return the report: title, table, notes, and how it was made."""
    parts = [f"# {table.title}", *remarks(table, plan), "\n".join(_lines(table, rows))]
    if said := notes_of_rows(rows):
        parts.append("\n".join(f"* {label}: {note}" for label, note in said))
    parts += [*explanation(table), f"`{command(table, plan)}`"]
    return "\n\n".join(parts) + "\n"


def _lines(table: Table, rows: Sequence[RowSummary]) -> list[str]:
    shown = paper_is_known(table, rows)
    heads = [
        head
        for metric, known in zip(table.metrics, shown, strict=True)
        for head in ([f"{metric.label}, paper"] if known else []) + [f"{metric.label}, ours"]
    ]
    lines = [_line(["", *heads, "seeds"]), _line(["---", *(["---:"] * len(heads)), "---"])]
    group = ""
    for summary in rows:
        if summary.row.group != group and (group := summary.row.group):
            lines.append(_line([f"**{group}**", *([""] * (len(heads) + 1))]))
        numbers = [
            text
            for cell, known in zip(summary.cells, shown, strict=True)
            for text in ([cell.paper_text] if known else []) + [cell.ours_text]
        ]
        lines.append(_line([summary.row.label, *numbers, summary.state]))
    return lines


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def paper_is_known(table: Table, rows: Sequence[RowSummary]) -> list[bool]:
    """For each metric: whether the paper has a number in any row."""
    return [
        any(summary.cells[position].paper is not None for summary in rows)
        for position in range(len(table.metrics))
    ]


def remarks(table: Table, plan: Plan) -> list[str]:
    """What a reader must know before the numbers."""
    return [text for text in (table.scale_notes.get(plan.scale, ""), *table.notes) if text]


def notes_of_rows(rows: Sequence[RowSummary]) -> list[tuple[str, str]]:
    """Label and text of what there is to say about single rows."""
    said = []
    for summary in rows:
        row = summary.row
        label = f"{row.group}, {row.label}" if row.group else row.label
        left_out = row.left_out and f"left out: {row.left_out}"
        failure = summary.failure and f"failed: {summary.failure}"
        texts = (row.note, left_out, failure)
        said += [(label, text) for text in texts if text]
    return said


def explanation(table: Table) -> list[str]:
    """What the numbers are."""
    ours = (
        "Ours: mean ± standard deviation over seeds of the evaluation after the last step; the "
        f"standard deviation of one seed is unknown ({NONE})."
    )
    return [ours, f"Paper: {table.source}"]


def command(table: Table, plan: Plan) -> str:
    """Return the command that makes the report."""
    options = [f"--scale {plan.scale}"] if plan.scale != "full" else []
    if plan.rows:
        options.append(f"--rows {' '.join(plan.rows)}")
    if plan.seeds:
        options.append(f"--seeds {' '.join(map(str, plan.seeds))}")
    folder = table.path.parent.name
    return " ".join(
        [f"tools/reproduce.py configs/{folder}/{table.path.name}", *plan.overrides, *options]
    )

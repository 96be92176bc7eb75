"""A table as one HTML file that fetches nothing."""

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby

from projects.paper.tables.job import Plan
from projects.paper.tables.markdown import (
    command,
    explanation,
    notes_of_rows,
    paper_is_known,
    remarks,
)
from projects.paper.tables.strip import common_range, draw
from projects.paper.tables.summary import NONE, Cell, RowSummary
from projects.paper.tables.table import Table

MOST_DRAWN = 3  # metrics: with more, drawings would be wider than a screen

STYLE = """
:root {color-scheme: light dark; --text: #1c2330; --soft: #616b7c; --line: #dfe3ea;
  --page: #fff; --band: #f4f6f9; --ours: #2563a8; --paper: #b45309; --warn: #fdf3e1}
@media (prefers-color-scheme: dark) {:root {--text: #e6e9ef; --soft: #9aa4b5; --line: #333b48;
  --page: #14181f; --band: #1c222c; --ours: #74aef0; --paper: #f0a04b; --warn: #33290f}}
body {margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif}
main {max-width: 80rem; margin: 0 auto; padding: 2rem 1.5rem}
h1 {font-size: 1.4rem; line-height: 1.3; margin: 0 0 1rem}
p {margin: .5rem 0; max-width: 52rem}
p.scale {background: var(--warn); border-left: 3px solid var(--paper); padding: .5rem .75rem}
.wide {overflow-x: auto; margin: 1.5rem 0}
table {border-collapse: collapse}
th, td {padding: .3rem .7rem; text-align: left; border-bottom: 1px solid var(--line)}
th, td {white-space: nowrap}
thead th {font-weight: 600; vertical-align: bottom}
th.number, td.number {text-align: right; font-variant-numeric: tabular-nums}
th.metric {text-align: center}
td.ours {font-weight: 600}
td.paper, td.state, .axis-ends, .notes, footer {color: var(--soft)}
tr.group th {background: var(--band)}
tr.group .axis-ends {display: flex; justify-content: space-between; font-weight: 400}
tr.left-out td {color: var(--soft)}
tbody th {font-weight: 400}
table.many {font-size: 13px}
table.many th, table.many td {padding: .3rem .4rem}
tr.group th {font-weight: 600}
svg {display: block}
path.axis {stroke: var(--line); fill: none}
rect.spread {fill: var(--ours); opacity: .25}
circle.seed {fill: var(--ours)}
path.mean {stroke: var(--ours); stroke-width: 2; fill: none}
path.paper {fill: none; stroke: var(--paper); stroke-width: 1.8}
.legend {display: flex; flex-wrap: wrap; gap: .3rem 1.5rem; color: var(--soft); align-items: center}
.legend span {display: inline-flex; gap: .4rem; align-items: center}
code {background: var(--band); padding: .1rem .35rem; border-radius: 3px; overflow-wrap: anywhere}
footer {margin-top: 1.5rem; border-top: 1px solid var(--line); padding-top: .75rem}
"""

# Nothing may be loaded, not even by a label that someone wrote HTML into.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"

LEGEND = """<p class="legend">
<span><svg width="12" height="24"><circle class="seed" cx="6" cy="12" r="2.5"/></svg>a seed</span>
<span><svg width="34" height="24"><rect class="spread" x="2" y="7" width="30" height="10" rx="2"/>
<path class="mean" d="M17 4V20"/></svg>ours, mean ± standard deviation</span>
{paper}</p>"""
PAPER_LEGEND = (
    '<span><svg width="16" height="24"><path class="paper" d="M8 6l6 6l-6 6l-6 -6z"/></svg>'
    "the paper</span>"
)


def page(table: Table, plan: Plan, rows: Sequence[RowSummary]) -> str:
    """Return the report as HTML: the same as in Markdown, with drawings where columns are few."""
    # At another scale the paper's numbers belong to other data: no common axis.
    with_paper = plan.scale == "full"
    layout = _Layout(table, rows, len(table.metrics) <= MOST_DRAWN, with_paper)
    title = escape(table.title)
    scale_note = table.scale_notes.get(plan.scale, "")
    intro = [
        f'<p class="scale">{escape(text)}</p>' if text == scale_note else f"<p>{escape(text)}</p>"
        for text in remarks(table, plan)
    ]
    legend = LEGEND.format(paper=PAPER_LEGEND if with_paper else "") if layout.drawn else ""
    said = notes_of_rows(rows)
    notes = [f"<li>{escape(label)}: {escape(note)}</li>" for label, note in said]
    foot = [f"<p>{escape(text)}</p>" for text in explanation(table)]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>",
            f"<h1>{title}</h1>",
            *intro,
            f'<div class="wide"><table{layout.kind()}>\n{layout.head()}\n<tbody>',
            *layout.body(),
            "</tbody></table></div>",
            legend,
            f'<ul class="notes">{"".join(notes)}</ul>' if notes else "",
            f"<footer>{''.join(foot)}<p><code>{escape(command(table, plan))}</code></p></footer>",
            "</main>\n</body>\n</html>\n",
        ]
    )


class _Layout:
    """Which columns each metric has, and the table with them."""

    def __init__(
        self, table: Table, rows: Sequence[RowSummary], drawn: bool, with_paper: bool
    ) -> None:
        self.metrics = table.metrics
        self.rows = rows
        self.shown = paper_is_known(table, rows)
        self.drawn = drawn and any(cell.values for summary in rows for cell in summary.cells)
        self.with_paper = with_paper

    def kind(self) -> str:
        """The table's class: narrower where columns are many."""
        return ' class="many"' if len(self.metrics) > MOST_DRAWN else ""

    def head(self) -> str:
        """Headings: metrics, and below each what its columns are, unless all of them are ours."""
        spans, columns = [], []
        for metric, shown in zip(self.metrics, self.shown, strict=True):
            names = [*(["paper"] if shown else []), "ours", *([""] if self.drawn else [])]
            label = f"{escape(metric.label)} {metric.better.value}"
            spans.append(f'<th class="metric" colspan="{len(names)}">{label}</th>')
            columns += [f'<th class="number">{name}</th>' for name in names]
        lines = 2 if any(self.shown) or self.drawn else 1
        second = f"<tr>{''.join(columns)}</tr>" if lines == 2 else ""
        return (
            f'<thead><tr><th rowspan="{lines}"></th>{"".join(spans)}'
            f'<th rowspan="{lines}">seeds</th></tr>{second}</thead>'
        )

    def body(self) -> Iterator[str]:
        """The rows, under the headings of their groups."""
        for group, members in groupby(self.rows, key=lambda summary: summary.row.group):
            summaries = list(members)
            axes = [
                common_range([summary.cells[i] for summary in summaries], self.with_paper)
                for i in range(len(self.metrics))
            ]
            if group or (self.drawn and any(axes)):
                yield self._group(group, axes)
            for summary in summaries:
                yield self._row(summary, axes)

    def _group(self, name: str, axes: Sequence[tuple[float, float] | None]) -> str:
        cells = []
        for metric, shown, axis in zip(self.metrics, self.shown, axes, strict=True):
            cells.append("<th></th>" * (1 + shown))
            if self.drawn:
                ends = [f"<span>{end:.{metric.digits}f}</span>" for end in axis or ()]
                cells.append(f'<th><div class="axis-ends">{"".join(ends)}</div></th>')
        return f'<tr class="group"><th>{escape(name)}</th>{"".join(cells)}<th></th></tr>'

    def _row(self, summary: RowSummary, axes: Sequence[tuple[float, float] | None]) -> str:
        cells = []
        for cell, shown, axis in zip(summary.cells, self.shown, axes, strict=True):
            if shown:
                cells.append(f'<td class="number paper">{cell.paper_text}</td>')
            cells.append(f'<td class="number ours">{cell.ours_text}</td>')
            if self.drawn:
                cells.append(f"<td>{self._drawing(cell, axis)}</td>")
        kind = ' class="left-out"' if summary.row.left_out else ""
        return (
            f"<tr{kind}><th>{escape(summary.row.label)}</th>{''.join(cells)}"
            f'<td class="state">{escape(summary.state)}</td></tr>'
        )

    def _drawing(self, cell: Cell, axis: tuple[float, float] | None) -> str:
        has_something = cell.values or (self.with_paper and cell.paper is not None)
        return draw(cell, axis, self.with_paper) if axis and has_something else NONE

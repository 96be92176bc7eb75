"""A row's numbers as a small drawing: a dot per seed, mean and spread, and the paper's number."""

from collections.abc import Sequence
from html import escape

from projects.paper.tables.summary import Cell

WIDTH, HEIGHT, MARGIN = 120, 24, 8  # pixels
MIDDLE = HEIGHT / 2


def common_range(cells: Sequence[Cell], with_paper: bool) -> tuple[float, float] | None:
    """The values that an axis for some cells must hold, from low to high; None if there are none.

    Args:
        cells: of one metric.
        with_paper: whether the paper's numbers are drawn.
    """
    values = [value for cell in cells for value in cell.values]
    for cell in cells:
        if with_paper and cell.paper is not None:
            values.append(cell.paper.value)
        if cell.mean is not None and cell.spread is not None:
            values += [cell.mean - cell.spread, cell.mean + cell.spread]
    if not values:
        return None
    low, high = min(values), max(values)
    if low == high:  # one point: in the middle
        unit = 10.0 ** -cells[0].metric.digits
        low, high = low - unit, high + unit
    return low, high


def draw(cell: Cell, axis: tuple[float, float], with_paper: bool) -> str:
    """Return a cell as inline SVG on an axis that other cells share.

    Args:
        cell: with numbers or without.
        axis: the values at its left and right end.
        with_paper: whether to draw the paper's number.
    """
    low, high = axis

    def place(value: float) -> float:
        return MARGIN + (value - low) / (high - low) * (WIDTH - 2 * MARGIN)

    parts = [f'<path class="axis" d="M0 {MIDDLE}H{WIDTH}"/>']
    if cell.mean is not None:
        middle = place(cell.mean)
        if cell.spread is not None:
            left, right = place(cell.mean - cell.spread), place(cell.mean + cell.spread)
            size = f'width="{right - left:.1f}" height="10"'
            parts.append(f'<rect class="spread" x="{left:.1f}" y="{MIDDLE - 5}" {size} rx="2"/>')
        parts += [
            f'<circle class="seed" cx="{place(value):.1f}" cy="{MIDDLE}" r="2.5"/>'
            for value in cell.values
        ]
        parts.append(f'<path class="mean" d="M{middle:.1f} 4V{HEIGHT - 4}"/>')
    if with_paper and cell.paper is not None:
        at = place(cell.paper.value)
        parts.append(
            f'<path class="paper" d="M{at:.1f} {MIDDLE - 6}l6 6l-6 6l-6 -6z"/>',
        )
    said = escape(f"ours {cell.ours_text}, paper {cell.paper_text}")
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{said}">'
        f"<title>{said}</title>{''.join(parts)}</svg>"
    )

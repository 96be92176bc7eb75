"""Visualization of sampled DropKey masks on the patch grid (arXiv 2208.02646, Figure 2)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from dropkey_core.attention.patterns import Block, Cross, GridPattern, Key, MaskDraw, Pattern
from dropkey_core.attention.places import BeforeSoftmax
from dropkey_core.attention.schedule import check_drop_ratio
from projects.paper.figures.curves import write_rows

KEPT, DROPPED, QUERY = "#dfe6ee", "#33475b", "#ff8c00"
STRUCTURED: dict[str, type[GridPattern]] = {"block": Block, "cross": Cross}


def parse_pattern(text: str, grid: tuple[int, int]) -> Pattern:
    """Return the pattern that ``text`` names: "key", "block:SIZE" or "cross:SIZE".

    Args:
        text: the name; SIZE in patches.
        grid: patches in a column and in a row.

    Raises:
        ValueError: another name, no size, or one that does not fit into the grid.
    """
    name, _, size = text.partition(":")
    if text == "key":
        return Key()
    if name not in STRUCTURED or not size.isdecimal():
        raise ValueError(
            f"pattern must be key, block:SIZE or cross:SIZE, such as block:3; got {text}"
        )
    pattern = STRUCTURED[name](int(size), grid=grid)
    pattern.find_grid(grid[0] * grid[1])  # refuses a pattern that does not fit
    return pattern


def sample_dropped(
    pattern: Pattern, grid: tuple[int, int], drop_ratio: float, num_queries: int, seed: int
) -> Tensor:
    """Draw the patches that each of some queries loses: (num_queries, h, w) bool, True = dropped.

    Args:
        pattern: what falls together.
        grid: (h, w), patches in a column and in a row.
        drop_ratio: probability in [0, 1) that a query loses a patch; else a ValueError.
        num_queries: how many draws.
        seed: decides them.
    """
    check_drop_ratio(drop_ratio)
    shape = (1, 1, num_queries, grid[0] * grid[1])
    mask = BeforeSoftmax(pattern).mask(
        MaskDraw(shape, drop_ratio, seed, torch.device("cpu")), torch.float32, allowed=None
    )
    return (mask == -torch.inf).expand(shape).reshape(num_queries, *grid)


def draw_masks(
    patterns: Sequence[str],
    grid: tuple[int, int],
    drop_ratio: float,
    num_queries: int,
    seed: int,
    path: Path,
) -> None:
    """Write a picture with a row per pattern and a column per query, and a CSV file beside it.

    The queries lie evenly over the grid; each is outlined, and what it loses is dark. The CSV file
    has a line for each patch that a query loses.

    Args:
        patterns: names that ``parse_pattern`` knows.
        grid: see ``sample_dropped``, as the following three.
        drop_ratio: see there.
        num_queries: columns, at most h * w.
        seed: see there.
        path: the picture's file; its ending says the format. Its folder is made.

    Raises:
        ValueError: as ``parse_pattern`` and ``sample_dropped``; a format that matplotlib cannot
            write.
    """
    rows = {
        text: sample_dropped(parse_pattern(text, grid), grid, drop_ratio, num_queries, seed)
        for text in patterns
    }
    queries = spread_over(grid, num_queries)
    size = (1.9 * num_queries + 0.6, (1.7 * grid[0] / grid[1] + 0.35) * len(rows) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), num_queries, squeeze=False).tolist()
    for row, (text, dropped) in enumerate(rows.items()):
        for column, query in enumerate(queries):
            _draw_grid(axes[row][column], dropped[column], query)
        axes[row][0].set_ylabel(_name(text), fontsize=11)
    figure.suptitle(f"Keys lost by {num_queries} queries (outlined), drop ratio {drop_ratio:g}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    columns = ("pattern", "query_row", "query_column", "row", "column")
    lost = [
        dict(zip(columns, (text, *query, *patch), strict=True))
        for text, dropped in rows.items()
        for query, of_query in zip(queries, dropped, strict=True)
        for patch in of_query.nonzero().tolist()
    ]
    write_rows(path.with_suffix(".csv"), lost, columns)


def spread_over(grid: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """Return the rows and columns of ``count`` patches that lie evenly over the grid."""
    num_patches = grid[0] * grid[1]
    indices = [int((i + 0.5) * num_patches / count) for i in range(count)]
    return [divmod(index, grid[1]) for index in indices]


def _draw_grid(axes: Axes, dropped: Tensor, query: tuple[int, int]) -> None:
    colours = ListedColormap([KEPT, DROPPED])
    axes.pcolormesh(dropped.int().numpy(), cmap=colours, vmin=0, vmax=1, edgecolors="w", lw=0.6)
    row, column = query
    axes.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor=QUERY, lw=2.5))
    axes.set(aspect="equal", xticks=[], yticks=[], ylim=(dropped.shape[0], 0))  # row 0 on top
    axes.set_frame_on(False)
    axes.set_title(f"{100 * dropped.double().mean().item():.0f} % lost", fontsize=9)


def _name(text: str) -> str:
    name, _, size = text.partition(":")
    return "DropKey" if name == "key" else f"DropKey-{name.capitalize()}, size {size}"

"""Line plots with error bands, matrices, and CSV files: several models in one figure."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.atomic_write import whole_file
from projects.figure import DPI, escaped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of Okabe and Ito's palette, whose colours stay apart for every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_NAMES = 12  # positions on an axis that get their name
GREY = "0.45"


@dataclass(frozen=True)
class Curve:
    """Values along an axis.

    Attributes:
        x: positions.
        mean: a value for each.
        std: standard deviation of each; NaN where nothing is known of it.
    """

    x: Sequence[float]
    mean: Sequence[float]
    std: Sequence[float]


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (of a sample: divided by n - 1); NaN for that of one value."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return float(np.mean(values)), spread


def curve_of(layers: Sequence[Any]) -> Curve:
    """Mean and deviation of each layer, at 0, 1, ..."""
    return Curve(range(len(layers)), [of.mean for of in layers], [of.std for of in layers])


def pooled(curves: Iterable[tuple[str, Curve]]) -> dict[str, Curve]:
    """One curve for each label: mean and deviation of its curves' means, or the only one's own.

    Raises:
        UserError: curves of one label that differ in length.
    """
    groups: dict[str, list[Curve]] = {}
    for label, curve in curves:
        groups.setdefault(label, []).append(curve)
    result = {}
    for label, group in groups.items():
        if len({len(curve.mean) for curve in group}) > 1:
            raise UserError(f"the models called {label} differ in depth: give them other --labels")
        means = np.array([curve.mean for curve in group])
        result[label] = (
            Curve(group[0].x, means.mean(axis=0).tolist(), means.std(axis=0, ddof=1).tolist())
            if len(group) > 1
            else group[0]
        )
    return result


@dataclass(frozen=True)
class CurvePanel:
    """Curves on common axes.

    Attributes:
        title: above it.
        curves: by label.
        level: height of a dotted line to compare with, or None.
        level_label: what it is.
    """

    title: str
    curves: Mapping[str, Curve]
    level: float | None = None
    level_label: str = ""


def draw_curves(
    panels: Sequence[CurvePanel],
    x_label: str,
    y_label: str,
    heading: str = "",
    names: Sequence[str] | None = None,
    y_limits: tuple[float | None, float | None] = (None, None),
) -> Figure:
    """Draw panels side by side, in rows of three, with one legend.

    Means are lines, standard deviations bands around them.

    Args:
        panels: at least one; all have the same labels, which keep their colours.
        x_label: of all x axes.
        y_label: of all y axes, which have the same range.
        heading: above all.
        names: of the positions 0, 1, ... on the x axes, instead of numbers.
        y_limits: least and greatest y; None: as the curves need.
    """
    rows, columns = _grid(len(panels))
    width = 7.0 if columns == 1 else 0.6 + 3.6 * columns
    height = 4.2 if columns == 1 else 0.8 + 2.7 * rows
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten().tolist()
    for panel, place in zip(panels, axes, strict=False):
        _draw_panel(place, panel, names)
    if y_limits != (None, None):  # they are shared
        axes[0].set_ylim(*y_limits)
    for place in axes[len(panels) :]:
        place.set_axis_off()
    # Not supxlabel, which the legend below the panels would cover.
    for place in axes[max(0, len(panels) - columns) : len(panels)]:
        place.set_xlabel(x_label, fontsize=9.5)
    figure.supylabel(y_label, fontsize=10)
    if heading:
        figure.suptitle(escaped(heading), fontsize=11)
    handles, labels = axes[0].get_legend_handles_labels()
    if len(panels) < len(axes):
        axes[-1].legend(handles, labels, loc="center", frameon=False, fontsize=9)
    elif len(handles) > 1:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9
        )
    return figure


def _grid(count: int) -> tuple[int, int]:
    """Rows and columns for so many panels, at most three side by side."""
    columns = min(count, 3)
    return math.ceil(count / columns), columns


def _draw_panel(axes: "Axes", panel: CurvePanel, names: Sequence[str] | None) -> None:
    for number, (label, curve) in enumerate(panel.curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        mean, std = np.array(curve.mean), np.nan_to_num(np.array(curve.std))
        axes.plot(
            curve.x,
            mean,
            color=colour,
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            linewidth=1.6,
            label=escaped(label),
        )
        if std.any():
            axes.fill_between(curve.x, mean - std, mean + std, color=colour, alpha=0.15, lw=0)
    if panel.level is not None:
        axes.axhline(panel.level, color=GREY, linestyle=":", linewidth=1.2, label=panel.level_label)
    if panel.title:
        axes.set_title(escaped(panel.title), fontsize=10)
    if names is not None:
        step = math.ceil(len(names) / MOST_NAMES)
        axes.set_xticks(range(0, len(names), step), [escaped(name) for name in names[::step]])
    axes.tick_params(labelsize=8.5)
    axes.grid(True, color="0.92")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def draw_matrices(matrices: Mapping[str, np.ndarray], names: Sequence[str], heading: str) -> Figure:
    """Draw square matrices of values in [0, 1] side by side, NaN in grey.

    Args:
        matrices: (L, L) each, by label.
        names: of rows and columns, L of them.
        heading: above all.
    """
    rows, columns = _grid(len(matrices))
    size = (max(1.2 + 3.1 * columns, 5.0), 0.7 + 3.2 * rows)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    step = math.ceil(len(names) / MOST_NAMES)
    ticks = range(0, len(names), step)
    for place, (label, matrix) in zip(axes, matrices.items(), strict=False):
        place.set_facecolor("0.8")
        image = place.imshow(matrix, vmin=0, vmax=1, cmap="viridis")
        place.set_title(escaped(label), fontsize=10)
        place.set_xticks(ticks, [escaped(name) for name in names[::step]], fontsize=8)
        place.set_yticks(ticks, [escaped(name) for name in names[::step]], fontsize=8)
        place.set_xlabel("layer", fontsize=9)
    axes[0].set_ylabel("layer", fontsize=9)
    for place in axes[len(matrices) :]:
        place.set_axis_off()
    figure.colorbar(image, ax=axes, shrink=0.8, label="cosine similarity")
    figure.suptitle(escaped(heading), fontsize=11)
    return figure


def write_rows(
    path: Path, rows: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None
) -> None:
    """Write rows of equal keys as CSV and print where.

    Args:
        path: the file.
        rows: what it holds.
        names: of the columns. None: those of the first row, which there then is.

    Raises:
        UserError: the file cannot be written.
    """
    with whole_file(path) as file:
        writer = csv.DictWriter(file, list(names or rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {key: f"{x:.6g}" if isinstance(x, float) else x for key, x in row.items()}
            )
    print(path, flush=True)

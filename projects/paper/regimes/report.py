"""Paired differences to training without dropping: bootstrap intervals, a table, a figure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.atomic_write import make_folder, whole_file
from projects.figure import DPI, save
from projects.paper.regimes.plan import BASELINE, Plan
from projects.paper.regimes.results import Finished, Results

NUM_RESAMPLES = 10_000
METRICS = {"test_top1": ("top-1, points", 1), "test_loss": ("cross entropy", 3)}
METRICS |= {"test_ece": ("calibration error, points", 1)}
COLOURS = {"dropout": "#D55E00", "dropkey": "#0072B2"}  # Okabe and Ito's
LINES = {"linear_decreasing": "-", "constant": "--", "linear_increasing": ":"}
SCHEDULES = {"linear_decreasing": "falling", "constant": "constant", "linear_increasing": "rising"}
HEAD = "network, augmentation, steps, images a class"
HEAD += ", method, ratio, schedule, seeds, train top-1 without, with, top-1 without"

METHOD = f"""Each difference is to the same seed trained without dropping: the same first weights,
subset of the training images, order, augmentation and test set. Mean over seeds, in brackets its
95 % interval ({NUM_RESAMPLES:,} bootstrap resamples of the seeds; of fewer than ten seeds it is
too narrow)."""


@dataclass(frozen=True)
class Difference:
    """Mean over seeds of a paired difference, treated minus untreated.

    Attributes:
        mean: over seeds.
        low: lower end of its 95 % interval; nan of a single seed.
        high: upper end.
    """

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0

    def text(self, digits: int) -> str:
        """The mean and, in brackets, the interval."""
        return f"{self.mean:+.{digits}f} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"


@dataclass(frozen=True)
class Comparison:
    """A method, ratio and schedule against nothing dropped, in one regime.

    Attributes:
        regime: data, network, images a class, augmentation, steps.
        treatment: method, ratio, schedule.
        seeds: how many have both.
        without: means without dropping, by metric.
        treated: means with it.
        differences: by metric.
    """

    regime: tuple[Any, ...]
    treatment: tuple[Any, ...]
    seeds: int
    without: dict[str, float]
    treated: dict[str, float]
    differences: dict[str, Difference]


def paired_difference(differences: Sequence[float]) -> Difference:
    """Mean of differences, one for each seed, with a percentile bootstrap interval over seeds.

    The resamples are the same in every call.
    """
    values = np.asarray(differences)
    if len(values) < 2:
        return Difference(float(values.mean()), float("nan"), float("nan"))
    rows = np.random.default_rng(0).integers(len(values), size=(NUM_RESAMPLES, len(values)))
    low, high = np.percentile(values[rows].mean(1), [2.5, 97.5])
    return Difference(float(values.mean()), float(low), float(high))


def compare(rows: Iterable[Finished]) -> list[Comparison]:
    """All comparisons that finished runs allow, regime by regime."""
    cells: dict[Any, dict[int, Finished]] = defaultdict(dict)
    for row in rows:
        cells[row.run.regime, row.run.treatment][row.run.seed] = row
    found = []
    for (regime, treatment), treated in sorted(cells.items()):
        without = cells.get((regime, (BASELINE, 0.0, "-")), {})
        seeds = sorted(treated.keys() & without.keys())
        if treatment[0] == BASELINE or not seeds:
            continue
        names = [*METRICS, "train_top1"]
        values = {
            name: np.array([[getattr(cell[s].outcome, name) for s in seeds]
                            for cell in (without, treated)])
            for name in names
        }  # fmt: skip
        means = [{name: float(values[name][side].mean()) for name in names} for side in (0, 1)]
        differences = {name: paired_difference(v[1] - v[0]) for name, v in values.items()}
        found.append(Comparison(regime, treatment, len(seeds), *means, differences))
    return found


def write_report(plans: Sequence[Plan], results: Sequence[Results], folder: Path) -> list[Path]:
    """Write ``table.md`` and ``differences.png`` of all that is finished; return where.

    Raises:
        UserError: nothing can be compared yet, or the folder cannot be written to.
    """
    rows = [row for result in results for row in result.read().values()]
    comparisons = compare(rows)
    if not comparisons:
        raise UserError(f"no finished pair of runs in {', '.join(str(r.path) for r in results)}")
    make_folder(folder)
    with whole_file(folder / "table.md") as file:
        file.write(markdown([plan.title for plan in plans], len(rows), comparisons))
    save(draw(comparisons), folder / "differences.png")
    return [folder / "table.md"]


def markdown(titles: Sequence[str], num_runs: int, comparisons: Sequence[Comparison]) -> str:
    """The table as Markdown, with how it was made and how many comparisons it holds."""
    counted = [d for c in comparisons for name, d in c.differences.items() if name in METRICS]
    apart = sum(difference.excludes_zero for difference in counted)
    count = f"{num_runs} runs, {len(comparisons)} x {len(METRICS)} = {len(counted)} comparisons. "
    count += f"{apart} intervals exclude 0; were there no effect at all, about "
    count += f"{0.05 * len(counted):.0f} would."
    head = [*HEAD.split(", "), *(f"{label}, difference" for label, _ in METRICS.values())]
    lines = [
        head,
        ["---"] * 3 + ["---:"] + ["---"] + ["---:"] + ["---"] + ["---:"] * (len(head) - 7),
    ]
    lines += [cells_of(comparison) for comparison in comparisons]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join([f"# {'; '.join(titles)}", METHOD, count, table]) + "\n"


def cells_of(comparison: Comparison) -> list[str]:
    """A row of the table."""
    _, network, per_class, augmentation, steps = comparison.regime
    method, ratio, schedule = comparison.treatment
    return [
        *map(str, (network, augmentation, steps, per_class, method, ratio)),
        SCHEDULES.get(schedule, schedule),
        str(comparison.seeds),
        f"{comparison.without['train_top1']:.1f}",
        f"{comparison.treated['train_top1']:.1f}",
        f"{comparison.without['test_top1']:.1f}",
        *(comparison.differences[name].text(digits) for name, (_, digits) in METRICS.items()),
    ]


def draw(comparisons: Sequence[Comparison], metric: str = "test_top1") -> Figure:
    """Differences over the number of images a class, a panel for each of the other settings."""
    panels: dict[tuple[Any, ...], list[Comparison]] = defaultdict(list)
    for comparison in comparisons:
        data, network, _, augmentation, steps = comparison.regime
        panels[data, network, augmentation, steps].append(comparison)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    size = (2.0 + 3.4 * columns, 0.4 + 2.8 * rows)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    treatments = sorted({comparison.treatment for comparison in comparisons})
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, (names, inside) in zip(grid.flat, sorted(panels.items()), strict=False):
        draw_panel(axes, inside, treatments, metric)
        axes.set_title("{}, {}, {} augmentation, {} steps".format(*names), fontsize=8)
        axes.set_xlabel("training images a class", fontsize=8)
    for axes in grid[:, 0]:
        axes.set_ylabel(f"{METRICS[metric][0]}: with - without", fontsize=8)
    handles = {
        label: handle
        for axes in grid.flat
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside right center", fontsize=8, frameon=False
    )
    return figure


def draw_panel(
    axes: Axes, comparisons: Sequence[Comparison], treatments: Sequence[Any], metric: str
) -> None:
    """One line with intervals for each treatment, moved apart a little."""
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xscale("log")
    sizes = sorted({comparison.regime[2] for comparison in comparisons})
    axes.set_xticks(sizes, [str(size) for size in sizes], fontsize=8)
    axes.minorticks_off()
    for place, treatment in enumerate(treatments):
        inside = [c for c in comparisons if c.treatment == treatment]
        if not inside:
            continue
        method, ratio, schedule = treatment
        found = [c.differences[metric] for c in inside]
        apart = 1 + 0.03 * (place - (len(treatments) - 1) / 2)
        ends = [[d.mean - d.low for d in found], [d.high - d.mean for d in found]]
        axes.errorbar(
            [c.regime[2] * apart for c in inside],
            [d.mean for d in found],
            np.abs(ends),
            color=shade(COLOURS.get(method, "#009E73"), ratio),
            linestyle=LINES.get(schedule, "-."),
            marker="o",
            markersize=3,
            linewidth=1,
            label=f"{method} {ratio}, {SCHEDULES.get(schedule, schedule)}",
        )


def shade(colour: str, ratio: float) -> str:
    """The colour of a method, paler for smaller ratios."""
    strength = 0.35 + 0.65 * min(1.0, ratio / 0.3)
    return to_hex([1 - strength * (1 - part) for part in to_rgb(colour)])

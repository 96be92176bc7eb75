"""Report of a plan: a table of paired differences, verdicts on claims, a figure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.atomic_write import make_folder, whole_file
from projects.figure import DPI, save
from projects.paper.regimes.comparison import FIT, Comparison, compare, judge_claim, verdict
from projects.paper.regimes.plan import Plan
from projects.paper.regimes.results import Finished

NAMES = {"dropkey": "DropKey"}
COLOURS = {"dropout": "#D55E00", "dropkey": "#0072B2"}  # Okabe and Ito's
SCHEDULES = {"linear_decreasing": "falling", "linear_increasing": "rising"}

METHOD = """A difference is between trainings of one seed: the same first weights where the networks
are the same, subset of the training images, order, augmentation and test set. Mean over seeds, in
brackets its 95 % interval (Student's t)."""


def write_report(plan: Plan, rows: Sequence[Finished], folder: Path) -> Path:
    """Write the table of a plan's finished runs as Markdown, the figure beside it; return where.

    Raises:
        UserError: nothing can be compared yet, or the folder cannot be written to.
    """
    for row in rows[:1]:  # all have the same columns
        if missing := plan.metrics.keys() - row.numbers.keys():
            there = ", ".join(row.numbers)
            raise UserError(f"{plan.path}: its rows have no metric {min(missing)}, only {there}")
    comparisons, judged = compare(rows, [*plan.metrics]), verdicts(plan, rows)
    if not comparisons and not judged:
        raise UserError(f"no finished pair of runs of {plan.path}")
    parts = [f"# {plan.title}", METHOD]
    parts += differences(plan, len(rows), comparisons) if comparisons else []
    parts += judged
    make_folder(folder)
    table = folder / f"{plan.path.stem}.md"
    figure = table.with_suffix(".png")
    if comparisons:
        parts.insert(2, f"![Differences over training {images_of(plan)}]({figure.name})")
    with whole_file(table) as file:
        file.write("\n\n".join(parts) + "\n")
    if comparisons:
        save(draw(plan, comparisons), figure)
    return table


def verdicts(plan: Plan, rows: Sequence[Finished]) -> list[str]:
    """The claims of a plan as Markdown; nothing if none can be judged."""
    judged = [judge_claim(claim, rows) for claim in plan.claims]
    if not any(judged):
        return []
    lines = []
    for claim, ours in zip(plan.claims, judged, strict=True):
        found = ["0", "-", "-", "-", "-"]
        if ours:
            apart = ours.difference
            found = [str(apart.seeds), f"{ours.of:.2f}", f"{ours.than:.2f}", apart.text(2)]
            found += [verdict(claim, apart)]
        lines.append([claim.text, claim.metric, claim.expected, *found])
    head = ["claim", "metric", "expected", "seeds", "ours: of", "than", "difference", "verdict"]
    return ["## Verdicts", markdown(head, lines)] if lines else []


def differences(plan: Plan, num_runs: int, comparisons: Sequence[Comparison]) -> list[str]:
    """The table as Markdown, after a line on how many comparisons it holds."""
    counted = [d for comparison in comparisons for d in comparison.differences.values()]
    apart = sum(difference.excludes_zero for difference in counted)
    judged = sum(difference.seeds > 1 for difference in counted)
    count = 'Here a difference is to nothing dropped, "without". '
    count += f"{num_runs} runs, {len(comparisons)} x {len(plan.metrics)} = {len(counted)} "
    count += f"comparisons, {judged} of them with more than one seed. {apart} intervals exclude 0; "
    count += f"were there no effect at all, about {0.05 * judged:.0f} would."
    head = ["network", "augmentation", "steps", images_of(plan), "method", "ratio", "schedule"]
    head += ["seeds"]
    if FIT in comparisons[0].without:
        head += ["train top-1 without", "with"]
    for metric in plan.metrics.values():
        head += [f"{metric.label} without", "difference"]
    return [count, markdown(head, [cells_of(plan, comparison) for comparison in comparisons])]


def images_of(plan: Plan) -> str:
    """What the numbers of training images count."""
    return "images a class" if plan.trainer == "memory" else "images"


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def cells_of(plan: Plan, comparison: Comparison) -> list[str]:
    """A row of the table."""
    _, network, images, augmentation, steps = comparison.regime
    method, ratio, schedule = comparison.treatment
    cells = [*map(str, (network, augmentation, steps, images, NAMES.get(method, method), ratio))]
    cells += [SCHEDULES.get(schedule, schedule)]
    cells += [str(next(iter(comparison.differences.values())).seeds)]
    if FIT in comparison.without:
        cells += [f"{side[FIT]:.1f}" for side in (comparison.without, comparison.treated)]
    for name, metric in plan.metrics.items():
        without, difference = comparison.without[name], comparison.differences[name]
        cells += [f"{without:.{metric.digits}f}", difference.text(metric.digits)]
    return cells


def draw(plan: Plan, comparisons: Sequence[Comparison]) -> Figure:
    """Differences of the first metric over the images, a panel for each of the other settings."""
    name, metric = next(iter(plan.metrics.items()))
    panels: dict[tuple[Any, ...], list[Comparison]] = defaultdict(list)
    for comparison in comparisons:
        data, network, _, augmentation, steps = comparison.regime
        schedule = SCHEDULES.get(comparison.treatment[2], comparison.treatment[2])
        panels[data, network, augmentation, steps, schedule].append(comparison)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    size = (2.0 + 3.4 * columns, 0.4 + 2.8 * rows)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    treatments = sorted({comparison.treatment[:2] for comparison in comparisons})
    sizes = sorted({comparison.regime[2] for comparison in comparisons})
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, (names, inside) in zip(grid.flat, sorted(panels.items()), strict=False):
        draw_panel(axes, name, inside, treatments, sizes)
        axes.set_title("{}, {}, {} augmentation, {} steps, {}".format(*names), fontsize=8)
        axes.set_xlabel(f"training {images_of(plan)}", fontsize=8)
    for axes in grid[:, 0]:
        axes.set_ylabel(f"{metric.label}: with - without", fontsize=8)
    grid[0, 0].set_xticks(range(len(sizes)), [str(size) for size in sizes])
    grid[0, 0].set_xlim(-0.5, len(sizes) - 0.5)
    handles = {
        label: handle
        for axes in grid.flat
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    labels = sorted(handles)
    figure.legend(
        [handles[label] for label in labels], labels,
        loc="outside right center", fontsize=8, frameon=False,
    )  # fmt: skip
    return figure


def draw_panel(
    axes: Axes,
    metric: str,
    comparisons: Sequence[Comparison],
    treatments: Sequence[tuple[Any, ...]],
    sizes: Sequence[int],
) -> None:
    """One line with intervals for each method and ratio, moved apart a little."""
    axes.axhline(0, color="grey", linewidth=0.8)
    largest = max(ratio for _, ratio in treatments)
    for place, (method, ratio) in enumerate(treatments):
        inside = [c for c in comparisons if c.treatment[:2] == (method, ratio)]
        if not inside:
            continue
        found = [c.differences[metric] for c in inside]
        apart = 0.5 * ((place + 0.5) / len(treatments) - 0.5)
        ends = [[d.mean - d.low for d in found], [d.high - d.mean for d in found]]
        axes.errorbar(
            [sizes.index(c.regime[2]) + apart for c in inside],
            [d.mean for d in found],
            np.abs(ends),
            color=shade(COLOURS.get(method, "#009E73"), ratio / largest),
            marker="o",
            markersize=3,
            linewidth=1,
            label=f"{NAMES.get(method, method)} {ratio}",
        )


def shade(colour: str, part: float) -> str:
    """The colour of a method, paler for smaller parts of its largest ratio."""
    strength = 0.35 + 0.65 * part
    red, green, blue = (1 - strength * (1 - channel) for channel in to_rgb(colour))
    return to_hex((red, green, blue))

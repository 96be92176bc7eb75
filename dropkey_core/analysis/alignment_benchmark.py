"""Error and time of aligned attention weights: the expectation against random masks.

Errors are total-variation distances of rows of weights, half the sum of what their weights are off
by. Shapes: (R, N) = rows and their keys.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dropkey_core.attention.alignment import Expected, MonteCarlo
from dropkey_core.attention.schedule import check_drop_ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Logits are normal numbers times this: from even rows to rows of which one key has nearly all.
SPIKINESS = (1, 5, 25)
# So few keys that the mean over all 2^12 masks can be had.
FEW_KEYS = 12
# Nodes per octave, and the type they are computed in.
EXACT = ((1, torch.float32), (2, torch.float64), (3, torch.float64))
_REFERENCE = Expected(nodes=4)
_COLOURS = dict(zip(SPIKINESS, ("#0072b2", "#e69f00", "#cc3311"), strict=True))


@dataclass(frozen=True)
class Case:
    """Rows of one kind and what is dropped of them.

    Args:
        num_keys: N, keys in a row.
        spikiness: factor on normal logits.
        drop_ratio: probability in (0, 1) that a key is dropped.
    """

    num_keys: int
    spikiness: float
    drop_ratio: float


@dataclass(frozen=True)
class Result:
    """What one way to align did to the rows of a case.

    Args:
        case: the rows.
        method: "exact" or "monte carlo".
        effort: nodes per octave, or masks.
        dtype: floating type of the computation.
        mean_error: total-variation error, mean of the rows.
        worst_error: the same, of the worst row.
        microseconds_per_row: wall time; of several runs the fastest.
    """

    case: Case
    method: str
    effort: int
    dtype: str
    mean_error: float
    worst_error: float
    microseconds_per_row: float


def over_all_masks(logits: Tensor, drop_ratio: float) -> Tensor:
    """Return the mean of the weights over all 2^N masks, each with its probability.

    The mask that drops every key drops none.

    Args:
        logits: (R, N) float64, of at most 16 keys.
        drop_ratio: probability in [0, 1) that a key is dropped.
    """
    num_keys = logits.shape[-1]
    kept = torch.arange(2**num_keys)[:, None] >> torch.arange(num_keys) & 1 == 1  # (2^N, N)
    num_kept = kept.sum(-1).double()
    probability = (1 - drop_ratio) ** num_kept * drop_ratio ** (num_keys - num_kept)
    kept[0] = True
    weights = (row.masked_fill(~kept, -torch.inf).softmax(-1) for row in logits)  # (2^N, N) each
    return torch.stack([probability @ of_row for of_row in weights])


def total_variation(weights: Tensor, reference: Tensor) -> Tensor:
    """Return half the sum of the absolute differences; (R, N) both, (R,)."""
    return (weights.double() - reference).abs().sum(-1) / 2


def benchmark_alignment(
    num_keys: int,
    drop_ratios: Sequence[float],
    samples: Sequence[int],
    num_rows: int,
    seed: int,
) -> list[Result]:
    """Measure the exact expectation and Monte Carlo on rows of ``FEW_KEYS`` and ``num_keys`` keys.

    With few keys the reference is the mean over all masks; with many the integral with four nodes
    per octave in float64, whose agreement with all masks the few keys show.

    Args:
        num_keys: keys of the long rows.
        drop_ratios: in (0, 1).
        samples: numbers of masks for Monte Carlo.
        num_rows: rows of each case.
        seed: decides logits and masks.

    Returns:
        one result per case and method, in that order

    Raises:
        ValueError: a ratio outside (0, 1).
    """
    for drop_ratio in drop_ratios:
        check_drop_ratio(drop_ratio)
        if drop_ratio == 0.0:
            raise ValueError("drop_ratio must be above 0 where something is to be averaged, got 0")
    torch.manual_seed(seed)
    cases = [
        Case(keys, spikiness, drop_ratio)
        for keys in dict.fromkeys((FEW_KEYS, num_keys))
        for drop_ratio in drop_ratios
        for spikiness in SPIKINESS
    ]
    return [result for case in cases for result in _measure(case, samples, num_rows)]


def _measure(case: Case, samples: Sequence[int], num_rows: int) -> list[Result]:
    logits = case.spikiness * torch.randn(num_rows, case.num_keys, dtype=torch.float64)
    find = over_all_masks if case.num_keys <= FEW_KEYS else _REFERENCE
    reference = find(logits, case.drop_ratio)
    contenders: list[tuple[str, int, torch.dtype, Expected | MonteCarlo, int]] = [
        *(("exact", nodes, dtype, Expected(nodes), 5) for nodes, dtype in EXACT),
        *(("monte carlo", n, torch.float32, MonteCarlo(n), 1) for n in samples),
    ]
    MonteCarlo(1)(logits.float(), case.drop_ratio)  # the first call of all is slow
    results = []
    for method, effort, dtype, align, runs in contenders:
        rows = logits.to(dtype)
        weights, seconds = _timed(partial(align, rows, case.drop_ratio), runs)
        error = total_variation(weights, reference)
        results.append(
            Result(
                case,
                method,
                effort,
                str(dtype).removeprefix("torch."),
                error.mean().item(),
                error.max().item(),
                1e6 * seconds / num_rows,
            )
        )
    return results


def _timed(compute: Callable[[], Tensor], runs: int) -> tuple[Tensor, float]:
    """Return a result and the seconds of the fastest run."""
    seconds = math.inf
    for _ in range(runs):
        began = time.perf_counter()
        result = compute()
        seconds = min(seconds, time.perf_counter() - began)
    return result, seconds


def as_plain_values(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One dictionary per result, for a JSON file."""
    return [asdict(result) for result in results]


def markdown_table(results: Sequence[Result]) -> str:
    """One line per case: error of the worst row and time per row of each method.

    The last column says how many times as fast as the most masks the first method is.
    """
    by_case: dict[Case, list[Result]] = {}
    for result in results:
        by_case.setdefault(result.case, []).append(result)
    columns = [_method_name(r) for r in next(iter(by_case.values()))]
    head = ["keys", "logits", "ratio", *columns, "speed"]
    lines = [f"| {' | '.join(head)} |", "|" + "---:|" * len(head)]
    for case, measured in by_case.items():
        exact, most_masks = measured[0], measured[-1]
        cells = [
            f"{case.num_keys}",
            f"{case.spikiness:g} * normal",
            f"{case.drop_ratio:g}",
            *(f"{r.worst_error:.0e}, {r.microseconds_per_row:,.0f} µs" for r in measured),
            f"{most_masks.microseconds_per_row / exact.microseconds_per_row:.0f}x",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _method_name(result: Result) -> str:
    if result.method == "monte carlo":
        return f"{result.effort:,} masks"
    return f"exact, {result.effort} node{'s' * (result.effort > 1)}, {result.dtype}"


def plot(results: Sequence[Result], file: Path) -> None:
    """Draw error over time, one panel per number of keys and ratio.

    Args:
        results: from ``benchmark_alignment``.
        file: where to; its suffix decides the format.
    """
    from matplotlib.figure import Figure

    num_keys = sorted({r.case.num_keys for r in results})
    ratios = sorted({r.case.drop_ratio for r in results})
    figure = Figure(figsize=(1.5 + 3.6 * len(ratios), 1.2 + 2.9 * len(num_keys)))
    panels = figure.subplots(len(num_keys), len(ratios), sharex="row", sharey=True, squeeze=False)
    for line, keys in zip(panels, num_keys, strict=True):
        for panel, ratio in zip(line, ratios, strict=True):
            of_panel = [r for r in results if (r.case.num_keys, r.case.drop_ratio) == (keys, ratio)]
            _draw_panel(panel, of_panel)
            panel.set_title(f"{keys} keys, drop ratio {ratio:g}", fontsize=10)
    panels[0][0].text(
        0.98, 1.4e-4, "1e-4", ha="right", transform=panels[0][0].get_yaxis_transform()
    )
    _label(figure)
    figure.savefig(file, dpi=130)


def _draw_panel(panel: "Axes", results: Sequence[Result]) -> None:
    for spikiness in SPIKINESS:
        for method, marker, line in (("exact", "o", "-"), ("monte carlo", "s", "--")):
            chosen = [r for r in results if (r.case.spikiness, r.method) == (spikiness, method)]
            panel.plot(
                [r.microseconds_per_row for r in chosen],
                [max(r.worst_error, 1e-17) for r in chosen],
                marker=marker,
                linestyle=line,
                color=_COLOURS[spikiness],
                markersize=4.5,
                linewidth=1.1,
            )
    panel.set(xscale="log", yscale="log", ylim=(1e-17, 1))
    panel.axhline(1e-4, color="0.6", linewidth=0.8, linestyle=":")
    panel.grid(True, color="0.92")
    panel.set_axisbelow(True)


def _label(figure: "Figure") -> None:
    from matplotlib.lines import Line2D

    colours = [
        Line2D([], [], color=colour, linewidth=3, label=f"logits {spikiness} * normal")
        for spikiness, colour in _COLOURS.items()
    ]
    shapes = [
        Line2D([], [], color="0.3", marker="o", label="exact: 1, 2, 3 nodes per octave"),
        Line2D([], [], color="0.3", marker="s", linestyle="--", label="Monte Carlo: more masks"),
    ]
    figure.supxlabel("time per row, µs", fontsize=10)
    figure.supylabel("total-variation error of the worst row", fontsize=10)
    figure.legend(
        handles=[*shapes, *colours], loc="upper center", ncols=5, frameon=False, fontsize=9
    )
    figure.tight_layout(rect=(0.01, 0.0, 1.0, 0.95))

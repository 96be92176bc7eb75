#!/usr/bin/env python
"""Benchmark of aligned attention weights: the exact expectation against random masks.

tools/benchmark/alignment.py --threads 2
tools/benchmark/alignment.py --num-keys 197 --ratios 0.5 --samples 100 6000 --plot vit.svg

Rows of 12 keys are compared with the mean over all masks, rows of --num-keys with the integral at
four nodes per octave, whose agreement with all masks the 12 keys show. Prints a Markdown table:
every cell is the error of the worst row and the time per row, and speed compares the first method
with the most masks. Errors are total-variation distances of rows of weights, half the sum of what
their weights are off by.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads give way

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from report import argument_parser, markdown_table, picture, positive, run_benchmark, save
from timing import Measurement, measure

from dropkey_core.attention.alignment import Expected, MonteCarlo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Logits are normal numbers times this: from even rows to rows of which one key has nearly all.
SPIKINESS = (1, 5, 25)
# So few keys that the mean over all 2^12 masks can be had.
FEW_KEYS = 12
NUM_ROWS = 64  # of each kind
# By nodes per octave, the type they are computed in.
EXACT = {1: torch.float32, 2: torch.float64, 3: torch.float64}


@dataclass(frozen=True)
class Case:
    """Rows of ``num_keys`` keys, logits ``spikiness`` times normal, and what is dropped of them."""

    num_keys: int
    spikiness: float
    drop_ratio: float


def over_all_masks(logits: Tensor, drop_ratio: float) -> Tensor:
    """Return the mean of the weights over all 2^N masks, each with its probability.

    The mask that drops every key drops none.

    Args:
        logits: (R, N) float64, R rows of at most 16 keys.
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


def methods(
    logits: Tensor, drop_ratio: float, samples: Sequence[int]
) -> dict[str, Callable[[], Tensor]]:
    """Return the ways to align rows of logits (R, N), by name: exact ones, then random masks."""
    exact = {
        f"exact, {nodes} node{'s' * (nodes > 1)}, {str(dtype).removeprefix('torch.')}": partial(
            Expected(nodes), logits.to(dtype), drop_ratio
        )
        for nodes, dtype in EXACT.items()
    }
    return exact | {
        f"{number:,} masks": partial(MonteCarlo(number), logits.float(), drop_ratio)
        for number in samples
    }


def benchmark_alignment(
    num_keys: int, drop_ratios: Sequence[float], samples: Sequence[int], repeats: int = 5
) -> dict[Case, dict[str, Measurement]]:
    """Measure all methods on rows of ``FEW_KEYS`` and of ``num_keys`` keys; an item is a row.

    Args:
        num_keys: keys of the long rows.
        drop_ratios: in (0, 1).
        samples: numbers of masks for Monte Carlo.
        repeats: turns of each method.
    """
    cases = [
        Case(keys, spikiness, drop_ratio)
        for keys in dict.fromkeys((FEW_KEYS, num_keys))
        for drop_ratio in drop_ratios
        for spikiness in SPIKINESS
    ]
    return {case: _measure(case, samples, repeats) for case in cases}


def _measure(case: Case, samples: Sequence[int], repeats: int) -> dict[str, Measurement]:
    torch.manual_seed(0)
    logits = case.spikiness * torch.randn(NUM_ROWS, case.num_keys, dtype=torch.float64)
    find = over_all_masks if case.num_keys <= FEW_KEYS else Expected(nodes=4)
    reference = find(logits, case.drop_ratio)
    measured = measure(methods(logits, case.drop_ratio, samples), NUM_ROWS, repeats)
    for method in measured.values():
        method.worst_error = total_variation(method.result, reference).max().item()
    return measured


def table(results: dict[Case, dict[str, Measurement]]) -> str:
    """One row per case: error of the worst row and time per row of each method, and the speed."""
    rows = []
    for case, measured in results.items():
        exact, *_, most_masks = measured.values()
        cells = (
            f"{m.worst_error:.0e}, {1e6 * m.seconds_per_item:,.0f} µs" for m in measured.values()
        )
        kind = (f"{case.num_keys}", f"{case.spikiness:g} * normal", f"{case.drop_ratio:g}")
        rows.append((*kind, *cells, f"{exact.speed_over(most_masks):.0f}x"))
    names = next(iter(results.values()))
    return markdown_table(["keys", "logits", "ratio", *names, "speed"], rows, num_text_columns=0)


def plot(results: dict[Case, dict[str, Measurement]]) -> "Figure":
    """Draw error over time, one panel per number of keys and ratio."""
    from matplotlib.figure import Figure

    num_keys = sorted({case.num_keys for case in results})
    ratios = sorted({case.drop_ratio for case in results})
    figure = Figure(figsize=(1.5 + 3.6 * len(ratios), 1.2 + 2.9 * len(num_keys)))
    panels = figure.subplots(len(num_keys), len(ratios), sharex="row", sharey=True, squeeze=False)
    for case, measured in results.items():
        panel = panels[num_keys.index(case.num_keys)][ratios.index(case.drop_ratio)]
        panel.set_title(f"{case.num_keys} keys, drop ratio {case.drop_ratio:g}", fontsize=10)
        panel.set(xscale="log", yscale="log", ylim=(1e-17, 1))
        panel.grid(True, color="0.92")
        for kind, line in (("exact", "o-"), ("masks", "s--")):
            chosen = [m for name, m in measured.items() if kind in name]
            panel.plot(
                [1e6 * m.seconds_per_item for m in chosen],
                [max(m.worst_error, 1e-17) for m in chosen],
                line,
                color=f"C{SPIKINESS.index(case.spikiness)}",
                label=f"{kind}, logits {case.spikiness:g} * normal",
            )
    figure.supxlabel("time per row, µs", fontsize=10)
    figure.supylabel("total-variation error of the worst row", fontsize=10)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="upper center", ncols=3)
    figure.tight_layout(rect=(0.01, 0.0, 1.0, 0.92))
    return figure


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    results = benchmark_alignment(
        arguments.num_keys, arguments.ratios, sorted(arguments.samples), arguments.repeats
    )
    print(table(results))
    if arguments.plot:
        save(arguments.plot, plot(results))


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's error."""
    parser = argument_parser(__doc__)
    parser.add_argument("--num-keys", type=positive, default=850, help="of the long rows")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.1, 0.3, 0.7])
    parser.add_argument(
        "--samples", type=positive, nargs="+", default=[100, 1000, 6000], help="random masks"
    )
    parser.add_argument("--plot", type=picture, metavar="FILE", help="draw error and time there")
    return run_benchmark(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())

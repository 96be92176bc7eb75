#!/usr/bin/env python
"""Measure error and time of attention weights aligned with training: exact and by random masks.

tools/benchmark_alignment.py
tools/benchmark_alignment.py --num-keys 197 --ratios 0.5 --samples 100 6000 --plot vit.svg

Rows of 12 keys are compared with the mean over all masks, rows of --num-keys with the integral at
four nodes per octave. Prints a Markdown table; every cell is the total-variation error of the worst
row and the time per row, and speed compares the first method with the most masks.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-keys", type=int, default=850, metavar="N", help="of the long rows")
    parser.add_argument(
        "--ratios", type=float, nargs="+", default=[0.1, 0.3, 0.7], metavar="R", help="drop ratios"
    )
    parser.add_argument(
        "--samples",
        type=int,
        nargs="+",
        default=[100, 1000, 6000],
        metavar="N",
        help="numbers of random masks",
    )
    parser.add_argument("--rows", type=int, default=64, metavar="N", help="of each kind")
    parser.add_argument("--threads", type=int, metavar="N", help="default: torch's")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--json", type=Path, default=Path("output/alignment.json"), metavar="FILE")
    parser.add_argument("--plot", type=Path, default=Path("output/alignment.png"), metavar="FILE")
    arguments = parser.parse_args(argv)
    smallest = {
        "--num-keys": arguments.num_keys,
        "--samples": min(arguments.samples),
        "--rows": arguments.rows,
        "--threads": 1 if arguments.threads is None else arguments.threads,
    }
    for option, value in smallest.items():
        if value < 1:
            parser.error(f"{option} must be at least 1, got {value}")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    import json

    import torch

    from dropkey_core.analysis import alignment_benchmark as benchmark
    from dropkey_core.engine.errors import UserError
    from projects.paper.figures.outputs import check_outputs

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        check_outputs(arguments.json, arguments.plot)
        results = benchmark.benchmark_alignment(
            arguments.num_keys,
            sorted(arguments.ratios),
            sorted(arguments.samples),
            arguments.rows,
            arguments.seed,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    arguments.json.write_text(json.dumps(benchmark.as_plain_values(results), indent=1))
    benchmark.plot(results, arguments.plot)
    print(benchmark.markdown_table(results))
    print(f"\n{arguments.json}\n{arguments.plot}")


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's error."""
    arguments = parse_arguments(argv)
    from dropkey_core.engine.command import exit_code

    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())

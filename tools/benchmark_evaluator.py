#!/usr/bin/env python
"""Measure how fast interactions are evaluated, on generated predictions of HICO-DET's size.

tools/benchmark_evaluator.py
tools/benchmark_evaluator.py --reference ../qpic

With --reference QPIC's own evaluator takes turns with ours, about a minute each, and the largest
difference between their numbers is printed. Each turn goes from the first image to the last number.
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
    parser.add_argument(
        "--reference",
        metavar="FOLDER",
        help="measure the evaluator of this checkout of QPIC beside it, on the same predictions",
    )
    parser.add_argument("--images", type=int, default=9546, metavar="N")
    parser.add_argument("--pairs", type=int, default=64, metavar="N", help="predicted per image")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="turns of each")
    parser.add_argument("--json", metavar="FILE", help="write every single time there, too")
    arguments = parser.parse_args(argv)
    for name in ("images", "pairs", "repeats"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    import json

    import torch

    from dropkey_core.engine.benchmark import as_plain_values, markdown_table
    from projects.qpic.evaluator_benchmark import benchmark_evaluators, comparison_table

    torch.set_num_threads(1)
    measured, outcomes = benchmark_evaluators(
        arguments.images, arguments.pairs, arguments.repeats, arguments.reference
    )
    results = {"evaluation": measured}
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(as_plain_values(results), indent=1))
    print(markdown_table(results), comparison_table(outcomes), sep="\n\n")


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's error."""
    arguments = parse_arguments(argv)
    from dropkey_core.engine.command import exit_code

    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())

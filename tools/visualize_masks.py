#!/usr/bin/env python
"""Draw and list which keys queries lose: single patches, blocks, crosses (the paper's Figure 2).

tools/visualize_masks.py
tools/visualize_masks.py --patterns key block:2 --drop-ratio 0.1 --grid 7x12 --output masks.svg
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads give way


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--patterns",
        nargs="+",
        default=["key", "block:3", "cross:1"],
        metavar="UNIT",
        help="key, block:SIZE or cross:SIZE; one row of the picture each",
    )
    parser.add_argument("--drop-ratio", type=float, default=0.3, metavar="R")
    parser.add_argument("--grid", type=grid, default=(14, 14), metavar="HxW", help="patches")
    parser.add_argument("--queries", type=int, default=6, metavar="N", help="columns")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--output", type=Path, default=Path("output/masks.png"), metavar="FILE")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.queries <= arguments.grid[0] * arguments.grid[1]:
        parser.error("--queries must be at least 1 and at most the number of patches")
    return arguments


def grid(text: str) -> tuple[int, int]:
    """Height and width of ``HxW``."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"must look like 14x14, got {text}")
    return int(height), int(width)


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    from dropkey_core.engine.errors import UserError
    from projects.paper.figures.sampled_masks import draw_masks

    try:
        draw_masks(
            arguments.patterns,
            arguments.grid,
            arguments.drop_ratio,
            arguments.queries,
            arguments.seed,
            arguments.output,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    print(arguments.output)


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's error."""
    arguments = parse_arguments(argv)
    from dropkey_core.engine.command import exit_code

    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())

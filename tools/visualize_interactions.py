#!/usr/bin/env python
"""Draw the interactions that a trained QPIC finds, and where its decoder looks.

tools/visualize_interactions.py --run output/qpic/demo --attention
tools/visualize_interactions.py --config projects/qpic/dropkey.yaml --weights q.pth --images a.jpg

Without --images: pictures spread evenly over the config's test set, found pairs over true ones.
Each is written on its own, and all of them on one page, validation.png. With --images: any
pictures, found pairs only; the page is interactions.png.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads give way

from dropkey_core.engine.command import exit_code
from projects.picture_options import (
    check_numbers,
    find_model,
    parse_with_overrides,
    picture_parser,
)
from projects.qpic.gallery import draw_gallery


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = picture_parser(__doc__, score_threshold=0.3)
    parser.add_argument(
        "--attention", action="store_true", help="draw where the decoder looks for each pair, too"
    )
    return parse_with_overrides(parser, argv)


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    check_numbers(arguments)
    draw_gallery(
        *find_model(arguments),
        arguments.images,
        arguments.num_images,
        arguments.score_threshold,
        arguments.attention,
    )


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's error."""
    arguments = parse_arguments(argv)
    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())

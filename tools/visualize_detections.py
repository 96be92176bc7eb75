#!/usr/bin/env python
"""Draw what a trained DETR finds, and where its encoder looks.

tools/visualize_detections.py --run output/demo
tools/visualize_detections.py --config projects/detr/dropkey.yaml --weights detr.pth --images a.jpg
tools/visualize_detections.py --run output/demo --attention 0.3,0.5 0.7,0.5

Without --images: pictures spread evenly over the config's test set, predicted boxes over true
ones. Each is written on its own, and all of them on one page, validation.png. With --images: any
pictures, predicted boxes only; the page is detections.png.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads give way

from dropkey_core.engine import UserError
from dropkey_core.engine.command import exit_code
from projects.detr.attention import Reference
from projects.detr.gallery import draw_gallery
from projects.picture_options import (
    check_numbers,
    find_model,
    parse_with_overrides,
    picture_parser,
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = picture_parser(__doc__, score_threshold=0.5)
    parser.add_argument(
        "--attention",
        nargs="*",
        metavar="X,Y",
        help="draw the encoder's attention from these points, in fractions of width and height; "
        "without any: from the centres of the surest detections",
    )
    return parse_with_overrides(parser, argv, lists=("images", "attention"))


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    check_numbers(arguments)
    points = None if arguments.attention is None else parse_points(arguments.attention)
    draw_gallery(
        *find_model(arguments),
        arguments.images,
        arguments.num_images,
        arguments.score_threshold,
        points,
    )


def parse_points(words: Sequence[str]) -> list[Reference]:
    """Points given as ``X,Y``, fractions of an image's width and height."""
    points = []
    for word in words:
        try:
            x, y = map(float, word.split(","))
        except ValueError as error:
            raise UserError(f"--attention takes points such as 0.3,0.5, got {word}") from error
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise UserError(
                f"--attention takes fractions of width and height in [0, 1], got {word}"
            )
        points.append(Reference(x, y, f"from ({x:g}, {y:g})"))
    return points


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's error."""
    arguments = parse_arguments(argv)
    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())

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
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dropkey_core.engine import UserError, load_config
from dropkey_core.engine.command import exit_code
from dropkey_core.engine.run_folder import find_run_files
from projects.detr.gallery import draw_gallery
from projects.detr.visualize import Reference


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="what a training wrote")
    parser.add_argument("--config", metavar="FILE", help="the experiment's YAML")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the YAML")
    parser.add_argument("--weights", metavar="FILE", help="a checkpoint, ours or an official one")
    parser.add_argument("--images", nargs="+", metavar="FILE|FOLDER", help="any images")
    parser.add_argument("--num-images", type=int, default=16, metavar="N", help="at most so many")
    parser.add_argument("--score-threshold", type=float, default=0.5, metavar="S")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: pictures/ of a run")
    parser.add_argument(
        "--attention",
        nargs="*",
        metavar="X,Y",
        help="draw the encoder's attention from these points, in fractions of width and height; "
        "without any: from the centres of the surest detections",
    )
    arguments = parser.parse_intermixed_args(argv)
    # Overrides that follow one of the lists were taken for a part of it.
    for name in ("images", "attention"):
        words = getattr(arguments, name)
        if words is not None:
            overrides = [word for word in words if "=" in word and not Path(word).exists()]
            arguments.overrides += overrides
            setattr(arguments, name, [word for word in words if word not in overrides])
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    check_numbers(arguments)
    points = None if arguments.attention is None else parse_points(arguments.attention)
    config_path, weights, output = find_run_files(
        arguments.run, arguments.config, arguments.weights, arguments.output
    )
    config = load_config(config_path, arguments.overrides)
    draw_gallery(
        config,
        weights,
        output or Path(config.train.output_dir) / "pictures",
        arguments.images,
        arguments.num_images,
        arguments.score_threshold,
        points,
    )


def check_numbers(arguments: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing."""
    if arguments.num_images < 1:
        raise UserError(f"--num-images must be at least 1, got {arguments.num_images}")
    if not 0 <= arguments.score_threshold <= 1:
        raise UserError(f"--score-threshold must be in [0, 1], got {arguments.score_threshold}")


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

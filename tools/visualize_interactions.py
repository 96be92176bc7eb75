#!/usr/bin/env python
"""Draw the interactions that a trained QPIC finds, and where its decoder looks.

tools/visualize_interactions.py --run output/qpic/demo --attention
tools/visualize_interactions.py --config projects/qpic/dropkey.yaml --weights q.pth --images a.jpg

Without --images: pictures spread evenly over the config's test set, found pairs over true ones.
Each is written on its own, and all of them on one page, validation.png. With --images: any
pictures, found pairs only; the page is interactions.png.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dropkey_core.engine import UserError, load_config
from dropkey_core.engine.command import exit_code
from dropkey_core.engine.run_folder import find_run_files
from projects.qpic.gallery import draw_gallery


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
    parser.add_argument("--score-threshold", type=float, default=0.3, metavar="S")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: pictures/ of a run")
    parser.add_argument(
        "--attention", action="store_true", help="draw where the decoder looks for each pair, too"
    )
    arguments = parser.parse_intermixed_args(argv)
    if arguments.images is not None:  # overrides that follow it were taken for a part of it
        overrides = [w for w in arguments.images if "=" in w and not Path(w).exists()]
        arguments.overrides += overrides
        arguments.images = [word for word in arguments.images if word not in overrides]
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    if arguments.num_images < 1:
        raise UserError(f"--num-images must be at least 1, got {arguments.num_images}")
    if not 0 <= arguments.score_threshold <= 1:
        raise UserError(f"--score-threshold must be in [0, 1], got {arguments.score_threshold}")
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
        arguments.attention,
    )


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's error."""
    arguments = parse_arguments(argv)
    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())

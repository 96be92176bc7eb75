"""The options that all commands have which draw what a trained model finds."""

import argparse
from pathlib import Path

from dropkey_core.engine.errors import UserError


def picture_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with those options; a command, whose docstring is given, adds its own."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--run", type=Path, metavar="FOLDER", help="what a training wrote")
    add("--config", metavar="FILE", help="the experiment's YAML")
    add("overrides", nargs="*", metavar="key=value", help="changes to the YAML")
    add("--weights", metavar="FILE", help="a checkpoint, ours or an official one")
    add("--images", nargs="+", metavar="FILE|FOLDER", help="any images")
    add("--num-images", type=int, default=16, metavar="N", help="at most so many")
    add("--output", type=Path, metavar="FOLDER", help="default: pictures/ of a run")
    return parser


def add_score_threshold(parser: argparse.ArgumentParser, default: float) -> None:
    """Add the option of the commands that draw only what is sure enough."""
    parser.add_argument("--score-threshold", type=float, default=default, metavar="S")


def parse_with_overrides(
    parser: argparse.ArgumentParser, argv: list[str] | None, lists: tuple[str, ...]
) -> argparse.Namespace:
    """Parse a command line on which overrides may stand anywhere.

    Args:
        parser: made by ``picture_parser``.
        argv: the command line; None: that of the process.
        lists: options that take several words, and so the overrides that follow them.
    """
    arguments = parser.parse_intermixed_args(argv)
    for name in lists:
        words = getattr(arguments, name)
        if words is not None:
            overrides = [word for word in words if "=" in word and not Path(word).exists()]
            arguments.overrides += overrides
            setattr(arguments, name, [word for word in words if word not in overrides])
    return arguments


def check_num_images(arguments: argparse.Namespace) -> None:
    """Refuse ``--num-images`` below 1 with a ``UserError``."""
    if arguments.num_images < 1:
        raise UserError(f"--num-images must be at least 1, got {arguments.num_images}")


def check_score_threshold(arguments: argparse.Namespace) -> None:
    """Refuse a ``--score-threshold`` outside [0, 1] with a ``UserError``."""
    if not 0 <= arguments.score_threshold <= 1:
        raise UserError(f"--score-threshold must be in [0, 1], got {arguments.score_threshold}")

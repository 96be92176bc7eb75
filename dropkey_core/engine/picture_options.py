"""The options that all commands have which draw what a trained model finds."""

import argparse
from pathlib import Path

from dropkey_core.engine.errors import UserError


def picture_parser(description: str | None, score_threshold: float) -> argparse.ArgumentParser:
    """Return a parser with those options; a command adds its own.

    Args:
        description: the command's docstring.
        score_threshold: default of ``--score-threshold``.
    """
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
    add("--score-threshold", type=float, default=score_threshold, metavar="S")
    add("--output", type=Path, metavar="FOLDER", help="default: pictures/ of a run")
    return parser


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


def check_numbers(arguments: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing.

    Raises:
        UserError: ``--num-images`` below 1, or ``--score-threshold`` outside [0, 1].
    """
    if arguments.num_images < 1:
        raise UserError(f"--num-images must be at least 1, got {arguments.num_images}")
    if not 0 <= arguments.score_threshold <= 1:
        raise UserError(f"--score-threshold must be in [0, 1], got {arguments.score_threshold}")

"""Command-line options that all commands have which draw what a trained model finds."""

import argparse
from pathlib import Path

from omegaconf import DictConfig

from dropkey_core.engine import UserError, load_config
from dropkey_core.engine.inference import find_run_files


def picture_parser(
    description: str | None, score_threshold: float | None = None
) -> argparse.ArgumentParser:
    """Return a parser with those options, to which a command adds its own.

    Args:
        description: the command's docstring.
        score_threshold: default of the option of commands that draw only what is sure enough.
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
    add("--output", type=Path, metavar="FOLDER", help="default: pictures/ of a run")
    if score_threshold is not None:
        add("--score-threshold", type=float, default=score_threshold, metavar="S")
    return parser


def parse_with_overrides(
    parser: argparse.ArgumentParser, argv: list[str] | None, lists: tuple[str, ...] = ("images",)
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
    """Raise a UserError for ``--num-images`` below 1 or ``--score-threshold`` outside [0, 1]."""
    if arguments.num_images < 1:
        raise UserError(f"--num-images must be at least 1, got {arguments.num_images}")
    threshold = getattr(arguments, "score_threshold", 0)
    if not 0 <= threshold <= 1:
        raise UserError(f"--score-threshold must be in [0, 1], got {threshold}")


def find_model(arguments: argparse.Namespace) -> tuple[DictConfig, str, Path]:
    """Config, path of the weights and folder of the pictures, as a command line says.

    Raises:
        UserError: an option is missing or wrong.
    """
    path, weights, output = find_run_files(
        arguments.run, arguments.config, arguments.weights, arguments.output
    )
    config = load_config(path, arguments.overrides)
    return config, weights, output or Path(config.train.output_dir) / "pictures"

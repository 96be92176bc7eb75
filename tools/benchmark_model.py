#!/usr/bin/env python
"""Measure how fast the model of a config trains and detects, and how much memory that takes.

tools/benchmark_model.py --config projects/detr/dropkey.yaml
tools/benchmark_model.py --config projects/detr/dropkey.yaml --compare model.drop_unit=weight
tools/benchmark_model.py --config projects/detr/dropkey.yaml --reference ../detr
tools/benchmark_model.py --config projects/detr/dropkey.yaml --loader --reference ../detr

Weights are random and the model has COCO's 91 classes, unless overrides say otherwise.
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
    parser.add_argument("--config", required=True, metavar="FILE", help="the experiment's YAML")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the YAML")
    parser.add_argument(
        "--compare",
        action="append",
        default=[],
        metavar="key=value",
        help="measure this change of the config beside it; may be repeated",
    )
    parser.add_argument(
        "--reference",
        metavar="FOLDER",
        help="measure the official DETR of this checkout beside it, with the same weights",
    )
    parser.add_argument(
        "--loader",
        action="store_true",
        help="measure JPEG file to normalised training image instead, on the config's dataset",
    )
    parser.add_argument("--batch-size", type=int, default=2, metavar="N")
    parser.add_argument("--height", type=int, default=480, metavar="PIXELS")
    parser.add_argument("--width", type=int, default=640, metavar="PIXELS")
    parser.add_argument("--images", type=int, default=64, metavar="N", help="for --loader")
    parser.add_argument("--threads", type=int, metavar="N", help="default: torch's; 1 for --loader")
    parser.add_argument("--device", default="cpu", metavar="cpu|cuda")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="turns of each")
    parser.add_argument("--json", metavar="FILE", help="write every single time there, too")
    arguments = parser.parse_intermixed_args(argv)
    for name in ("batch_size", "height", "width", "images", "repeats"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    import json

    import torch

    from dropkey_core.engine.benchmark import as_plain_values, markdown_table
    from projects.detr.benchmark import benchmark_loader, benchmark_models

    if arguments.threads or arguments.loader:
        torch.set_num_threads(arguments.threads or 1)
    if arguments.loader:
        results = benchmark_loader(
            arguments.config,
            arguments.overrides,
            arguments.reference,
            arguments.images,
            arguments.repeats,
        )
    else:
        results = benchmark_models(
            arguments.config,
            arguments.overrides,
            arguments.compare,
            arguments.reference,
            (arguments.batch_size, arguments.height, arguments.width),
            arguments.repeats,
            arguments.device,
        )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(as_plain_values(results), indent=1))
    print(markdown_table(results))


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's error."""
    arguments = parse_arguments(argv)
    from dropkey_core.engine.command import exit_code

    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())

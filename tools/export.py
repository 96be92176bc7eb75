#!/usr/bin/env python
"""Export a trained model as one file that runs without this project.

tools/export.py --model detr-r50 --output detr.onnx
tools/export.py --run output/demo --output demo.pt2 --format torch --size 480x640
tools/export.py --config projects/qpic/dropkey.yaml --weights best.pth --output qpic.onnx

The model is in evaluation mode, in which DropKey is plain attention. Before the file is written,
what it computes is compared with the model, on batches of other sizes; the differences are told.
What goes into a file and comes out: projects/*/export.py.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads give way

from dropkey_core.engine.command import exit_code
from dropkey_core.engine.export import EXPORTERS, export
from dropkey_core.engine.files.atomic_write import output_file
from projects.predictors import load_predictor


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", "--run", "--weights", required=True, metavar="NAME|RUN|FILE|URL",
        help="what was trained, as tools/predict.py takes it")  # fmt: skip
    add("--config", metavar="FILE", help="its YAML, where it does not bring one along")
    add("overrides", nargs="*", metavar="key=value", help="changes to the YAML")
    add("--output", type=Path, required=True, metavar="FILE", help="usually .onnx, or .pt2")
    add("--format", choices=list(EXPORTERS), default="onnx")
    add("--size", type=size_of, metavar="HEIGHTxWIDTH", help="DETR, QPIC: fix the pixels of an "
        "image; without it, any size goes. The others have a size anyway")  # fmt: skip
    return parser.parse_intermixed_args(argv)


def size_of(text: str) -> tuple[int, int]:
    """Height and width from ``480x640``."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) * int(width)):
        raise argparse.ArgumentTypeError(f"it reads HEIGHTxWIDTH, such as 480x640, not {text!r}")
    return int(height), int(width)


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    output = output_file(arguments.output)
    predictor = load_predictor(arguments.model, arguments.config, arguments.overrides, "cpu")
    project = type(predictor).__module__.rpartition(".")[0]
    model = importlib.import_module(f"{project}.export").exportable(predictor)
    differences = export(model, output, arguments.format, arguments.size)
    for name, difference in differences.items():
        print(f"{name}: differs from the model by {difference:.2g} at most")
    print(f"written: {arguments.output}")


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's error."""
    arguments = parse_arguments(argv)
    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())

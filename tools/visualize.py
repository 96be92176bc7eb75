#!/usr/bin/env python
"""Draw what a trained model finds on its test set beside what is there, or where it looks.

tools/visualize.py --model output/demo
tools/visualize.py --model output/metro/demo --files html glb
tools/visualize.py --model output/demo --attention 0.3,0.5 0.7,0.5
tools/visualize.py --model output/metro/a output/metro/b --attention L_Wrist --input photo.jpg

--model is what tools/predict.py takes: a published name, the folder of a run, a checkpoint. Each
image of the test set is drawn on its own, and all of them on one page, validation.png.

With --attention instead, each image and maps beside it; the page is attention.png. DETR: where the
encoder looks from points X,Y in fractions of width and height, by default from the surest
detections. QPIC: where the decoder looks for each pair. METRO: the vertices that a joint attends
to, by default the left elbow. --input names other pictures than the test set's.
(Pictures of what is found on any pictures: tools/predict.py.)
"""

import argparse
import os
import sys
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads give way

from dropkey_core.engine import UserError
from dropkey_core.engine.command import exit_code
from dropkey_core.engine.files.images import unique_stems
from dropkey_core.engine.files.inputs import read_inputs
from projects.gallery import choose_records, draw_attention, draw_test_set
from projects.metro.pictures.mesh_files import KINDS
from projects.predictors import build_predictor, find_model, take_overrides


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", "--run", nargs="+", required=True, metavar="NAME|RUN|FILE|URL",
        help="several with --attention")  # fmt: skip
    add("--config", metavar="FILE", help="its YAML, where it does not bring one along")
    add("overrides", nargs="*", metavar="key=value", help="changes to the YAML")
    add("--num-images", type=int, default=16, metavar="N", help="at most so many")
    add("--score-threshold", type=float, metavar="S", help="least score of detections (0.5; none "
        "with --attention) and interactions (0.3)")  # fmt: skip
    add("--files", nargs="+", choices=KINDS, default=[], help="METRO: write each mesh so, too")
    add("--attention", nargs="*", metavar="X,Y|JOINT", help="draw where the model looks instead")
    add("--input", nargs="+", metavar="FILE|FOLDER|URL", help="its pictures")
    add("--output", type=Path, metavar="FOLDER", help="default: pictures/ of the run")
    add("--device", metavar="NAME", help="cuda, mps or cpu instead of the YAML's")
    arguments = parser.parse_intermixed_args(argv)
    take_overrides(arguments, "model", "attention", "input")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    if arguments.num_images < 1:
        raise UserError(f"--num-images must be at least 1, got {arguments.num_images}")
    options: dict[str, Any] = {}
    if arguments.score_threshold is not None:
        if not 0 <= arguments.score_threshold <= 1:
            raise UserError(f"--score-threshold must be in [0, 1], got {arguments.score_threshold}")
        options["score_threshold"] = arguments.score_threshold
    if arguments.attention is None and (arguments.input or len(arguments.model) > 1):
        raise UserError("several --model and --input are for --attention; what is found on any "
                        "pictures draws tools/predict.py")  # fmt: skip
    if arguments.attention is not None and arguments.files:
        raise UserError("--files is for what is found, not for --attention")
    output = arguments.output or Path(arguments.model[0], "pictures")
    models = [
        find_model(source, arguments.config, arguments.overrides, arguments.device)
        for source in arguments.model
    ]
    if not output.parent.is_dir() and arguments.output is None:
        raise UserError(f"give --output FOLDER: {arguments.model[0]} is no folder of a run")
    predictors = [build_predictor(model) for model in models]
    if arguments.attention is None:
        draw_test_set(
            predictors[0], models[0], output, arguments.num_images, arguments.files, **options
        )
        return
    if arguments.input is None:
        records = choose_records(models[0], arguments.num_images)
    else:
        inputs = islice(read_inputs(arguments.input), arguments.num_images)
        records = [vars(each) for each in inputs]
    named = dict(zip(unique_stems(arguments.model), predictors, strict=True))
    draw_attention(named, records, arguments.attention, output, **options)


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's error."""
    arguments = parse_arguments(argv)
    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())

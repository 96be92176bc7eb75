#!/usr/bin/env python
"""Draw the meshes that a trained METRO recovers, and which vertices its joints attend to.

tools/visualize_mesh.py --run output/metro/demo --files html glb
tools/visualize_mesh.py --run output/metro/demo --images photo.jpg --box 400,80,600
tools/visualize_mesh.py --attention --compare dropout=output/a dropkey=output/b --joint R_Wrist

Without --images: pictures spread evenly over the config's test set, each mesh over its image, from
the side, and the true mesh beside it. Each is written on its own, and all of them on one page,
validation.png. With --images: any pictures; the page is meshes.png. With --attention: for each
image the mesh, coloured by the attention that it gets from a joint; the page is attention.png.
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads give way

from omegaconf import DictConfig

from dropkey_core.engine import UserError, load_config
from dropkey_core.engine.command import exit_code
from dropkey_core.engine.inference import find_run_files
from projects.metro.gallery import draw_attention_gallery, draw_gallery
from projects.metro.pictures.mesh_files import KINDS
from projects.picture_options import (
    check_numbers,
    find_model,
    parse_with_overrides,
    picture_parser,
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = picture_parser(__doc__)
    add = parser.add_argument
    add("--box", metavar="X,Y,SIDE", help="square around the person, in pixels of --images")
    add("--files", nargs="+", choices=KINDS, default=[], help="write each mesh so, too")
    add("--attention", action="store_true", help="draw which vertices a joint attends to instead")
    add("--joint", default="L_Elbow", metavar="NAME", help="where the attention comes from")
    add("--compare", nargs="+", metavar="NAME=RUN", help="models whose attention to draw; no "
        "key=value may follow")  # fmt: skip
    return parse_with_overrides(parser, argv)


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    check_numbers(arguments)
    box = None if arguments.box is None else parse_box(arguments.box)
    if box is not None and arguments.images is None:
        raise UserError("--box is for --images; the test set's boxes are in its index")
    if arguments.compare and not arguments.attention:
        raise UserError("--compare is for --attention")
    chosen = (arguments.images, box, arguments.num_images)
    if not arguments.attention:
        draw_gallery(*find_model(arguments), *chosen, arguments.files)
        return
    if arguments.compare:
        models, output = find_models(arguments.compare, arguments)
    else:
        config, weights, output = find_model(arguments)
        models = {"attention": (config, weights)}
    draw_attention_gallery(models, arguments.joint, output, *chosen)


def find_models(
    words: Sequence[str], arguments: argparse.Namespace
) -> tuple[dict[str, tuple[DictConfig, str]], Path]:
    """Config and weights by name, of words NAME=RUN, and the folder of the pictures."""
    models = {}
    for word in words:
        name, _, folder = word.partition("=")
        if not (name and folder):
            raise UserError(
                f"--compare takes NAME=RUN such as dropkey=output/metro/dropkey, got {word}"
            )
        if name in models:
            raise UserError(f"--compare names {name} twice")
        try:
            path, weights, _ = find_run_files(Path(folder), None, None, None)
        except UserError as error:
            raise UserError(f"--compare {name}: {error}") from error
        models[name] = (load_config(path, arguments.overrides), weights)
    first = Path(words[0].partition("=")[2])
    return models, arguments.output or first / "pictures"


def parse_box(text: str) -> tuple[float, float, float]:
    """The box given as ``X,Y,SIDE``."""
    try:
        x, y, side = map(float, text.split(","))
    except ValueError as error:
        raise UserError(f"--box takes X,Y,SIDE such as 400,80,600, got {text}") from error
    if not (math.isfinite(x) and math.isfinite(y) and 0 < side < math.inf):
        raise UserError(f"--box takes pixels, the side above 0, got {text}")
    return x, y, side


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's error."""
    arguments = parse_arguments(argv)
    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())

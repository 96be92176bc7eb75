#!/usr/bin/env python
"""Look into trained models: a picture and a CSV file of what their attention does, or withstands.

tools/analyze.py entropy --runs output/a output/b --labels dropout DropKey
tools/analyze.py maps --runs output/a output/b --num-images 4 --layers 0 6 13
tools/analyze.py occlusion --runs output/a output/b --ratios 0 0.3 0.6 0.9
tools/analyze.py similarity --runs output/a
tools/analyze.py focus --runs output/a --corruptions noise blur --top 5
tools/analyze.py masks --patterns key block:2 --drop-ratio 0.1 --grid 7x12

entropy: how widely the class token's attention is spread, layer by layer (the paper's Figure 4).
maps: where on the image the class token looks (Figure 5).
occlusion: the metric without part of the patches (Table 3).
similarity: how alike the attention of two layers is (DeepViT).
focus: the share of the most attended tokens, on clean and corrupted images (TAP and ADL), and the
metric under corruption.
masks: which keys queries lose, without a model: patches, blocks, crosses (Figure 2).

Models are given as --runs, folders that trainings wrote. Runs of equal label are repetitions, as of
several seeds: figures show their mean and deviation.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads give way


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    add_query(add_study(commands, "entropy"))
    maps = add_study(commands, "maps", num_images=4)
    maps.add_argument("--layers", nargs="+", metavar="L", help="default: all")
    maps.add_argument("--head", type=int, metavar="N", help="default: the mean over heads")
    occlusion = add_study(commands, "occlusion")
    tenths = [tenth / 10 for tenth in range(10)]
    occlusion.add_argument("--ratios", nargs="+", type=float, default=tenths, metavar="R")
    occlusion.add_argument("--draws", type=int, default=5, metavar="N", help="of the patches")
    occlusion.add_argument("--seed", type=int, default=0, metavar="N")
    occlusion.add_argument("--metric", metavar="NAME", help="default: the run's best_metric")
    add_study(commands, "similarity")
    focus = add_study(commands, "focus")
    add_query(focus)
    focus.add_argument("--top", type=int, default=5, metavar="N", help="most attended tokens")
    focus.add_argument("--corruptions", nargs="*", default=None, metavar="NAME", help="default: "
        "noise blur brightness contrast jpeg; none of them: clean images only")  # fmt: skip
    focus.add_argument("--severities", nargs="+", type=int, default=[1, 2, 3, 4, 5], metavar="N")
    focus.add_argument("--layer", metavar="L", help="drawn over the severity; default: the last")
    add_masks(commands)
    return parser.parse_args(argv)


def add_masks(commands) -> None:
    """Add the study that needs no model."""
    add = commands.add_parser("masks").add_argument
    add("--patterns", nargs="+", default=["key", "block:3", "cross:1"], metavar="UNIT",
        help="key, block:SIZE or cross:SIZE; one row of the picture each")  # fmt: skip
    add("--drop-ratio", type=float, default=0.3, metavar="R")
    add("--grid", type=grid, default=(14, 14), metavar="HxW", help="patches")
    add("--queries", type=int, default=6, metavar="N", help="columns")
    add("--seed", type=int, default=0, metavar="N")
    add("--output", type=Path, default=Path("output/analysis"), metavar="FOLDER")


def grid(text: str) -> tuple[int, int]:
    """Height and width of ``HxW``."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"must look like 14x14, got {text}")
    return int(height), int(width)


def add_study(commands, name: str, num_images: int | None = None) -> argparse.ArgumentParser:
    """Add a subcommand with the options that all have."""
    study = commands.add_parser(name)
    add = study.add_argument
    add("--runs", nargs="+", type=Path, required=True, metavar="FOLDER", help="of trainings")
    add("--labels", nargs="+", metavar="NAME", help="one for each run; default: its folder's name")
    add("--set", nargs="+", default=[], metavar="key=value", help="changes to the YAML")
    what = "at most so many of the test set, chosen at random, always the same; default: "
    what += str(num_images or "all")
    add("--num-images", type=int, default=num_images, metavar="N", help=what)
    add("--output", type=Path, default=Path("output/analysis"), metavar="FOLDER")
    return study


def add_query(study: argparse.ArgumentParser) -> None:
    """Add the choice between the class token and all tokens."""
    what = "whose attention: the class token's, or that of all queries"
    study.add_argument("--query", choices=("class", "all"), default="class", help=what)


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    from dropkey_core.engine.errors import UserError
    from dropkey_core.engine.files.atomic_write import make_folder
    from projects.paper.figures import attention_maps, corruptions, focus_study, studies
    from projects.paper.figures.trained import find_sources

    if arguments.study == "masks":
        run_masks(arguments)
        return
    if arguments.num_images is not None and arguments.num_images < 1:
        raise UserError(f"--num-images must be at least 1, got {arguments.num_images}")
    sources = find_sources(arguments.runs, arguments.labels, arguments.set)
    make_folder(arguments.output)
    common = (sources, arguments.output, arguments.num_images)
    if arguments.study == "entropy":
        studies.study_entropy(*common, arguments.query)
    elif arguments.study == "maps":
        attention_maps.study_maps(*common, arguments.layers, arguments.head)
    elif arguments.study == "occlusion":
        studies.study_occlusion(
            *common, arguments.ratios, arguments.draws, arguments.seed, arguments.metric
        )
    elif arguments.study == "similarity":
        studies.study_similarity(*common)
    else:
        names = arguments.corruptions
        settings = focus_study.FocusSettings(
            arguments.top,
            arguments.query,
            list(corruptions.STRENGTHS) if names is None else names,
            arguments.severities,
            arguments.num_images,
            arguments.layer,
        )
        focus_study.study_focus(sources, arguments.output, settings)


def run_masks(arguments: argparse.Namespace) -> None:
    """Draw sampled masks, and list them in a CSV file."""
    from dropkey_core.engine.errors import UserError
    from projects.paper.figures.sampled_masks import draw_masks

    if not 1 <= arguments.queries <= arguments.grid[0] * arguments.grid[1]:
        raise UserError("--queries must be at least 1 and at most the number of patches")
    path = arguments.output / "masks.png"
    sampling = (arguments.grid, arguments.drop_ratio, arguments.queries, arguments.seed)
    try:
        draw_masks(arguments.patterns, *sampling, path)
    except ValueError as error:
        raise UserError(str(error)) from error
    print(path)


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's error."""
    arguments = parse_arguments(argv)
    from dropkey_core.engine.command import exit_code

    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""Convert foreign checkpoints into what a project trains from or evaluates.

tools/convert_checkpoint.py t2t 81.5_T2T_ViT_14.pth.tar t2t-vit-14.pth
tools/convert_checkpoint.py qpic detr-r101-2c7b67e5.pth qpic-start-r101.pth
tools/convert_checkpoint.py metro metro_3dpw_state_dict.bin metro-3dpw.pth
tools/convert_checkpoint.py hugging-face facebook/detr-resnet-50 detr-r50.pth
tools/convert_checkpoint.py hugging-face output/detr/dropkey/best.pth my_detr

Only tensors are read, never code; what is written appears complete or not at all.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def convert_checkpoint(
    source: str | Path,
    target: Path,
    convert: Callable[[dict[str, Any]], tuple[Mapping[str, Any], list[str]]],
) -> list[str]:
    """Write the weights of a checkpoint, converted, as another one.

    Args:
        source: file or URL of a state dict, bare or under ``model``.
        target: where to write ``{"model": converted weights}``; what is there is replaced at once.
        convert: from a state dict to another one, and lines that say what was done.

    Returns:
        those lines.

    Raises:
        UserError: a source that cannot be read or converted, or a target that cannot be written.
    """
    from dropkey_core.engine import UserError, read_checkpoint, write_checkpoint
    from dropkey_core.engine.checkpoint import weights_by_name

    if Path(source).expanduser().absolute() == target.expanduser().absolute():
        raise UserError(f"{target} would replace the checkpoint that is converted: name another")
    content = read_checkpoint(source, "INPUT")
    converted, said = convert(weights_by_name(content.get("model", content), source))
    write_checkpoint(target.expanduser(), {"model": dict(converted)})
    return said


def add_qpic(commands: Any) -> None:
    """A start for QPIC from a DETR."""
    parser = commands.add_parser(
        "qpic",
        help="a start for QPIC from the weights of a DETR, official or ours",
        description="A start for QPIC from the weights of a DETR, official or ours.",
    )
    parser.add_argument("--num-object-classes", type=int, default=80, metavar="C")
    parser.add_argument("--num-verb-classes", type=int, default=117, metavar="V")
    parser.add_argument("--seed", type=int, default=0, help="of heads that start afresh")
    parser.set_defaults(convert=convert_qpic)


def convert_qpic(arguments: argparse.Namespace) -> list[str]:
    """Do what ``add_qpic``'s arguments ask for; return what was done, a line each."""
    from dropkey_core.engine.checkpoint import find_checkpoint, read_checkpoint
    from projects.detr.releases import release_of
    from projects.qpic.convert import qpic_from_detr

    def convert(state: dict[str, Any]) -> Any:
        return qpic_from_detr(
            state, arguments.num_object_classes, arguments.num_verb_classes, arguments.seed
        )

    said = convert_checkpoint(arguments.input, arguments.output, convert)
    file = find_checkpoint(arguments.input, "INPUT")
    release = release_of(file, read_checkpoint(file, "INPUT"))
    if release is not None and release.dilation:
        said.append(
            "the feature map of this DETR has stride 16, which nothing in OUTPUT says: train with "
            "model.dilation=true"
        )
    return said


def add_metro(commands: Any) -> None:
    """The official METRO under our names."""
    description = (
        "The weights of the official METRO for the body, HRNet or ResNet-50, under our names."
    )
    parser = commands.add_parser(
        "metro", help="the official METRO, ready to evaluate or train on", description=description
    )
    parser.set_defaults(convert=convert_metro)


def convert_metro(arguments: argparse.Namespace) -> list[str]:
    """Do what ``add_metro``'s arguments, of which there are none, ask for."""
    from projects.metro.convert import metro_from_official

    return convert_checkpoint(arguments.input, arguments.output, metro_from_official)


def add_classification(commands: Any) -> None:
    """Published classifiers, and the averaged weights of ours."""
    parser = commands.add_parser(
        "classification",
        aliases=["t2t"],
        help="weights of T2T-ViT, VOLO or DeiT, official or timm's, or averaged ones of ours",
        description=(
            "The weights of a T2T-ViT, VOLO or DeiT, official or timm's, under our names. Of an "
            "older checkpoint of ours that holds averaged weights inside the model: those."
        ),
    )
    parser.set_defaults(convert=convert_classification)


def convert_classification(arguments: argparse.Namespace) -> list[str]:
    """Do what ``add_classification``'s arguments ask for; return what was done, a line each."""
    from projects.classification.convert import convert_classifier

    return convert_classifier(arguments.input, arguments.output)


def add_hugging_face(commands: Any) -> None:
    """DETR from ``transformers``, and to it."""
    parser = commands.add_parser(
        "hugging-face",
        help="a DETR of transformers becomes ours, or ours becomes a folder for transformers",
        description=(
            "INPUT a folder of transformers or an id on the hub: its DETR under our names. INPUT a "
            "checkpoint of ours, the folder of a run or a published name: OUTPUT is a folder for "
            "DetrForObjectDetection.from_pretrained."
        ),
    )
    parser.add_argument(
        "--config", metavar="YAML", help="of a checkpoint of ours that does not bring it along"
    )
    parser.set_defaults(convert=convert_hugging_face)


def convert_hugging_face(arguments: argparse.Namespace) -> list[str]:
    """Do what ``add_hugging_face``'s arguments ask for; return what was done, a line each."""
    from dropkey_core.engine import write_checkpoint
    from projects.detr import Detector
    from projects.detr.hugging_face import load_hugging_face, save_hugging_face
    from projects.detr.predictor import is_hugging_face

    if not is_hugging_face(arguments.input):
        detector = Detector.from_pretrained(arguments.input, config=arguments.config, device="cpu")
        resize = detector.mapper.transform
        sides = resize.sizes[0], resize.max_size
        save_hugging_face(detector.model, detector.names, arguments.output, sides)
        return [f"converted: a DETR of {len(detector.names)} classes"]
    state, settings, names = load_hugging_face(arguments.input)
    write_checkpoint(arguments.output.expanduser(), {"model": state})
    overrides = (f"model.{name}={value}" for name, value in settings.items())
    return [
        f"converted: {len(state)} tensors of a DETR of {len(names)} classes: {', '.join(names)}",
        " ".join(overrides),
    ]


# Each adds a command whose ``convert`` does what the command line says, and returns lines that say
# what was done.
CONVERSIONS = (add_classification, add_metro, add_qpic, add_hugging_face)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="PROJECT")
    for add_conversion in CONVERSIONS:
        add_conversion(commands)
    for command in dict.fromkeys(commands.choices.values()):  # one may have two names
        command.add_argument("input", metavar="INPUT", help="a checkpoint, file or URL")
        command.add_argument("output", metavar="OUTPUT", type=Path, help="the file to write")
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    for line in arguments.convert(arguments):
        print(line)
    print(f"written: {arguments.output}")


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's error."""
    arguments = parse_arguments(argv)
    from dropkey_core.engine.command import exit_code

    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""Convert foreign checkpoints into what a project trains from or evaluates.

tools/convert_checkpoint.py t2t 81.5_T2T_ViT_14.pth.tar t2t-vit-14.pth
tools/convert_checkpoint.py qpic detr-r101 qpic-start-r101.pth
tools/convert_checkpoint.py metro metro_3dpw_state_dict.bin metro-3dpw.pth
tools/convert_checkpoint.py hugging-face facebook/detr-resnet-50 detr-r50.pth
tools/convert_checkpoint.py hugging-face output/detr/dropkey my_detr

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
    published: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write the weights of a checkpoint, converted, as another one.

    Args:
        source: see ``find_weights``.
        target: where to write ``{"model": converted weights}``; what is there is replaced at once.
        convert: from what a checkpoint holds to a state dict, and lines that say what was done.
        published: weights by name.

    Returns:
        those lines.

    Raises:
        UserError: a source that cannot be read or converted, or a target that cannot be written.
    """
    from dropkey_core.engine import UserError, write_checkpoint
    from dropkey_core.engine.checkpoint import find_weights
    from dropkey_core.engine.files.atomic_write import output_file

    if Path(source).expanduser().absolute() == target.expanduser().absolute():
        raise UserError(f"{target} would replace the checkpoint that is converted: name another")
    target = output_file(target)
    converted, said = convert(find_weights(source, "INPUT", published)[1])
    write_checkpoint(target, {"model": dict(converted)})
    return said


def state_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of a checkpoint, bare or under ``model``."""
    from dropkey_core.engine.checkpoint import weights_by_name

    return weights_by_name(content.get("model", content), "INPUT")


# ---- each takes the arguments of the command line, and returns lines that say what was done ------
def convert_qpic(arguments: argparse.Namespace) -> list[str]:
    """A start for QPIC from the weights of a DETR, official or ours."""
    from dropkey_core.engine.checkpoint import find_weights
    from projects.detr.published import PUBLISHED
    from projects.detr.releases import release_of
    from projects.qpic.convert import qpic_from_detr

    classes = arguments.num_object_classes, arguments.num_verb_classes
    said = convert_checkpoint(
        arguments.input,
        arguments.output,
        lambda content: qpic_from_detr(state_of(content), *classes, arguments.seed),
        PUBLISHED,
    )
    release = release_of(*find_weights(arguments.input, "INPUT", PUBLISHED))
    if release is not None and release.dilation:
        said.append(
            "the feature map of this DETR has stride 16, which nothing in OUTPUT says: train with "
            "model.dilation=true"
        )
    return said


def convert_metro(arguments: argparse.Namespace) -> list[str]:
    """The weights of the official METRO for the body, HRNet or ResNet-50, under our names."""
    from projects.metro.convert import metro_from_official

    return convert_checkpoint(
        arguments.input, arguments.output, lambda content: metro_from_official(state_of(content))
    )


def convert_classification(arguments: argparse.Namespace) -> list[str]:
    """The weights of a T2T-ViT, VOLO or DeiT, official or timm's, under our names."""
    from projects.classification.convert import classifier_weights

    return convert_checkpoint(arguments.input, arguments.output, classifier_weights)


def convert_hugging_face(arguments: argparse.Namespace) -> list[str]:
    """INPUT a folder of transformers or an id on the hub: its DETR under our names.

    INPUT a checkpoint of ours, the folder of a run or a published name: OUTPUT is a folder for
    DetrForObjectDetection.from_pretrained.
    """
    from omegaconf import OmegaConf

    from dropkey_core.engine import write_checkpoint
    from dropkey_core.engine.files.atomic_write import make_folder, output_file
    from projects.detr import Detector
    from projects.detr.hugging_face import save_hugging_face
    from projects.detr.predictor import is_hugging_face

    if not is_hugging_face(arguments.input):
        folder = make_folder(arguments.output.expanduser())
        detector = Detector.from_pretrained(arguments.input, config=arguments.config, device="cpu")
        resize = detector.mapper.transform
        sides = resize.sizes[0], resize.max_size
        save_hugging_face(detector.model, detector.names, folder, sides)
        return [f"converted: a DETR of {len(detector.names)} classes"]
    output = output_file(arguments.output)
    trained = Detector.find(arguments.input)
    write_checkpoint(output, {**trained.content, "config": OmegaConf.to_yaml(trained.config)})
    names = [each["name"] for each in trained.content["classes"]]
    settings = {name: value for name, value in trained.config.model.items() if name[0] != "_"}
    what = f"{len(trained.state)} tensors of a DETR of {len(names)} classes"
    return [
        f"converted: {what}: {', '.join(names)}",
        " ".join(f"model.{name}={value}" for name, value in settings.items()),
    ]


CONVERSIONS = {  # by name; "t2t" is the older one
    "classification": (convert_classification, "T2T-ViT, VOLO or DeiT, official or timm's"),
    "t2t": (convert_classification, "the same"),
    "metro": (convert_metro, "the official METRO, ready to evaluate or train on"),
    "qpic": (convert_qpic, "a start for QPIC from the weights of a DETR, official or ours"),
    "hugging-face": (convert_hugging_face, "a DETR of transformers to ours, or ours to theirs"),
}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="PROJECT")
    for name, (convert, what) in CONVERSIONS.items():
        command = commands.add_parser(name, help=what, description=convert.__doc__)
        command.set_defaults(convert=convert)
        command.add_argument("input", metavar="INPUT", help="a checkpoint, file or URL")
        command.add_argument("output", metavar="OUTPUT", type=Path, help="the file to write")
    add = commands.choices["qpic"].add_argument
    add("--num-object-classes", type=int, default=80, metavar="C")
    add("--num-verb-classes", type=int, default=117, metavar="V")
    add("--seed", type=int, default=0, help="of heads that start afresh")
    commands.choices["hugging-face"].add_argument(
        "--config", metavar="YAML", help="of a checkpoint of ours that does not bring it along"
    )
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

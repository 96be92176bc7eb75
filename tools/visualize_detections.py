#!/usr/bin/env python
"""Draw what a trained DETR finds, and where its encoder looks.

tools/visualize_detections.py --run output/demo
tools/visualize_detections.py --config projects/detr/dropkey.yaml --weights detr.pth --images a.jpg
tools/visualize_detections.py --run output/demo --attention 0.3,0.5 0.7,0.5

Without --images: pictures spread evenly over the config's test set, predicted boxes over true
ones. Each is written on its own, and all of them on one page, validation.png. With --images: any
pictures, predicted boxes only; the page is detections.png.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
from torchvision.ops import nms

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dropkey_core.engine import (
    UserError,
    dataset_path,
    instantiate,
    load_config,
    read_checkpoint,
)
from dropkey_core.engine.checkpoint import load_state
from projects.detr import DetrMapper, visualize
from projects.detr.annotation_file import read_annotation_file
from projects.detr.coco import CategoryMap
from projects.detr.detr import Detr
from projects.detr.image_file import read_image
from projects.detr.picture import FOUND_IOU, Box, Picture
from projects.detr.visualize import Reference

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
NUM_POINTS = 4  # looked from where none are given


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="what a training wrote")
    parser.add_argument("--config", metavar="FILE", help="the experiment's YAML")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the YAML")
    parser.add_argument("--weights", metavar="FILE", help="a checkpoint, ours or an official one")
    parser.add_argument("--images", nargs="+", metavar="FILE|FOLDER", help="any images")
    parser.add_argument("--num-images", type=int, default=16, metavar="N", help="at most so many")
    parser.add_argument("--score-threshold", type=float, default=0.5, metavar="S")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: pictures/ of a run")
    parser.add_argument(
        "--attention",
        nargs="*",
        metavar="X,Y",
        help="draw the encoder's attention from these points, in fractions of width and height; "
        "without any: from the centres of the surest detections",
    )
    arguments = parser.parse_intermixed_args(argv)
    # Overrides that follow one of the lists were taken for a part of it.
    for name in ("images", "attention"):
        words = getattr(arguments, name)
        if words is not None:
            overrides = [word for word in words if "=" in word and not Path(word).exists()]
            arguments.overrides += overrides
            setattr(arguments, name, [word for word in words if word not in overrides])
    return arguments


@dataclass(frozen=True)
class Detector:
    """A model in eval mode with all that it takes to use it."""

    model: Detr
    mapper: DetrMapper
    names: Sequence[str]  # by class index


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    check_numbers(arguments)
    points = None if arguments.attention is None else parse_points(arguments.attention)
    config_path, weights, output = find_files(arguments)
    config = load_config(config_path, arguments.overrides)
    output = output or Path(config.train.output_dir) / "pictures"
    annotations = OmegaConf.select(config, "dataset.test.annotations")
    if annotations is None:
        raise UserError("the config has no dataset.test.annotations, from which classes have names")
    detector = load_detector(config, weights, annotations)
    if arguments.images is None:
        records, true_names = load_test_set(config, annotations)
    else:
        records = [{"file_name": str(path)} for path in find_images(arguments.images)]
        true_names = []
    chosen = spread(records, arguments.num_images)
    heading = (
        f"{len(chosen)} of {len(records)} images, "
        f"detections with a score of {arguments.score_threshold:g} or more"
    )
    print(heading)
    make_folder(output)
    stems = unique_stems([record["file_name"] for record in chosen])
    pictures = []
    for record, stem in zip(chosen, stems, strict=True):
        sample, detections, attention = detect(detector, record)
        picture = Picture(
            Path(record["file_name"]).name,
            read_as_array(record),
            predicted_boxes(detections, detector.names, arguments.score_threshold),
            true_boxes(record, true_names),
        )
        pictures.append(picture)
        say_saved(visualize.draw_picture(picture), output / f"{stem}_boxes.png")
        if points is not None:
            look_from = points or surest_points(sample, detections, detector.names)
            figure = attention_figure(picture, look_from, attention, sample)
            say_saved(figure, output / f"{stem}_attention.png")
    page = "detections.png" if arguments.images else "validation.png"
    say_saved(visualize.draw_page(pictures, heading), output / page)


# ---- the command line ----------------------------------------------------------------------------
def check_numbers(arguments: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing."""
    if arguments.num_images < 1:
        raise UserError(f"--num-images must be at least 1, got {arguments.num_images}")
    if not 0 <= arguments.score_threshold <= 1:
        raise UserError(f"--score-threshold must be in [0, 1], got {arguments.score_threshold}")


def parse_points(words: Sequence[str]) -> list[Reference]:
    """Points given as ``X,Y``, fractions of an image's width and height."""
    points = []
    for word in words:
        try:
            x, y = map(float, word.split(","))
        except ValueError as error:
            raise UserError(f"--attention takes points such as 0.3,0.5, got {word}") from error
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise UserError(
                f"--attention takes fractions of width and height in [0, 1], got {word}"
            )
        points.append(Reference(x, y, f"from ({x:g}, {y:g})"))
    return points


def find_files(arguments: argparse.Namespace) -> tuple[str, str, Path | None]:
    """Paths of config, weights and output, as far as the command line says; --run fills gaps."""
    config, weights, output = arguments.config, arguments.weights, arguments.output
    if arguments.run is None:
        if config is None:
            raise UserError("nothing to show: give --run FOLDER, or --config FILE --weights FILE")
        if weights is None:
            raise UserError("no weights to look at: give --weights FILE, or --run FOLDER")
        return config, weights, output
    folder = arguments.run.expanduser().absolute()
    if not (folder / "config.yaml").is_file():
        raise UserError(f"--run {folder} is no folder of a run: it has no config.yaml")
    if weights is None:
        present = [folder / name for name in ("best.pth", "last.pth") if (folder / name).is_file()]
        if not present:
            raise UserError(f"--run {folder} has no checkpoint yet, neither best.pth nor last.pth")
        weights = str(present[0])
    return config or str(folder / "config.yaml"), weights, output or folder / "pictures"


def make_folder(folder: Path) -> None:
    """Make the folder of the pictures."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to --output {folder}: {error.strerror}") from error


def say_saved(figure: Figure, path: Path) -> None:
    """Write a figure and print where."""
    print(visualize.save(figure, path), flush=True)


# ---- model and images ----------------------------------------------------------------------------
def load_detector(config: DictConfig, weights: str, annotations: str) -> Detector:
    """Build the config's model with as many classes as the checkpoint has, and load that.

    So an official checkpoint works where no dataset is, which the config would ask instead.
    """
    content = read_checkpoint(weights, "--weights")
    state = content.get("model", content)
    if "class_embed.weight" not in state:
        raise UserError(f"{weights} is no checkpoint of DETR: it has no class_embed.weight")
    num_classes = len(state["class_embed.weight"]) - 1  # one row is "no object"
    config.model.num_classes = num_classes
    config.model.pretrained_backbone = False
    model = instantiate(config.model, "model").eval()
    print(load_state(model, state, weights))
    use_gpu = config.train.device == "cuda" and torch.cuda.is_available()
    return Detector(
        model.to("cuda" if use_gpu else "cpu"),
        instantiate(config.dataloader.test.mapper, "dataloader.test.mapper"),
        class_names(num_classes, annotations),
    )


def class_names(num_classes: int, annotations: str) -> list[str]:
    """Names by class index: the annotation file's if it is there and fits, COCO's, or numbers."""
    if dataset_path(annotations).is_file():
        category_map = read_categories(annotations)
        if category_map.num_classes == num_classes:
            return [category_map.name(index) for index in range(num_classes)]
    if num_classes == 91:
        return FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return [f"class {index}" for index in range(num_classes)]


def read_categories(annotations: str) -> CategoryMap:
    """The categories of an annotation file."""
    return CategoryMap(read_annotation_file(annotations)["categories"])


def load_test_set(config: DictConfig, annotations: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The config's test set as dataset dicts, and the names of its classes by index."""
    records = instantiate(config.dataloader.test.dataset, "dataloader.test.dataset")
    category_map = read_categories(annotations)
    return records, [category_map.name(index) for index in range(category_map.num_classes)]


def find_images(places: Sequence[str]) -> list[Path]:
    """Image files: those named, and those that lie in the folders named, in order of name."""
    found = []
    for place in map(Path, places):
        if place.is_dir():
            files = [path for path in place.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
            found += sorted(files)
        elif place.is_file():
            found.append(place)
        else:
            raise UserError(f"--images: no file or folder {place}")
    if not found:
        raise UserError(
            f"nothing to show: no images in {', '.join(map(str, places))} "
            f"(looked for {', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return found


def spread(records: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` of the records, evenly spread over them, in order."""
    count = min(count, len(records))
    return [records[position * len(records) // count] for position in range(count)]


def unique_stems(paths: Sequence[str]) -> list[str]:
    """File names without suffix; of those that occur again the later ones are numbered."""
    stems: list[str] = []
    for path in paths:
        stem, number = Path(path).stem, 2
        while stem in stems:
            stem = f"{Path(path).stem}_{number}"
            number += 1
        stems.append(stem)
    return stems


# ---- detections ----------------------------------------------------------------------------------
def detect(
    detector: Detector, record: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor], Tensor]:
    """Sample, detections and attention (heads, h, w, h, w) of an image."""
    sample = detector.mapper(record)
    detections, attention = visualize.detect_with_attention(detector.model, [sample])
    return sample, detections[0], attention[0]


def read_as_array(record: dict[str, Any]) -> np.ndarray:
    """The image (H, W, 3) uint8, decoded as the mapper does it."""
    size = (record["height"], record["width"]) if "height" in record else None
    return read_image(record["file_name"], size).permute(1, 2, 0).contiguous().numpy()


def predicted_boxes(
    detections: dict[str, Tensor], names: Sequence[str], threshold: float
) -> list[Box]:
    """What was found with a score of ``threshold`` or more."""
    return [
        Box(tuple(corners), names[label], score)
        for corners, label, score in zip(
            detections["boxes_xyxy"].tolist(),
            detections["labels"].tolist(),
            detections["scores"].tolist(),
            strict=True,
        )
        if score >= threshold
    ]


def true_boxes(record: dict[str, Any], names: Sequence[str]) -> list[Box]:
    """What is there according to the annotations."""
    boxes = []
    for annotation in record.get("annotations", ()):
        x, y, width, height = annotation["bbox"]
        name = names[annotation["category_id"]]
        is_crowd = bool(annotation["iscrowd"])
        boxes.append(Box((x, y, x + width, y + height), name, is_crowd=is_crowd))
    return boxes


def surest_points(
    sample: dict[str, Any], detections: dict[str, Tensor], names: Sequence[str]
) -> list[Reference]:
    """Centres of the detections with the highest scores, one for each object."""
    points = []
    kept = nms(detections["boxes_xyxy"], detections["scores"], FOUND_IOU)  # surest first
    for index in kept[:NUM_POINTS].tolist():
        x0, y0, x1, y1 = detections["boxes_xyxy"][index].tolist()
        name = names[int(detections["labels"][index])]
        points.append(
            Reference(
                (x0 + x1) / 2 / sample["width"],
                (y0 + y1) / 2 / sample["height"],
                f"{name} {float(detections['scores'][index]):.2f}",
            )
        )
    return points


def attention_figure(
    picture: Picture, points: Sequence[Reference], attention: Tensor, sample: dict[str, Any]
) -> Figure:
    """The image amid the attention from its points."""
    size = tuple(sample["image"].shape[-2:])  # as the model saw it
    maps = [visualize.attention_from(attention, point, size).cpu().numpy() for point in points]
    span = visualize.cell_span(size, attention.shape[1:3])
    heading = (
        "Self-attention of the last encoder layer, mean of its heads, each map on its own scale"
    )
    return visualize.draw_attention(picture, points, maps, span, heading)


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's error."""
    arguments = parse_arguments(argv)
    try:
        run(arguments)
    except UserError as error:
        print(f"error: {error.one_line()}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

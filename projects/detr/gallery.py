"""Pictures of what a model detects and where it looks, of a test set or of any images."""

import copy
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

from dropkey_core.engine import (
    UserError,
    dataset_path,
    instantiate,
    load_weights,
    read_checkpoint,
)
from dropkey_core.engine.files.image_list import find_images, spread, unique_stems
from dropkey_core.engine.files.images import read_image
from dropkey_core.engine.run_folder import make_picture_folder
from projects.detr import visualize
from projects.detr.coco import read_categories
from projects.detr.detr import Detr
from projects.detr.mapper import DetrMapper
from projects.detr.picture import FOUND_IOU, Box, Picture
from projects.detr.visualize import Reference
from projects.figure import say_saved

NUM_POINTS = 4  # looked from where none are given


@dataclass(frozen=True)
class Detector:
    """A model in eval mode with all that it takes to use it."""

    model: Detr
    mapper: DetrMapper
    names: Sequence[str]  # by class index


def draw_gallery(
    config: DictConfig,
    weights: str,
    output: Path,
    images: Sequence[str] | None = None,
    num_images: int = 16,
    score_threshold: float = 0.5,
    points: Sequence[Reference] | None = None,
) -> None:
    """Detect on images and write a picture of each, and a page of all of them.

    Args:
        config: a loaded config; its model, its test set and the test set's mapper are used.
        weights: path of a checkpoint, ours or an official one.
        output: folder to write to.
        images: files and folders of images; None takes the config's test set, with true boxes.
        num_images: draw at most so many, spread evenly.
        score_threshold: draw detections of this score or more.
        points: where the attention is looked at from, in fractions of the image; an empty list
            takes the surest detections; None draws no attention.

    Raises:
        UserError: nothing to show, a bad image or checkpoint, or a folder that cannot be written.
    """
    annotations = OmegaConf.select(config, "dataset.test.annotations")
    if annotations is None:
        raise UserError("the config has no dataset.test.annotations, from which classes have names")
    detector = load_detector(config, weights, annotations)
    if images is None:
        records, true_names = load_test_set(config, annotations)
    else:
        records, true_names = [{"file_name": str(path)} for path in find_images(images)], []
    chosen = spread(records, num_images)
    heading = (
        f"{len(chosen)} of {len(records)} images, "
        f"detections with a score of {score_threshold:g} or more"
    )
    print(heading)
    make_picture_folder(output)
    stems = unique_stems([record["file_name"] for record in chosen])
    pictures = []
    for record, stem in zip(chosen, stems, strict=True):
        sample, detections, attention = detect(detector, record)
        picture = Picture(
            Path(record["file_name"]).name,
            read_as_array(record),
            predicted_boxes(detections, detector.names, score_threshold),
            true_boxes(record, true_names),
        )
        pictures.append(picture)
        say_saved(visualize.draw_picture(picture), output / f"{stem}_boxes.png")
        if points is not None:
            look_from = points or surest_points(sample, detections, detector.names)
            figure = attention_figure(picture, look_from, attention, sample)
            say_saved(figure, output / f"{stem}_attention.png")
    page = "detections.png" if images else "validation.png"
    say_saved(visualize.draw_page(pictures, heading), output / page)


def load_detector(config: DictConfig, weights: str, annotations: str) -> Detector:
    """Build the config's model with as many classes as the checkpoint has, and load that.

    So an official checkpoint works where no dataset is, which the config would ask instead.
    """
    content = read_checkpoint(weights, "--weights")
    state = content.get("model", content)
    if "class_embed.weight" not in state:
        raise UserError(f"{weights} is no checkpoint of DETR: it has no class_embed.weight")
    num_classes = len(state["class_embed.weight"]) - 1  # one row is "no object"
    config = copy.deepcopy(config)  # the caller's stays as it is
    config.model.num_classes = num_classes
    config.model.pretrained_backbone = False
    model = instantiate(config.model, "model").eval()
    print(load_weights(model, weights, content=content))
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


def load_test_set(config: DictConfig, annotations: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The config's test set as dataset dicts, and the names of its classes by index."""
    records = instantiate(config.dataloader.test.dataset, "dataloader.test.dataset")
    category_map = read_categories(annotations)
    return records, [category_map.name(index) for index in range(category_map.num_classes)]


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

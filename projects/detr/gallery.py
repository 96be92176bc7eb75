"""Pictures of what DETR detects and where it looks, of a test set or of any images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.patches import Patch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torchvision.ops import nms

from dropkey_core.engine import UserError
from dropkey_core.engine.files.atomic_write import make_folder
from dropkey_core.engine.files.images import read_image, unique_stems
from dropkey_core.engine.inference import choose_records
from projects.detr.attention import Reference, attention_from, on_image, run_with_attention
from projects.detr.coco import read_categories
from projects.detr.picture import (
    DASHED,
    FOUND_IOU,
    ORANGE,
    SKY,
    Corners,
    Marking,
    Picture,
    draw_picture,
    draw_pictures,
    legend_line,
    overlap,
)
from projects.detr.predictor import Detector
from projects.figure import save

PREDICTED, TRUE = ORANGE, SKY
LONGEST_NAME = 28  # letters of a class name
NUM_POINTS = 4  # looked from where none are given
ATTENTION = "Self-attention of the last encoder layer, mean of its heads, each map on its own scale"


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
    detector = Detector.load(config, weights)
    last_layer = detector.model.transformer.encoder.layers[-1]
    records, heading = choose_records(config, images, num_images)
    true_names = read_categories(annotations).class_names if images is None else []
    heading += f", detections with a score of {score_threshold:g} or more"
    print(heading)
    make_folder(output)
    pictures = []
    stems = unique_stems([record["file_name"] for record in records])
    for stem, record in zip(stems, records, strict=True):
        sample = detector.mapper(record)
        found, attention = run_with_attention(detector.model, last_layer.self_attn, sample)
        predicted = predicted_boxes(found, detector.names, score_threshold)
        drawn = markings_of(predicted, true_boxes(record, true_names))
        pictures.append(Picture(Path(record["file_name"]).name, read_as_array(record), drawn))
        save(draw_picture(pictures[-1]), output / f"{stem}_boxes.png")
        if points is not None:
            look_from = points or surest_points(sample, found, detector.names)
            maps = attention_pictures(pictures[-1], look_from, attention, sample["image"])
            save(draw_pictures(maps, ATTENTION), output / f"{stem}_attention.png")
    page = "detections.png" if images else "validation.png"
    save(draw_pictures(pictures, heading, legend(pictures)), output / page)


def read_as_array(record: dict[str, Any]) -> np.ndarray:
    """The image (H, W, 3) uint8, decoded as the mapper does it."""
    size = (record["height"], record["width"]) if "height" in record else None
    return read_image(record["file_name"], size).permute(1, 2, 0).contiguous().numpy()


# ---- boxes ---------------------------------------------------------------------------------------
class Box(NamedTuple):
    """An object: its corners, the name of its class, a score in [0, 1] if it was predicted."""

    corners: Corners
    name: str
    score: float | None = None
    is_crowd: bool = False

    def annotation(self, is_named: bool = True) -> Marking:
        """How it is drawn: predicted ones solid, true ones dashed."""
        is_long = len(self.name) > LONGEST_NAME
        name = self.name[: LONGEST_NAME - 1] + "…" if is_long else self.name
        more = " (crowd)" if self.is_crowd else "" if self.score is None else f" {self.score:.2f}"
        colour = TRUE if self.score is None else PREDICTED
        label = name + more if is_named else ""
        return Marking([self.corners], [colour], label, colour, self.score is None, self.is_crowd)


def predicted_boxes(
    detections: dict[str, Tensor], names: Sequence[str], threshold: float
) -> list[Box]:
    """What was found with a score of ``threshold`` or more, the surest first."""
    order = detections["scores"].argsort(descending=True, stable=True)
    order = order[: int((detections["scores"] >= threshold).sum())]
    values = (detections[key][order].tolist() for key in ("boxes_xyxy", "labels", "scores"))
    return [Box(tuple(box), names[label], score) for box, label, score in zip(*values, strict=True)]


def true_boxes(record: dict[str, Any], names: Sequence[str]) -> list[Box]:
    """What is there according to the annotations."""
    boxes = []
    for annotation in record.get("annotations", ()):
        x, y, width, height = annotation["bbox"]
        name, is_crowd = names[annotation["category_id"]], bool(annotation["iscrowd"])
        boxes.append(Box((x, y, x + width, y + height), name, is_crowd=is_crowd))
    return boxes


def markings_of(predicted: Sequence[Box], true: Sequence[Box]) -> list[Marking]:
    """Boxes to draw; true ones that were found have no label, since it stands there already."""

    def is_found(box: Box) -> bool:
        same = [other for other in predicted if other.name == box.name]
        return any(overlap(box.corners, other.corners) >= FOUND_IOU for other in same)

    drawn = [box.annotation() for box in predicted]
    return drawn + [box.annotation(box.is_crowd or not is_found(box)) for box in true]


def legend(pictures: Sequence[Picture]) -> list[Any]:
    """Legend entries of those kinds of boxes that occur."""
    handles: list[Any] = [legend_line("predicted, score", PREDICTED)]
    true = [drawn for picture in pictures for drawn in picture.annotations if drawn.is_true]
    if true:
        label = f"true, named where not found at IoU {FOUND_IOU:g}"
        handles.append(legend_line(label, TRUE, linestyle=DASHED))
    if any(drawn.is_crowd for drawn in true):
        style = {"fill": False, "edgecolor": TRUE, "linestyle": ":", "hatch": "//"}
        handles.append(Patch(**style, label="crowd, not judged"))
    return handles


# ---- attention -----------------------------------------------------------------------------------
def surest_points(
    sample: dict[str, Any], detections: dict[str, Tensor], names: Sequence[str]
) -> list[Reference]:
    """Centres of the detections with the highest scores, one for each object."""
    size = torch.tensor([sample["width"], sample["height"]])
    kept = nms(detections["boxes_xyxy"], detections["scores"], FOUND_IOU)  # surest first
    points = []
    for index in kept[:NUM_POINTS].tolist():
        centre = detections["boxes_xyxy"][index].cpu().view(2, 2).mean(0) / size
        name, score = names[int(detections["labels"][index])], float(detections["scores"][index])
        points.append(Reference(*centre.tolist(), f"{name} {score:.2f}"))
    return points


def attention_pictures(
    picture: Picture, points: Sequence[Reference], attention: Tensor, seen: Tensor
) -> list[Picture]:
    """The image with its points, and what each of them attends to.

    Args:
        picture: the image; its boxes are not drawn.
        points: where to look from.
        attention: (h w, h, w) of the image.
        seen: (3, H, W), the image as the model saw it.
    """
    height, width = picture.image.shape[:2]
    places = {n: (p.x * width, p.y * height) for n, p in enumerate(points, start=1)}
    size = seen.shape[-2:]
    pictures = [Picture(picture.title, picture.image, points=places)]
    for (number, place), point in zip(places.items(), points, strict=True):
        weights = on_image(attention_from(attention, point, size), size)
        title = f"{number}: {point.label}"
        pictures.append(Picture(title, picture.image, (), weights, {number: place}))
    return pictures

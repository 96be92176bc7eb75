"""Pictures of what DETR detects and where it looks, of a test set or of any images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torchvision.ops import nms

from dropkey_core.engine import UserError
from dropkey_core.engine.files.atomic_write import make_folder
from dropkey_core.engine.files.images import read_image, unique_stems
from dropkey_core.engine.files.inputs import Input
from dropkey_core.engine.inference import choose_records
from projects.detr.attention import Reference, attention_from, on_image, run_with_attention
from projects.detr.box_picture import legend, markings_of, true_boxes
from projects.detr.picture import FOUND_IOU, Picture, as_array, draw_picture, draw_pictures
from projects.detr.predictor import Detector, categories_of
from projects.figure import save

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
    if OmegaConf.select(config, "dataset.test.annotations") is None:
        raise UserError("the config has no dataset.test.annotations, from which classes have names")
    detector = Detector.from_pretrained(weights, config=config)
    last_layer = detector.model.transformer.encoder.layers[-1]
    records, heading = choose_records(config, images, num_images)
    true_names = categories_of(config).class_names if images is None else []
    heading += f", detections with a score of {score_threshold:g} or more"
    print(heading)
    make_folder(output)
    pictures = []
    stems = unique_stems([record["file_name"] for record in records])
    for stem, record in zip(stems, records, strict=True):
        sample = detector.mapper(record)
        found, attention = run_with_attention(detector.model, last_layer.self_attn, sample)
        picture = Input(read_pixels(record), record["file_name"])
        predicted = detector.detections(picture, found, score_threshold).boxes
        drawn = markings_of(predicted, true_boxes(record, true_names))
        pictures.append(Picture(Path(picture.file_name).name, as_array(picture.image), drawn))
        save(draw_picture(pictures[-1]), output / f"{stem}_boxes.png")
        if points is not None:
            look_from = points or surest_points(sample, found, detector.names)
            maps = attention_pictures(pictures[-1], look_from, attention, sample["image"])
            save(draw_pictures(maps, ATTENTION), output / f"{stem}_attention.png")
    page = "detections.png" if images else "validation.png"
    save(draw_pictures(pictures, heading, legend(pictures)), output / page)


def read_pixels(record: dict[str, Any]) -> Tensor:
    """The image (3, H, W) uint8, decoded as the mapper does it."""
    size = (record["height"], record["width"]) if "height" in record else None
    return read_image(record["file_name"], size, record.get("resize", False))


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

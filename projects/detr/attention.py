"""Attention maps of DETR's encoder from points of an image (arXiv 2005.12872, Figure 3).

Shapes: images of H x W pixels, h x w cells of the feature map.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.ops import nms

from dropkey_core.analysis.capture import captured_attention, captured_shape
from dropkey_core.engine import UserError
from projects.detr.picture import unresized
from projects.detr.predictor import Detections, Detector
from projects.drawing import FOUND_IOU, Picture, as_array, panel_of
from projects.page import Panel

HEADING = ["Self-attention of the last encoder layer, mean of its heads, each map on its own scale"]
NUM_POINTS = 4  # looked from where none are given


class Reference(NamedTuple):
    """A point to look from: fractions of the image's width and height, and what is there."""

    x: float
    y: float
    label: str


def attention_panels(
    detector: Detector, record: dict[str, Any], words: Sequence[str], score_threshold: float = 0.0
) -> list[Panel]:
    """Draw an image with its points, and what each of them attends to.

    Args:
        detector: the model.
        record: see ``DetrMapper``.
        words: points as ``X,Y`` in fractions of width and height; none: the centres of the
            surest detections.
        score_threshold: of these detections, the least.

    Raises:
        UserError: another word, or an image that cannot be read.
    """
    points = [parse_point(word) for word in words]
    sample = detector.mapper(record)
    layer = detector.model.transformer.encoder.layers[-1].self_attn
    outputs, attention = run_with_attention(detector.model, layer, sample)
    whole = unresized(sample)
    if not points:
        found = Detections.of(
            whole, outputs, score_threshold, detector.names, detector.category_ids
        )
        points = surest_points(found)
    image, size = as_array(whole.image), sample["image"].shape[-2:]
    places = {
        number: (point.x * sample["width"], point.y * sample["height"])
        for number, point in enumerate(points, start=1)
    }
    pictures = [Picture(Path(whole.file_name).name, image, points=places)]
    for (number, place), point in zip(places.items(), points, strict=True):
        weights = on_image(attention_from(attention, point, size), size)
        pictures.append(Picture(f"{number}: {point.label}", image, (), weights, {number: place}))
    return [panel_of(picture) for picture in pictures]


def parse_point(word: str) -> Reference:
    """A point given as ``X,Y``, fractions of an image's width and height."""
    try:
        x, y = map(float, word.split(","))
    except ValueError as error:
        raise UserError(f"--attention takes points such as 0.3,0.5, got {word}") from error
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise UserError(f"--attention takes fractions of width and height in [0, 1], got {word}")
    return Reference(x, y, f"from ({x:g}, {y:g})")


def surest_points(found: Detections) -> list[Reference]:
    """Centres of the detections with the highest scores, one for each object."""
    height, width = found.image.shape[1:]
    boxes = found.boxes
    kept = nms(found.boxes_xyxy, found.scores, FOUND_IOU)  # surest first
    points = []
    for (x0, y0, x1, y1), name, score, _ in (boxes[n] for n in kept[:NUM_POINTS].tolist()):
        middle = (x0 + x1) / 2 / width, (y0 + y1) / 2 / height
        points.append(Reference(*middle, f"{name} {score:.2f}"))
    return points


@torch.no_grad()
def run_with_attention(
    model: nn.Module, attention: nn.Module, sample: dict[str, Any]
) -> tuple[dict[str, Tensor], Tensor]:
    """Run a model on an image and keep what one of its attentions gives the cells.

    Args:
        model: a ``Detr`` or ``Qpic`` in eval mode.
        attention: one of its modules whose keys are the cells of the feature map.
        sample: see ``Detr.forward``.

    Returns:
        what the model returns for the image, and (Lq, h, w) weights, the mean over heads; those of
        a query sum to 1.
    """
    with captured_shape(model.input_proj) as shapes, captured_attention(attention) as maps:
        (outputs,) = model([sample])
    return outputs, maps[""][0][0].mean(0).unflatten(-1, shapes[0][-2:])


def attention_from(attention: Tensor, point: Reference, size: Sequence[int]) -> Tensor:
    """Attention from the cell that a point of an image lies in.

    Args:
        attention: (h w, h, w) of the image.
        point: inside the image.
        size: (H, W) of the image as the model saw it.

    Returns:
        (h, w), what each cell gets.
    """
    cells = attention.shape[1:]
    side = cell_side(size, cells)
    row = min(int(point.y * size[0]) // side, cells[0] - 1)
    column = min(int(point.x * size[1]) // side, cells[1] - 1)
    return attention[row * cells[1] + column]


def cell_side(size: Sequence[int], cells: Sequence[int]) -> int:
    """Pixels along a cell, a power of two; the last cells may reach over the image's edge."""
    return 2 ** math.ceil(math.log2(max(size[0] / cells[0], size[1] / cells[1])))


def on_image(weights: Tensor, size: Sequence[int]) -> np.ndarray:
    """What each pixel gets, between the cells' middles linearly.

    Args:
        weights: (h, w) of the cells, which begin at the image's upper left corner.
        size: (H, W) of the image as the model saw it.

    Returns:
        (H, W) float32.
    """
    side = cell_side(size, weights.shape)
    pixels = interpolate(weights[None, None].float(), scale_factor=side, mode="bilinear")[0, 0]
    return pixels[: size[0], : size[1]].cpu().numpy()

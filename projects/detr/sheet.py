"""Validation pictures for the logs: detections and true boxes on a few test images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from projects.detr.box_picture import Box, legend, markings_of
from projects.detr.picture import Picture, as_array, draw_pictures
from projects.figure import as_image

LEAST_SCORE = 0.5


def draw_sheet(
    samples: Sequence[dict[str, Any]],
    outputs: Sequence[dict[str, Tensor]],
    true: Sequence[Sequence[Box]],
    names: Sequence[str],
) -> np.ndarray:
    """Draw images with detections of a score of 0.5 or more.

    Args:
        samples: of a test set's mapper.
        outputs: what the model made of each, see ``projects.detr.detr.detections``.
        true: what is on each, in pixels of the image before resizing.
        names: of the classes, by index.

    Returns:
        (H, W, 3) uint8.
    """
    pictures = []
    for sample, output, boxes in zip(samples, outputs, true, strict=True):
        sure = output["scores"] >= LEAST_SCORE
        values = (output[key][sure].tolist() for key in ("scores", "labels", "boxes_xyxy"))
        rows = sorted(zip(*values, strict=True), reverse=True)
        found = [Box(tuple(corners), names[label], score) for score, label, corners in rows]
        title, drawn = Path(sample["file_name"]).name, markings_of(found, boxes)
        pictures.append(Picture(title, unresized(sample), drawn))
    heading = f"detections with a score of {LEAST_SCORE:g} or more"
    return np.asarray(as_image(draw_pictures(pictures, heading, legend(pictures))))


def unresized(sample: dict[str, Any]) -> np.ndarray:
    """A sample's image (H, W, 3) as large as it was before the mapper resized it."""
    return cv2.resize(as_array(sample["image"]), (sample["width"], sample["height"]))

"""Boxes on images: predicted ones with scores, true ones, and pages of both."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from PIL import Image
from torchvision.transforms.v2.functional import resize

from dropkey_core.engine.files.inputs import Input
from projects.drawing import (
    FOUND_IOU,
    ORANGE,
    SKY,
    Corners,
    Marking,
    Picture,
    draw_pictures,
    legend_entry,
    overlap,
)

PREDICTED, TRUE = ORANGE, SKY
LONGEST_NAME = 28  # letters of a class name
ENTRY = (4, 3, 44, 16)  # a box in the legend


class Box(NamedTuple):
    """An object: its corners, the name of its class, a score in [0, 1] if it was predicted."""

    corners: Corners
    name: str
    score: float | None = None
    is_crowd: bool = False

    def marking(self, is_named: bool = True) -> Marking:
        """How it is drawn: predicted ones solid, true ones dashed."""
        is_long = len(self.name) > LONGEST_NAME
        name = self.name[: LONGEST_NAME - 1] + "…" if is_long else self.name
        more = " (crowd)" if self.is_crowd else "" if self.score is None else f" {self.score:.2f}"
        colour = TRUE if self.score is None else PREDICTED
        label = name + more if is_named else ""
        return Marking([self.corners], [colour], label, colour, self.score is None, self.is_crowd)


def unresized(sample: dict[str, Any]) -> Input:
    """The image of a mapper's sample as large as it was before it was resized."""
    size = [sample["height"], sample["width"]]
    return Input(resize(sample["image"], size, antialias=True), sample["file_name"])


def true_boxes(annotations: Sequence[dict[str, Any]], names: Sequence[str]) -> list[Box]:
    """The objects of COCO annotations whose ``category_id`` is a class index."""
    boxes = []
    for annotation in annotations:
        x, y, width, height = annotation["bbox"]
        name, is_crowd = names[annotation["category_id"]], bool(annotation["iscrowd"])
        boxes.append(Box((x, y, x + width, y + height), name, is_crowd=is_crowd))
    return boxes


def markings_of(predicted: Sequence[Box], true: Sequence[Box] = ()) -> list[Marking]:
    """Boxes to draw; true ones that were found have no label, since it stands there already."""

    def is_found(box: Box) -> bool:
        same = [other for other in predicted if other.name == box.name]
        return any(overlap(box.corners, other.corners) >= FOUND_IOU for other in same)

    drawn = [box.marking() for box in predicted]
    return drawn + [box.marking(box.is_crowd or not is_found(box)) for box in true]


def draw_boxes(pictures: Sequence[Picture], heading: str) -> Image.Image:
    """Draw a page of pictures with boxes; its legend has those kinds of boxes that occur."""
    legend = [legend_entry("predicted, score", Box(ENTRY, "", 1.0).marking())]
    true = [drawn for picture in pictures for drawn in picture.markings if drawn.is_true]
    if true:
        caption = f"true, named where not found at IoU {FOUND_IOU:g}"
        legend.append(legend_entry(caption, Box(ENTRY, "").marking()))
    if any(drawn.is_crowd for drawn in true):
        legend.append(legend_entry("crowd, not judged", Box(ENTRY, "", is_crowd=True).marking()))
    return draw_pictures(pictures, heading, legend)

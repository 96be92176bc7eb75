"""Drawing of boxes: predicted ones with scores, true ones, and the legend."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.patches import Patch

from projects.detr.picture import (
    DASHED,
    FOUND_IOU,
    ORANGE,
    SKY,
    Corners,
    Marking,
    Picture,
    legend_line,
    overlap,
)

PREDICTED, TRUE = ORANGE, SKY
LONGEST_NAME = 28  # letters of a class name


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

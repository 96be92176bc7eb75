"""An image with pairs on it: human box, object box, the line between them, verbs and scores."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from projects.detr.picture import (
    DASHED,
    FOUND_IOU,
    LINE_WIDTH,
    Picture,
    Place,
    add_rectangle,
    halo,
    overlap,
    write_label,
)

# Of Okabe and Ito's palette, whose colours stay apart for every kind of colour vision.
HUMAN, OBJECT, LINE, MISSED = "#E69F00", "#56B4E9", "#F0E442", "#C8C8C8"


@dataclass(frozen=True)
class Pair:
    """A human, what they interact with, and how.

    Attributes:
        human: x0, y0, x1, y1 in pixels of the image.
        object: the same, or None for an interaction without object.
        object_name: its class.
        verbs: names, the surest first.
        scores: one per verb, in [0, 1], if the pair was predicted; none if it is true.
        query: number of the query that predicted it.
    """

    human: Place
    object: Place | None
    object_name: str
    verbs: Sequence[str]
    scores: Sequence[float] = ()
    query: int | None = None

    @property
    def label(self) -> str:
        """What is written on it: a line per verb, with the object and, if predicted, the score."""
        scores = [f"{score:.2f}" for score in self.scores] or [""] * len(self.verbs)
        lines = zip(self.verbs, scores, strict=True)
        return "\n".join(" ".join(filter(None, (v, self.object_name, s))) for v, s in lines)

    def scaled(self, factor: float) -> "Pair":
        """The same pair on an image that was resized by ``factor``."""
        thing = None if self.object is None else scaled(self.object, factor)
        return replace(self, human=scaled(self.human, factor), object=thing)

    def is_where(self, other: "Pair") -> bool:
        """Whether objects are of one class and both boxes overlap by ``FOUND_IOU`` or more."""
        if (self.object is None) != (other.object is None):
            return False
        same_object = self.object is None or (
            self.object_name == other.object_name
            and overlap(self.object, other.object) >= FOUND_IOU
        )
        return same_object and overlap(self.human, other.human) >= FOUND_IOU


def scaled(place: Place, factor: float) -> Place:
    """Corners on an image that was resized by ``factor``."""
    x0, y0, x1, y1 = (factor * value for value in place)
    return x0, y0, x1, y1


def distinct_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    """Drop from predicted pairs each verb that a surer pair has in the same place.

    Several queries may answer for one pair; the evaluation counts them all, a picture need not.
    """
    ranked = sorted(pairs, key=lambda pair: -max(pair.scores))
    kept: list[Pair] = []
    for pair in ranked:
        said = {verb for other in kept if pair.is_where(other) for verb in other.verbs}
        fresh = [i for i, verb in enumerate(pair.verbs) if verb not in said]
        if fresh:
            verbs, scores = ([values[i] for i in fresh] for values in (pair.verbs, pair.scores))
            kept.append(replace(pair, verbs=verbs, scores=scores))
    return kept


def missed_pairs(true: Sequence[Pair], predicted: Sequence[Pair]) -> list[Pair]:
    """True pairs with those verbs that nothing predicted has in the same place."""
    missed = []
    for pair in true:
        found = {verb for other in predicted if pair.is_where(other) for verb in other.verbs}
        verbs = [verb for verb in pair.verbs if verb not in found]
        if verbs:
            missed.append(replace(pair, verbs=verbs))
    return missed


def draw_pairs(picture: Picture[Pair], axes: Axes) -> None:
    """Draw an image and its pairs on axes that have as many pixels as the image.

    True pairs are dashed and lie below predicted ones; of their verbs those are written that were
    not found.
    """
    axes.imshow(picture.image, interpolation="nearest")
    for pair in [*picture.true, *picture.predicted]:
        draw_pair(axes, pair, picture.image.shape[:2])
    taken: list[Place] = []
    for pair in picture.predicted:
        write_label(axes, pair.label, LINE, label_corners(pair), taken)
    for pair in missed_pairs(picture.true, picture.predicted):
        write_label(axes, pair.label, MISSED, label_corners(pair), taken)


def draw_pair(axes: Axes, pair: Pair, size: tuple[int, int]) -> None:
    """Draw boxes of a pair and the line between their centres, on an image (height, width)."""
    is_predicted = bool(pair.scores)
    style: dict[str, Any] = {
        "linewidth": LINE_WIDTH,
        "linestyle": "-" if is_predicted else DASHED,
    }
    if is_predicted:
        style["path_effects"] = [halo()]
    box = {**style, "fill": False, "joinstyle": "miter"}
    add_rectangle(axes, pair.human, size, {**box, "edgecolor": HUMAN})
    if pair.object is not None:
        add_rectangle(axes, pair.object, size, {**box, "edgecolor": OBJECT})
        ends = np.array([centre(pair.human), centre(pair.object)]) - 0.5
        marks = {"marker": "o", "markersize": 3.5}
        axes.plot(*ends.T, color=LINE, **style, **marks, scalex=False, scaley=False)


def centre(place: Place) -> tuple[float, float]:
    """The middle of a box."""
    x0, y0, x1, y1 = place
    return (x0 + x1) / 2, (y0 + y1) / 2


def label_corners(pair: Pair) -> Place:
    """Along which rectangle a pair's label is written: the box of its object, or the human's."""
    return pair.human if pair.object is None else pair.object


def pair_kinds(pictures: Sequence[Picture[Pair]]) -> list[Any]:
    """Legend entries of what occurs."""
    handles = [
        Line2D([], [], color=HUMAN, linewidth=2, label="human"),
        Line2D([], [], color=OBJECT, linewidth=2, label="object"),
        Line2D([], [], color=LINE, linewidth=2, marker="o", markersize=3.5, label="verb, score"),
    ]
    if any(picture.true for picture in pictures):
        label = f"true, named where not found at IoU {FOUND_IOU:g}"
        handles.append(Line2D([], [], color=MISSED, linewidth=2, linestyle=DASHED, label=label))
    return handles

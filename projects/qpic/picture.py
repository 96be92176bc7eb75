"""Pairs on images: human box, object box, the line between them, verbs and scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from projects.drawing import (
    FOUND_IOU,
    GREY,
    ORANGE,
    SKY,
    YELLOW,
    Corners,
    Marking,
    Picture,
    draw_pictures,
    legend_entry,
    overlap,
)

HUMAN, OBJECT, LINE, MISSED = ORANGE, SKY, YELLOW, GREY
ENTRY, ENDS = (4, 3, 44, 16), ((4, 10, 4, 10), (44, 10, 44, 10))  # box and line in the legend


@dataclass(frozen=True)
class Pair:
    """A human, what they interact with, and how.

    Attributes:
        human: x0, y0, x1, y1 in pixels of the image.
        object: the same, or None for an interaction without object.
        object_name: its class.
        verbs: name -> score in [0, 1], the surest first; None if the pair is true.
        query: number of the query that predicted it, None if the pair is true.
    """

    human: Corners
    object: Corners | None
    object_name: str
    verbs: Mapping[str, float | None]
    query: int | None = None

    @property
    def label(self) -> str:
        """What is written on it: a line per verb, with the object and, if predicted, the score."""
        lines = []
        for verb, score in self.verbs.items():
            words = [verb, self.object_name, "" if score is None else f"{score:.2f}"]
            lines.append(" ".join(filter(None, words)))
        return "\n".join(lines)

    def marking(self) -> Marking:
        """How it is drawn: predicted ones solid, true ones dashed."""
        is_true = self.query is None
        boxes = [self.human] if self.object is None else [self.human, self.object]
        colour = MISSED if is_true else LINE
        return Marking(boxes, (HUMAN, OBJECT)[: len(boxes)], self.label, colour, is_true)

    def is_where(self, other: "Pair") -> bool:
        """Whether objects are of one class and both boxes overlap by ``FOUND_IOU`` or more."""
        if (self.object is None) != (other.object is None):
            return False
        same_object = self.object is None or (
            self.object_name == other.object_name
            and overlap(self.object, other.object) >= FOUND_IOU
        )
        return same_object and overlap(self.human, other.human) >= FOUND_IOU


def unsaid(pair: Pair, others: Sequence[Pair]) -> Pair:
    """A pair with those of its verbs that no other has in the same place."""
    said = {verb for other in others if pair.is_where(other) for verb in other.verbs}
    verbs = {verb: score for verb, score in pair.verbs.items() if verb not in said}
    return replace(pair, verbs=verbs)


def distinct_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    """Drop from predicted pairs each verb that a surer pair has in the same place.

    Several queries may answer for one pair; the evaluation counts them all, a picture need not.
    """
    kept: list[Pair] = []
    for pair in sorted(pairs, key=lambda pair: -max(pair.verbs.values())):
        fresh = unsaid(pair, kept)
        if fresh.verbs:
            kept.append(fresh)
    return kept


def markings_of(predicted: Sequence[Pair], true: Sequence[Pair] = ()) -> list[Marking]:
    """Pairs to draw; of the true ones' verbs those are written that were not found."""
    missed = [unsaid(pair, predicted) for pair in true]
    return [pair.marking() for pair in [*predicted, *missed]]


def draw_pairs(pictures: Sequence[Picture], heading: str) -> Image.Image:
    """Draw a page of pictures with pairs; its legend has what occurs."""
    legend = [
        legend_entry("human", Marking([ENTRY], [HUMAN])),
        legend_entry("object", Marking([ENTRY], [OBJECT])),
        legend_entry("verb, score", Marking(ENDS, (LINE, LINE), label_colour=LINE)),
    ]
    if any(drawn.is_true for picture in pictures for drawn in picture.markings):
        caption = f"true, named where not found at IoU {FOUND_IOU:g}"
        true = Marking(ENDS, (MISSED, MISSED), label_colour=MISSED, is_true=True)
        legend.append(legend_entry(caption, true))
    return draw_pictures(pictures, heading, legend)

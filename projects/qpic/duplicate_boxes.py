"""Merging of duplicate boxes: HICO-DET draws a person anew for each interaction."""

from dataclasses import dataclass
from typing import Any

from projects.qpic.classes import OBJECT_IDS

PERSON_ID = 1


@dataclass(frozen=True)
class InteractingPair:
    """One annotated interaction: boxes [x1, y1, x2, y2] in pixels, (object, verb) class indices."""

    human_box: list[float]
    object_box: list[float]
    triplet: tuple[int, int]


def entry_of(
    file_name: str, width: int, height: int, pairs: list[InteractingPair], merge_iou: float
) -> dict[str, Any]:
    """The entry of one image.

    In the release each HOI class has boxes of its own, so a person who does two things to an object
    is drawn twice, some pixels apart. Boxes of one category become one (the first) where their IoU
    is at least ``merge_iou`` (1: equal ones only), but not two of the same HOI class: those are two
    instances.
    """
    merged = MergedBoxes(merge_iou)
    hois = [
        {
            "subject_id": merged.index(PERSON_ID, pair.human_box, pair.triplet),
            "object_id": merged.index(OBJECT_IDS[pair.triplet[0]], pair.object_box, pair.triplet),
            "category_id": pair.triplet[1] + 1,
        }
        for pair in pairs
    ]
    return {
        "file_name": file_name,
        "height": height,
        "width": width,
        "annotations": merged.annotations,
        "hoi_annotation": hois,
    }


class MergedBoxes:
    """The boxes of an image, each object or person once; see ``entry_of`` for ``merge_iou``."""

    def __init__(self, merge_iou: float) -> None:
        self.merge_iou = merge_iou
        self.annotations: list[dict[str, Any]] = []
        # Per merged box: the box that each HOI class has there.
        self._boxes: list[dict[tuple[int, int], list[float]]] = []

    def index(self, category: int, box: list[float], triplet: tuple[int, int]) -> int:
        """Index of a box of an HOI class among the merged ones, where it is put if it is new."""
        alike = [n for n, it in enumerate(self.annotations) if it["category_id"] == category]
        for number in alike:
            if box in self._boxes[number].values():
                self._boxes[number].setdefault(triplet, box)
                return number
        for number in alike:
            is_near = iou(self.annotations[number]["bbox"], box) >= self.merge_iou
            if is_near and triplet not in self._boxes[number]:
                self._boxes[number][triplet] = box
                return number
        self.annotations.append({"bbox": box, "category_id": category})
        self._boxes.append({triplet: box})
        return len(self._boxes) - 1


def iou(first: list[float], second: list[float]) -> float:
    """Intersection over union of two boxes [x1, y1, x2, y2]; 0 for boxes without area."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if not (width > 0 and height > 0):
        return 0.0
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (first, second)]
    return width * height / (sum(areas) - width * height)

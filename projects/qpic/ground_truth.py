"""The ground truth of interaction detection: all images' annotations in one set of arrays.

Shapes: I images, B boxes, N interactions (HOIs), T distinct triplets, C object classes, V verbs.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

# (label of the subject, label of the object, verb): what HICO-DET calls an HOI category.
Triplet = tuple[int, int, int]

NO_OBJECT = -1


class GroundTruth:
    """The interactions of all images, laid out for comparison with predictions.

    Interactions without an object are outside HICO-DET's protocol: they are left out and counted.

    Args:
        images: by image id ``boxes_xyxy`` (n, 4) in pixels, ``labels`` (n,) object class indices,
            and ``hois`` (m, 3): subject and object as indices into the boxes, and verb; object -1
            for none. Boxes keep their dtype, because overlaps are computed in it.
        num_object_classes: C.
        num_verbs: V.

    Attributes:
        image_ids: in the given order, which is that of all indices of images.
        image: (N,) index of each interaction's image.
        triplet: (N,) its row of ``triplets``.
        boxes: (N, 8) boxes of subject and object, xyxy in pixels.
        first_copy: (N,) index of the same interaction's first listing: its own, unless an image
            lists the same subject, object and verb again.
        triplets: (T, 3) distinct triplets in order of appearance.
        has_boxes: (I,) bool: the image has a box.
        contains: (I, C) bool: the image contains an object of the class. As in the authors' program
            (ywchao/ho-rcnn, evaluation/eval_one.m) an annotated interaction has that object; who
            merely acts does not make an image one with "person" as an object. Objects in no
            interaction, which HICO-DET does not annotate, count too. (The program asks HICO's
            image-level labels, which also know interactions that cannot be seen.)
        num_without_object: interactions left out.
        not_finite: names of the boxes that are not finite.
    """

    def __init__(
        self, images: Mapping[int, Mapping[str, Any]], num_object_classes: int, num_verbs: int
    ) -> None:
        self.image_ids = list(images)
        boxes, box_counts = stacked(images, "boxes_xyxy", np.zeros((0, 4), np.float32))
        labels, _ = stacked(images, "labels", np.zeros(0, np.int64))
        hois, hoi_counts = stacked(images, "hois", np.zeros((0, 3), np.int64))
        first_box = np.cumsum(box_counts) - box_counts
        box_image = np.repeat(np.arange(len(images)), box_counts)
        hoi_image = np.repeat(np.arange(len(images)), hoi_counts)

        bad = np.flatnonzero(~np.isfinite(boxes).all(axis=1))
        self.not_finite = [
            f"image {self.image_ids[image]}, box {box - first_box[image]}"
            for box, image in zip(bad, box_image[bad], strict=True)
        ]

        complete = hois[:, 1] != NO_OBJECT
        self.num_without_object = int((~complete).sum())
        self.image = hoi_image[complete]
        subject, obj, verb = hois[complete].T
        subject = subject + first_box[self.image]  # from here on indices into all boxes
        obj = obj + first_box[self.image]

        self.boxes = np.concatenate([boxes[subject], boxes[obj]], axis=1)
        self.first_copy = first_occurrence((subject * len(labels) + obj) * num_verbs + verb)
        rows = np.stack([labels[subject], labels[obj], verb], axis=1)
        codes = (rows[:, 0] * num_object_classes + rows[:, 1]) * num_verbs + rows[:, 2]
        first, self.triplet = np.unique(first_occurrence(codes), return_inverse=True)
        self.triplets = rows[first]

        self.has_boxes = box_counts > 0
        # A person who only acts is not there as an object.
        acts_only = np.zeros(len(labels), bool)
        acts_only[first_box[hoi_image] + hois[:, 0]] = True
        acts_only[obj] = False
        self.contains = np.zeros((len(images), num_object_classes), bool)
        self.contains[box_image[~acts_only], labels[~acts_only]] = True


def stacked(
    images: Mapping[int, Mapping[str, Any]], field: str, nothing: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What every image has a list of, all lists one after another, and their lengths (I,).

    Args:
        images: the annotations by image id.
        field: the list's name.
        nothing: no entries, of the right shape and dtype; a list without entries may have any.
    """
    lists = [np.asarray(annotations[field]) for annotations in images.values()]
    counts = np.fromiter(map(len, lists), np.int64, len(lists))
    return np.concatenate([nothing, *(values for values in lists if len(values))]), counts


def first_occurrence(codes: np.ndarray) -> np.ndarray:
    """For each of (n,) ``codes`` the index at which the same code appears first."""
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return first[inverse]


def distinct(triplets: Iterable[Triplet]) -> set[Triplet]:
    """Triplets of any integer type, such as numpy's, as a set of plain tuples."""
    return {(int(subject), int(obj), int(verb)) for subject, obj, verb in triplets}

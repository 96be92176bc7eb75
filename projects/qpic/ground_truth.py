"""The ground truth of interaction detection: what there is to find on an image."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from projects.qpic.interaction_file import NO_OBJECT

# (label of the subject, label of the object, verb): what HICO-DET calls an HOI category.
Triplet = tuple[int, int, int]


class ImageTruth(NamedTuple):
    """The N interactions of an image, laid out for comparison with predictions.

    Attributes:
        triplets: N of them.
        boxes: (N, 8) boxes of subject and object, xyxy in pixels.
        first_copy: (N,) index of the same interaction's first listing: its own, unless the image
            lists the same subject, object and verb again.
        objects: labels of the objects that the image contains. As in the authors' program
            (ywchao/ho-rcnn, evaluation/eval_one.m) an annotated interaction has that object; who
            merely acts does not make an image one with "person" as an object. Objects in no
            interaction, which HICO-DET does not annotate, count too. (The program asks HICO's
            image-level labels, which also know interactions that cannot be seen.)
        has_boxes: the image has a box.
    """

    triplets: list[Triplet]
    boxes: np.ndarray
    first_copy: np.ndarray
    objects: list[int]
    has_boxes: bool


def image_truth(annotations: Mapping[str, Any]) -> ImageTruth:
    """Lay out an image's annotations.

    Interactions without an object are outside HICO-DET's protocol: they are left out.

    Args:
        annotations: ``boxes_xyxy`` (n, 4) in pixels, ``labels`` (n,) object class indices, and
            ``hois`` (m, 3): subject and object as indices into the boxes, and verb; object -1 for
            none. Boxes keep their dtype, because overlaps are computed in it.
    """
    boxes = np.asarray(annotations["boxes_xyxy"]).reshape(-1, 4)
    labels = np.asarray(annotations["labels"], np.int64)
    hois = np.asarray(annotations["hois"], np.int64).reshape(-1, 3)
    is_object = np.ones(len(labels), bool)
    is_object[hois[:, 0]] = False  # a person who only acts is not there as an object
    hois = hois[hois[:, 1] != NO_OBJECT]
    subject, obj, verb = hois.T
    is_object[obj] = True
    _, first, inverse = np.unique(hois, axis=0, return_index=True, return_inverse=True)
    return ImageTruth(
        list(
            zip(*(column.tolist() for column in (labels[subject], labels[obj], verb)), strict=True)
        ),
        np.hstack([boxes[subject], boxes[obj]]),
        first[inverse.ravel()],
        labels[is_object].tolist(),
        len(boxes) > 0,
    )

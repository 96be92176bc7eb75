"""The ground truth of interaction detection: all images' annotations in one set of arrays.

Shapes: I images, B boxes, N interactions (HOIs), T distinct triplets, C object classes, V verbs.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dropkey_core.engine import UserError

# (label of the subject, label of the object, verb): what HICO-DET calls an HOI category.
Triplet = tuple[int, int, int]

NO_OBJECT = -1


class Stacked:
    """What every image has a list of, all lists one after another.

    Args:
        images: the annotations by image id.
        field: the list's name.
        row_shape: shape of one entry.
        noun: what one entry is called in messages.

    Attributes:
        values: (n, *row_shape) the entries.
        counts: (I,) entries of each image.
        image: (n,) index of the entry's image.
        entry: (n,) position of the entry in its image's list.

    Raises:
        UserError: an image without the list, or with one of another shape.
    """

    def __init__(
        self,
        images: Mapping[int, Mapping[str, Any]],
        field: str,
        row_shape: tuple[int, ...],
        noun: str,
    ) -> None:
        self.noun = noun
        self.image_ids = list(images)
        nothing = np.zeros((0, *row_shape), np.float32 if field == "boxes_xyxy" else np.int64)
        lists = []
        for image_id, annotations in images.items():
            if field not in annotations:
                raise UserError(f"image {image_id}: the ground truth has no {field!r}")
            values = np.asarray(annotations[field])
            if values.shape[1:] != row_shape or values.ndim == 0:
                if values.size:
                    shape = ", ".join(["n", *map(str, row_shape)])
                    raise UserError(
                        f"image {image_id}: {field} has shape {values.shape} instead of ({shape})"
                    )
                values = nothing
            lists.append(values if len(values) else nothing)
        self.values = np.concatenate([nothing, *(values for values in lists if len(values))])
        self.counts = np.fromiter(map(len, lists), np.int64, len(lists))
        self.image = np.repeat(np.arange(len(lists)), self.counts)
        starts = np.cumsum(self.counts) - self.counts
        self.entry = np.arange(len(self.values)) - np.repeat(starts, self.counts)

    def require(self, good: np.ndarray, what: str, values: np.ndarray) -> None:
        """Raise for the first entry that is not ``good``.

        Args:
            good: (n,) bool.
            what: is wrong with it, with ``{}`` for its value.
            values: (n,) to fill in.

        Raises:
            UserError: one line with image id, entry and value.
        """
        if good.all():
            return
        first = int(np.argmin(good))
        raise UserError(f"ground truth, {self.name(first)}: {what.format(values[first])}")

    def name(self, index: int) -> str:
        """What messages call the entry at ``index``."""
        return f"image {self.image_ids[self.image[index]]}, {self.noun} {self.entry[index]}"


class GroundTruth:
    """The interactions of all images, checked, and laid out for comparison with predictions.

    Interactions without an object are outside HICO-DET's protocol: they are left out and counted.

    Args:
        images: by image id ``boxes_xyxy`` (n, 4) in pixels, ``labels`` (n,) object class indices,
            and ``hois`` (m, 3): subject and object as indices into the boxes, and verb; object -1
            for none. An image may also have ``known_objects``, the object classes it counts as
            containing in the Known Object setting (see ``HicoDetEvaluator``). Boxes keep their
            dtype, because overlaps are computed in it.
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
        contains: (I, C) bool: the image contains an object of the class.
        num_without_object: interactions left out.
        not_finite: names of the boxes that are not finite.

    Raises:
        UserError: lengths that do not fit, a label, verb or index that is out of range; each with
            image and entry.
    """

    def __init__(
        self, images: Mapping[int, Mapping[str, Any]], num_object_classes: int, num_verbs: int
    ) -> None:
        boxes = Stacked(images, "boxes_xyxy", (4,), "box")
        labels = Stacked(images, "labels", (), "box")
        hois = Stacked(images, "hois", (3,), "interaction")
        self.image_ids = boxes.image_ids
        self._check_boxes(boxes, labels, num_object_classes)
        self._check_hois(hois, boxes.counts, num_verbs)

        bad_boxes = np.flatnonzero(~np.isfinite(boxes.values).all(axis=1))
        self.not_finite = [boxes.name(index) for index in bad_boxes]

        complete = hois.values[:, 1] != NO_OBJECT
        self.num_without_object = int((~complete).sum())
        self.image = hois.image[complete]
        subject, obj, verb = hois.values[complete].T
        first_box = np.cumsum(boxes.counts) - boxes.counts
        subject = subject + first_box[self.image]  # from here on indices into all boxes
        obj = obj + first_box[self.image]

        self.boxes = np.concatenate([boxes.values[subject], boxes.values[obj]], axis=1)
        self.first_copy = first_occurrence((subject * len(labels.values) + obj) * num_verbs + verb)
        rows = np.stack([labels.values[subject], labels.values[obj], verb], axis=1)
        codes = (rows[:, 0] * num_object_classes + rows[:, 1]) * num_verbs + rows[:, 2]
        first, self.triplet = np.unique(first_occurrence(codes), return_inverse=True)
        self.triplets = rows[first]

        self.has_boxes = boxes.counts > 0
        # A person who only acts is not there as an object.
        acts_only = np.zeros(len(labels.values), bool)
        acts_only[first_box[hois.image] + hois.values[:, 0]] = True
        acts_only[obj] = False
        self.contains = np.zeros((len(self.image_ids), num_object_classes), bool)
        self.contains[boxes.image[~acts_only], labels.values[~acts_only]] = True
        for index, annotations in enumerate(images.values()):
            if "known_objects" in annotations:
                self.contains[index] = self._known_objects(index, annotations["known_objects"])

    def _known_objects(self, index: int, labels: Iterable[int]) -> np.ndarray:
        num_classes = self.contains.shape[1]
        known = np.zeros(num_classes, bool)
        for label in labels:
            if not 0 <= label < num_classes:
                raise UserError(
                    f"ground truth, image {self.image_ids[index]}: known_objects has {label}, not "
                    f"in 0..{num_classes - 1}"
                )
            known[label] = True
        return known

    @staticmethod
    def _check_boxes(boxes: Stacked, labels: Stacked, num_classes: int) -> None:
        if (boxes.counts != labels.counts).any():
            index = int(np.argmax(boxes.counts != labels.counts))
            raise UserError(
                f"ground truth, image {boxes.image_ids[index]}: {boxes.counts[index]} boxes_xyxy "
                f"and {labels.counts[index]} labels"
            )
        values = integers(labels)
        labels.require(
            (values >= 0) & (values < num_classes),
            f"label {{}} is not in 0..{num_classes - 1}",
            values,
        )

    @staticmethod
    def _check_hois(hois: Stacked, num_boxes: np.ndarray, num_verbs: int) -> None:
        subject, obj, verb = integers(hois).T
        limit = num_boxes[hois.image]
        what = "{} is none of the image's boxes"
        hois.require((subject >= 0) & (subject < limit), f"subject {what}", subject)
        hois.require((obj >= NO_OBJECT) & (obj < limit), f"object {what}", obj)
        hois.require(
            (verb >= 0) & (verb < num_verbs), f"verb {{}} is not in 0..{num_verbs - 1}", verb
        )


def integers(stacked: Stacked) -> np.ndarray:
    """The entries, which have to be integers.

    Raises:
        UserError: if they are not.
    """
    if not np.issubdtype(stacked.values.dtype, np.integer):
        raise UserError(f"ground truth: the numbers of a {stacked.noun} must be integers")
    return stacked.values


def first_occurrence(codes: np.ndarray) -> np.ndarray:
    """For each of (n,) ``codes`` the index at which the same code appears first."""
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return first[inverse]


def distinct(triplets: Iterable[Triplet]) -> set[Triplet]:
    """Triplets of any integer type, such as numpy's, as a set of plain tuples."""
    return {(int(subject), int(obj), int(verb)) for subject, obj, verb in triplets}

"""Which predicted interactions are right: QPIC's matching, all images at once.

Shapes: P predictions, N interactions of the ground truth, K pairs of one of each.
"""

import numpy as np

MIN_OVERLAP = 0.5


def find_true_positives(
    keys: np.ndarray,
    boxes: np.ndarray,
    truth_keys: np.ndarray,
    truth_boxes: np.ndarray,
    first_copy: np.ndarray,
) -> np.ndarray:
    """Tell true from false positives.

    A prediction is right if an interaction of the same image and triplet has a subject box and an
    object box that overlap its own by at least 0.5. Of several such interactions only the one with
    the largest smaller overlap counts, the first of equals; every interaction can be found once,
    by the strongest prediction, and who comes later gets no second choice.

    Args:
        keys: (P,) int64, equal for equal image and triplet. Predictions of an image stand in order
            of falling score.
        boxes: (P, 8) boxes of subject and object, xyxy in pixels.
        truth_keys: (N,) the same for the ground truth.
        truth_boxes: (N, 8).
        first_copy: (N,) index of the interaction that is found in the place of this one: its own,
            unless an image lists the same interaction again.

    Returns:
        (P,) bool, True for true positives.
    """
    prediction, truth = pairs_of_equal_keys(keys, truth_keys)
    overlap = np.minimum(
        *(
            overlaps(boxes[prediction, part], truth_boxes[truth, part])
            for part in (slice(0, 4), slice(4, 8))
        )
    )
    matches = overlap >= MIN_OVERLAP
    prediction, truth, overlap = prediction[matches], truth[matches], overlap[matches]

    order = np.lexsort((truth, -overlap, prediction))
    prediction, best = np.unique(prediction[order], return_index=True)
    found = first_copy[truth[order][best]]
    _, earliest = np.unique(found, return_index=True)

    right = np.zeros(len(keys), bool)
    right[prediction[earliest]] = True
    return right


def pairs_of_equal_keys(keys: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices (K,) into ``keys`` (P,) and into ``others`` (N,) of all pairs with equal values."""
    order = np.argsort(others, kind="stable")
    values, starts, counts = np.unique(others[order], return_index=True, return_counts=True)
    place = np.searchsorted(values, keys)
    place[place == len(values)] = 0
    known = np.flatnonzero(values[place] == keys) if len(values) else np.zeros(0, np.int64)
    starts, counts = starts[place[known]], counts[place[known]]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(known, counts), order[np.repeat(starts, counts) + within]


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes whose last pixel belongs to them, as in QPIC's evaluator.

    Widths and heights are differences + 1; boxes that without this 1 share nothing do not overlap.
    A box without width or height therefore does not even overlap itself.

    Args:
        boxes: (K, 4) xyxy in pixels.
        others: (K, 4), each compared with the box in the same place.

    Returns:
        (K,) in [0, 1], in the dtype of the boxes; NaN for boxes that are not finite.
    """
    left, top = np.maximum(boxes[:, :2], others[:, :2]).T
    right, bottom = np.minimum(boxes[:, 2:], others[:, 2:]).T
    apart = (left >= right) | (top >= bottom)
    with np.errstate(divide="ignore", invalid="ignore"):  # boxes inside out or not finite
        shared = (right - left + 1) * (bottom - top + 1)
        union = areas(boxes) + areas(others) - shared
        return np.where(apart, 0, shared / union)


def areas(boxes: np.ndarray) -> np.ndarray:
    """Pixels (K,) in boxes (K, 4) xyxy, the last row and column included."""
    return (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)

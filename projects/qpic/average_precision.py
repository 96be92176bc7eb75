"""QPIC's steps from predicted interactions to an average precision: choose, match, average.

The strongest interactions of an image are kept; those that overlap one of the ground truth are true
positives; average precision is PASCAL VOC's of 2007, over eleven recalls.

Shapes: Q pairs of subject and object, V verbs, C object classes; P predictions, N interactions of
the ground truth.
"""

import numpy as np

MIN_OVERLAP = 0.5

# QPIC's, floating-point products: the fourth, seventh and eighth lie a little above 0.3, 0.6 and
# 0.7, so that a recall of exactly 3 in 10 does not reach them.
RECALLS = np.arange(11) * 0.1


def strongest_interactions(
    verb_scores: np.ndarray, labels: np.ndarray, possible: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the pairs and verbs with the highest scores.

    A verb that is impossible with the pair's object counts with score 0 rather than not at all.

    Args:
        verb_scores: (Q, V) finite; left as it is.
        labels: (Q,) classes of the objects.
        possible: (C, V) bool, which verbs go with which object.
        limit: choose at most as many.

    Returns:
        cells of the chosen as indices into the Q * V, and their scores, both (min(limit, Q * V),)
        by falling score; among equal scores the first pair comes first, then the first verb.
    """
    scores = (verb_scores * possible[labels]).ravel()
    cells = np.argsort(-scores, kind="stable")[:limit]
    return cells, scores[cells]


def find_true_positives(
    keys: np.ndarray,
    boxes: np.ndarray,
    truth_keys: np.ndarray,
    truth_boxes: np.ndarray,
    first_copy: np.ndarray,
) -> np.ndarray:
    """Tell true from false positives on an image.

    A prediction is right if an interaction of the same triplet has a subject box and an object box
    that overlap its own by at least 0.5. Of several such interactions only the one with the largest
    smaller overlap counts, the first of equals; every interaction can be found once, by the
    strongest prediction, and who comes later gets no second choice.

    Args:
        keys: (P,) int64, equal for equal triplets, by falling score.
        boxes: (P, 8) boxes of subject and object, xyxy in pixels.
        truth_keys: (N,) the same for the ground truth.
        truth_boxes: (N, 8).
        first_copy: (N,) index of the interaction that is found in the place of this one: its own,
            unless the image lists the same interaction again.

    Returns:
        (P,) bool, True for true positives.
    """
    right = np.zeros(len(keys), bool)
    if not len(truth_keys):
        return right
    boxes = boxes[:, None]  # (P, 1, 8)
    overlap = np.minimum(
        overlaps(boxes[..., :4], truth_boxes[:, :4]), overlaps(boxes[..., 4:], truth_boxes[:, 4:])
    )  # (P, N)
    matches = (overlap >= MIN_OVERLAP) & (keys[:, None] == truth_keys)
    best = np.where(matches, overlap, 0).argmax(axis=1)
    found = np.where(matches.any(axis=1), first_copy[best], -1)
    _, earliest = np.unique(found, return_index=True)
    right[earliest] = True
    return right & (found >= 0)


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes whose last pixel belongs to them, as in QPIC's evaluator.

    Widths and heights are differences + 1; boxes that without this 1 share nothing do not overlap.
    A box without width or height therefore does not even overlap itself.

    Args:
        boxes: (..., 4) xyxy in pixels.
        others: (..., 4), which broadcasts against them.

    Returns:
        (...) in [0, 1], in the dtype of the boxes; NaN for boxes that are not finite.
    """
    top_left = np.maximum(boxes[..., :2], others[..., :2])
    bottom_right = np.minimum(boxes[..., 2:], others[..., 2:])
    apart = (top_left >= bottom_right).any(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):  # boxes inside out or not finite
        shared, *areas = (
            (high - low + 1).prod(axis=-1)
            for low, high in (
                (top_left, bottom_right),
                (boxes[..., :2], boxes[..., 2:]),
                (others[..., :2], others[..., 2:]),
            )
        )
        return np.where(apart, 0, shared / (areas[0] + areas[1] - shared))


def eleven_point_ap(right: np.ndarray, num_truths: int) -> float:
    """Mean over ``RECALLS`` of the best precision at that recall or a higher one.

    Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, IJCV 2010, equations 1
    and 2; precision is 0 at recalls that are not reached.

    Args:
        right: (P,) bool, predictions by falling score: True for true positives.
        num_truths: what there is to find, at least 1.

    Returns:
        from 0 to 1.
    """
    # Precision is best where a prediction is right, and recall rises only there.
    ranks = np.flatnonzero(right) + 1
    found = np.arange(1, len(ranks) + 1)
    precision = found / ranks
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(found / num_truths, RECALLS)  # the first at least as high
    return float(best_from_here[reached[reached < len(ranks)]].sum() / len(RECALLS))

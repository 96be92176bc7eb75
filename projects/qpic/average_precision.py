"""Average precision over eleven recalls, as PASCAL VOC defined it in 2007."""

import numpy as np

NUM_RECALLS = 11

# 0, 0.1, ..., 1. Those of QPIC's evaluator are floating-point sums: its fourth, seventh and eighth
# lie a little above 0.3, 0.6 and 0.7, so that a recall of exactly 3 in 10 does not reach them.
EXACT_RECALLS = np.arange(NUM_RECALLS) / 10
QPIC_RECALLS = np.arange(NUM_RECALLS) * 0.1


def eleven_point_ap(right: np.ndarray, num_truths: int, recalls: np.ndarray) -> float:
    """Mean over ``recalls`` of the best precision at that recall or a higher one.

    Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, IJCV 2010, equations 1
    and 2; precision is 0 at recalls that are not reached.

    Args:
        right: (P,) bool, predictions by falling score: True for true positives.
        num_truths: what there is to find, at least 1.
        recalls: rising, in [0, 1].

    Returns:
        from 0 to 1.
    """
    # Precision is best where a prediction is right, and recall rises only there.
    ranks = np.flatnonzero(right) + 1
    found = np.arange(1, len(ranks) + 1)
    precision = found / ranks
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(found / num_truths, recalls)  # the first at least as high
    return float(best_from_here[reached[reached < len(ranks)]].sum() / len(recalls))

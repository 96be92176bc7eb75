"""The strongest interactions of an image: QPIC's choice of what is evaluated.

Shapes: Q pairs of subject and object, V verbs, C object classes.
"""

import numpy as np


def strongest_interactions(
    verb_scores: np.ndarray, labels: np.ndarray, possible: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the pairs and verbs with the highest scores.

    A verb that is impossible with the pair's object counts with score 0 rather than not at all,
    so it is chosen where fewer than ``limit`` others are left.

    Args:
        verb_scores: (Q, V) finite; left as it is.
        labels: (Q,) classes of the objects.
        possible: (C, V) bool, which verbs go with which object.
        limit: choose at most as many.

    Returns:
        cells of the chosen as indices into the Q * V, and their scores, both (min(limit, Q * V),)
        by falling score; among equal scores the first pair comes first, then the first verb.
    """
    mask = possible.take(labels, axis=0)  # (Q, V)
    # Most verbs are impossible, and no other cell can be among the chosen where enough possible
    # ones are above 0.
    cells = mask.ravel().nonzero()[0]
    scores = verb_scores.ravel()[cells]
    if np.count_nonzero(scores > 0) < limit:
        scores = (verb_scores * mask).ravel()
        cells = np.arange(len(scores))
    if len(scores) > limit:
        lowest = np.partition(scores, -limit)[-limit]
        kept = (scores >= lowest).nonzero()[0]  # more than the limit if some equal the lowest
        cells, scores = cells[kept], scores[kept]
    order = (-scores).argsort(kind="stable")[:limit]
    return cells[order], scores[order]

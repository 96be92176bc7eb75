"""A part of a set with the same number of images of each class."""

import numpy as np

from dropkey_core.engine import UserError


def first_per_class(labels: np.ndarray, num_classes: int, count: int | None) -> np.ndarray:
    """Rows of the first ``count`` images of each class, in the order of the set.

    Args:
        labels: (N,) class indices.
        num_classes: how many classes there are.
        count: images of each class, or None for all rows.

    Returns:
        Rising rows.

    Raises:
        UserError: ``count`` is not at least 1, or a class has fewer images.
    """
    if count is None:
        return np.arange(len(labels))
    if count < 1:
        raise UserError(f"per_class must be at least 1 or null for all images, got {count}")
    fewest = int(np.bincount(labels, minlength=num_classes).min())
    if fewest < count:
        raise UserError(
            f"per_class must be at most {fewest}, as one class has no more; got {count}"
        )
    rows = [np.flatnonzero(labels == label)[:count] for label in range(num_classes)]
    return np.sort(np.concatenate(rows))

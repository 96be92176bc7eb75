"""scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels, part of its wheel."""

import numpy as np

from dropkey_core.engine import UserError
from projects.classification.labelled_images import ImageArray, check_choice

SPLITS = ("train", "test")
NUM_TRAIN = 1437  # four fifths
BRIGHTEST = 16  # each pixel counts the dark ones of 4 x 4


def load_digits(split: str, per_class: int | None = None) -> ImageArray:
    """Load the digits 0 to 9; nothing is fetched.

    Writers follow each other in the set, so the last fifth, the test split, is largely by other
    hands than the training split.

    Args:
        split: ``train`` (1,437 images) or ``test`` (360).
        per_class: keep only so many images of each digit, the first of the split.

    Raises:
        UserError: another split, too many ``per_class``, or scikit-learn is not installed.
    """
    check_choice("split", split, SPLITS)
    try:
        from sklearn import datasets
    except ImportError as error:
        raise UserError(
            "the digits are part of scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    digits = datasets.load_digits()
    part = slice(NUM_TRAIN) if split == "train" else slice(NUM_TRAIN, None)
    pixels = np.rint(digits.images[part, :, :, None] * (255 / BRIGHTEST)).astype(np.uint8)
    return ImageArray(pixels, digits.target[part], list("0123456789"), per_class)

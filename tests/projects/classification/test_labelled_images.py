import numpy as np
import pytest
import torch

from dropkey_core.engine import UserError
from projects.classification.labelled_images import ImageArray, first_per_class

LABELS = np.array([1, 0, 1, 1, 0, 2])


def test_first_of_each_class_in_the_order_of_the_set():
    assert first_per_class(LABELS, 3, 1).tolist() == [0, 1, 5]
    assert first_per_class(LABELS[:5], 2, 2).tolist() == [0, 1, 2, 4]
    assert first_per_class(LABELS, 3, None).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("count", "message"), [(2, "at most 1.*got 2"), (0, "at least 1.*got 0")])
def test_a_count_that_the_set_has_not(count, message):
    with pytest.raises(UserError, match=f"per_class.*{message}"):
        first_per_class(LABELS, 3, count)


def test_a_class_without_images_counts():
    with pytest.raises(UserError, match="at most 0"):
        first_per_class(LABELS, 4, 1)


def test_records_of_an_array():
    pixels = np.arange(6 * 2 * 4 * 3, dtype=np.uint8).reshape(6, 2, 4, 3)
    images = ImageArray(pixels, LABELS, ["a", "b", "c"], per_class=1)
    assert len(images) == 3
    record = images[2]
    assert (record["label"], record["image_id"]) == (2, 5)
    assert record["image"].shape == (3, 2, 4)
    assert record["image"].dtype == torch.uint8
    assert record["image"][:, 1, 2].tolist() == pixels[5, 1, 2].tolist()


def test_grey_becomes_three_equal_channels():
    pixels = np.arange(8, dtype=np.uint8).reshape(1, 2, 4, 1)
    image = ImageArray(pixels, np.array([0]), ["a"])[0]["image"]
    for channel in image:
        assert channel.tolist() == pixels[0, :, :, 0].tolist()

import sys

import numpy as np
import pytest
from sklearn import datasets

from dropkey_core.engine import UserError
from projects.classification import load_digits


def test_splits_make_up_the_set():
    train, test = load_digits("train"), load_digits("test")
    assert (len(train), len(test)) == (1437, 360)
    original = datasets.load_digits()
    assert [*train.labels, *test.labels] == original.target.tolist()
    image = test[7]["image"]
    assert image.shape == (3, 8, 8)
    darkness = image[1].numpy() * (16 / 255)
    np.testing.assert_allclose(darkness, original.images[1437 + 7], atol=0.5 * 16 / 255)
    assert image.max() == 255


def test_some_of_each_digit():
    labels = [record["label"] for record in load_digits("test", per_class=2)]
    assert sorted(labels) == sorted([*range(10)] * 2)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        load_digits("train")

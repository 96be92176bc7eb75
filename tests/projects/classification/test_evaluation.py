import csv
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, top_k_accuracy_score

from dropkey_core.engine import UserError
from projects.classification import ClassificationEvaluator


def judged(rows, **settings):
    """Metrics of (logits, label) pairs, seen in batches of two."""
    evaluator = ClassificationEvaluator(**settings)
    for start in range(0, len(rows), 2):
        batch = list(enumerate(rows))[start : start + 2]
        evaluator.process(
            [{"label": label, "image_id": number} for number, (_, label) in batch],
            [{"logits": torch.tensor(logits)} for _, (logits, _) in batch],
        )
    return evaluator.evaluate()


def test_by_hand():
    rows = [([2.0, 1.0, 0.0], 0), ([2.0, 1.0, 0.0], 1), ([0.0, 0.0, 5.0], 2), ([1.0, 0.0, 0.0], 2)]
    results = judged(rows)["cls"]
    assert results["top1"] == 50.0
    assert results["top5"] == 100.0  # three classes
    exps = [(2, [2, 1, 0]), (1, [2, 1, 0]), (5, [0, 0, 5]), (0, [1, 0, 0])]
    losses = [math.log(sum(map(math.exp, logits))) - true for true, logits in exps]
    assert results["loss"] == pytest.approx(sum(losses) / 4, rel=1e-12)


def test_equals_scikit_learn():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(200, 8)).astype(np.float32)
    labels = generator.integers(0, 8, size=200)
    results = judged(
        [(row.tolist(), int(label)) for row, label in zip(logits, labels, strict=True)]
    )["cls"]
    for k in (1, 5):
        theirs = top_k_accuracy_score(labels, logits, k=k, labels=range(8))
        assert results[f"top{k}"] == pytest.approx(100 * theirs, abs=1e-12)
    probabilities = torch.tensor(logits).double().softmax(dim=1).numpy()
    assert results["loss"] == pytest.approx(log_loss(labels, probabilities, labels=range(8)))


def test_equal_logits_and_no_numbers():
    equal = [([1.0, 1.0, 1.0], label) for label in range(3)]
    assert judged(equal)["cls"]["top1"] == pytest.approx(100 / 3)
    nan = float("nan")
    assert judged([([nan, nan], 0), ([1.0, nan], 0)])["cls"]["top1"] == 0.0
    six = [([float("nan")] * 6, 0), ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 0)]
    assert judged(six)["cls"]["top5"] == 0.0


def test_of_each_class():
    rows = [([1.0, 0.0], 0), ([1.0, 0.0], 0), ([1.0, 0.0], 1)]
    assert judged(rows, per_class=True)["cls_per_class"] == {"0": 100.0, "1": 0.0}
    named = judged(rows, per_class=True, classes=["cat", "dog", "cow"])["cls_per_class"]
    assert (named["cat"], named["dog"]) == (100.0, 0.0)
    assert math.isnan(named["cow"])
    with pytest.raises(UserError, match="label 1, the evaluator's classes are 1 names"):
        judged(rows, per_class=True, classes=["cat"])


def test_an_image_counts_once():
    evaluator = ClassificationEvaluator()
    right = ([{"label": 0, "image_id": 5}], [{"logits": torch.tensor([1.0, 0.0])}])
    wrong = ([{"label": 1, "image_id": 6}], [{"logits": torch.tensor([1.0, 0.0])}])
    for batch in (right, wrong, right, right):
        evaluator.process(*batch)
    assert evaluator.evaluate()["cls"]["top1"] == 50.0
    evaluator.reset()
    evaluator.process(*right)
    assert evaluator.evaluate()["cls"]["top1"] == 100.0


def test_predictions_are_written(tmp_path):
    judged([([0.0, 3.0], 0), ([0.0, 3.0], 1)], output_dir=tmp_path / "run")
    with (tmp_path / "run" / "predictions.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["predicted"] for line in lines] == ["1", "1"]
    assert [line["rank"] for line in lines] == ["1", "0"]
    assert float(lines[1]["loss"]) == pytest.approx(math.log1p(math.exp(-3)))


def test_labels_that_the_model_has_not():
    with pytest.raises(UserError, match=r"label 2, the model 2 classes; set model\.num_classes"):
        judged([([0.0, 1.0], 2)])
    with pytest.raises(UserError, match="no images"):
        ClassificationEvaluator().evaluate()

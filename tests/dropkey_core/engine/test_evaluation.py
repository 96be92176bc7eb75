import logging

import numpy as np
import pytest
import torch
from torch import nn

from dropkey_core.engine import ImageEvaluator, UserError, evaluation, run_evaluation
from dropkey_core.engine.evaluation import Examples, flatten_results


def test_results_are_flat_numbers():
    results = {"bbox": {"AP": np.float64(0.5), "names": ["a"], "per_class": {"cat": 1}, "no": None}}
    flat = flatten_results(results)
    assert flat == {"bbox/AP": 0.5, "bbox/per_class/cat": 1.0}
    assert all(type(value) is float for value in flat.values())
    assert flatten_results({"t": {"x": torch.tensor(2.0), "v": torch.zeros(3)}}) == {"t/x": 2.0}


class Recorder:
    def reset(self):
        self.seen = []

    def process(self, inputs, outputs):
        assert not outputs[0].requires_grad
        self.seen += inputs

    def evaluate(self):
        return {"task": {"count": len(self.seen)}}


class Echo(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, batch):
        assert not self.training
        return [self.weight * sample for sample in batch]


def test_every_batch_once_in_eval_mode_and_back():
    model, evaluator, calls = Echo(), Recorder(), []
    for _ in range(2):  # reset in between
        model.train()
        seen = run_evaluation(model, [[1, 2], [3]], evaluator, lambda *both: calls.append(both))
    assert seen == {"task/count": 3.0}
    assert model.training
    assert calls == [([1, 2], [1, 2]), ([3], [3])] * 2


@pytest.mark.parametrize(
    ("most", "seen", "kept"),
    [(0, 5, []), (1, 5, [0]), (3, 2, [0, 1]), (3, 3, [0, 1, 2]), (3, 4, [0, 2]), (3, 9, [0, 4, 8])],
)
def test_examples_are_evenly_spread(most, seen, kept):
    examples = Examples(most)
    for first in range(0, seen, 2):
        batch = list(range(first, min(first + 2, seen)))
        examples.add(batch, [str(number) for number in batch])
    assert examples.pairs == [(number, str(number)) for number in kept]


class Kept(ImageEvaluator):
    """Keeps what the model said of an image, and tells all of it."""

    def keep(self, sample, output):
        return output["said"]

    def measure(self, kept):
        self.write_json("kept.json", list(kept))
        self.write_csv("kept.csv", ["image_id", "said"], kept.items())
        return {"kept": kept}


def process(evaluator, *image_ids):
    outputs = [{"said": f"{image_id} of {id(evaluator)}"} for image_id in image_ids]
    evaluator.process([{"image_id": np.int64(image_id)} for image_id in image_ids], outputs)


def test_images_of_all_processes_count_once_and_in_order(monkeypatch, tmp_path):
    first, second = Kept(tmp_path / "new" / "out"), Kept()
    process(first, 9, 4, 9)
    process(second, 30, 4)
    parts = [first._kept, second._kept]
    monkeypatch.setattr(evaluation, "gather_objects", lambda kept: parts)
    kept = first.evaluate()["kept"]
    assert list(kept) == [4, 9, 30]
    assert kept[4] == f"4 of {id(first)}"  # the first process's, where both have it
    assert (tmp_path / "new/out/kept.json").read_text() == "[4, 9, 30]"
    lines = (tmp_path / "new/out/kept.csv").read_text().splitlines()
    assert (len(lines), lines[0], lines[3]) == (4, "image_id,said", f"30,30 of {id(second)}")
    assert len(list((tmp_path / "new/out").iterdir())) == 2
    monkeypatch.setattr(evaluation, "rank_and_world_size", lambda: (1, 2))
    assert second.evaluate() is None


def test_images_that_are_missing_or_foreign_are_told(caplog):
    evaluator = Kept(image_ids={1, 2, 3}, source="a.json")
    with pytest.raises(UserError, match=r"^image_id 4 is not in a\.json$"):
        process(evaluator, 4)
    process(evaluator, 2)
    with caplog.at_level(logging.WARNING):
        assert list(evaluator.evaluate()["kept"]) == [2]
    assert "2 of the 3 images of a.json were not processed; they count as" in caplog.text
    evaluator.reset()
    assert evaluator.evaluate() == {"kept": {}}


def test_no_image_at_all_is_refused_in_every_process(monkeypatch):
    monkeypatch.setattr(evaluation, "gather_objects", lambda kept: [kept, {}])
    monkeypatch.setattr(evaluation, "rank_and_world_size", lambda: (1, 2))
    with pytest.raises(UserError, match=r"no images to evaluate; dataloader\.test\.dataset gave"):
        Kept().evaluate()

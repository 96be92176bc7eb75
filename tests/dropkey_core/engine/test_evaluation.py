import numpy as np
import torch
from torch import nn

from dropkey_core.engine import gather_objects, run_evaluation
from dropkey_core.engine.evaluation import flatten_results


def test_results_are_flat_numbers():
    results = {"bbox": {"AP": np.float64(0.5), "names": ["a"], "per_class": {"cat": 1}, "no": None}}
    flat = flatten_results(results)
    assert flat == {"bbox/AP": 0.5, "bbox/per_class/cat": 1.0}
    assert all(type(value) is float for value in flat.values())
    assert flatten_results({"t": {"x": torch.tensor(2.0), "v": torch.zeros(3)}}) == {"t/x": 2.0}


def test_one_process_gathers_itself():
    assert gather_objects({"a": 1}) == [{"a": 1}]


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
        metrics = run_evaluation(model, [[1, 2], [3]], evaluator, lambda: calls.append(1))
    assert metrics == {"task/count": 3.0}
    assert model.training
    assert len(calls) == 4

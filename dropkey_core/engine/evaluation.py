"""Running a model over a test set, and what an evaluator must offer."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import nn

from dropkey_core.engine.distributed import gather_objects

# {"bbox": {"AP": 42.0, ...}, ...}: metrics by task, as detectron2's evaluators return them.
Results = Mapping[str, Any]


class Evaluator(Protocol):
    """Sees every input and output of a test set once and sums them up; detectron2's contract."""

    def reset(self) -> None:
        """Forget everything seen so far."""

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take in one batch: the samples, and what the model made of each."""

    def evaluate(self) -> Results | None:
        """Return metrics by task for what all processes saw; other ranks than 0 may return None."""


def run_evaluation(
    model: nn.Module,
    loader: Iterable[list[dict[str, Any]]],
    evaluator: Evaluator,
    after_batch: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Evaluate ``model`` on ``loader`` and return flat metrics, the same in every process.

    Args:
        model: called in eval mode without gradients; its mode is put back.
        loader: batches of samples, this process's part of the test set.
        evaluator: sees each batch and its outputs, which may lie on any device.
        after_batch: called after each batch, for progress or to stop by raising.

    Returns:
        Metrics by name, ``{"bbox/AP": 42.0}`` for an evaluator's ``{"bbox": {"AP": 42.0}}``.
    """
    was_training = model.training
    model.eval()
    evaluator.reset()
    try:
        with torch.no_grad():
            for batch in loader:
                evaluator.process(batch, model(batch))
                after_batch()
        results = evaluator.evaluate()
    finally:
        model.train(was_training)
    # Ranks must not disagree about which checkpoint is best, or about having one.
    return gather_objects(flatten_results(results or {}))[0]


def flatten_results(results: Results, prefix: str = "") -> dict[str, float]:
    """Return nested results as ``{"task/metric": number}``; what is not a number is left out."""
    flat: dict[str, float] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            flat |= flatten_results(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) or getattr(value, "ndim", None) == 0:
            flat[f"{prefix}{name}"] = float(value)
    return flat

"""Other ways to measure trained weights: what the ``measure`` of a row names.

Each gets the model in evaluation mode, its test loader and its evaluator, and returns metrics by
name as :func:`~dropkey_core.engine.run_evaluation` does.
"""

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from dropkey_core.attention import set_inference
from dropkey_core.attention.functional import Inference
from dropkey_core.engine.checkpoint import load_weights
from dropkey_core.engine.config import check_argument_names, check_calls, instantiate, locate
from dropkey_core.engine.evaluation import Evaluator, run_evaluation
from dropkey_core.engine.trainer import build_evaluation, build_model

Batches = Iterable[list[dict[str, Any]]]

GIVEN = ("model", "loader", "evaluator")  # what a measurement gets besides its options


def aligned(
    model: nn.Module, loader: Batches, evaluator: Evaluator, inference: Inference
) -> dict[str, float]:
    """Evaluate with attention weights as they were, on average, in training (Table 4).

    Args:
        model: trained with unit "key".
        loader: of the test set.
        evaluator: of the test set.
        inference: ``dropkey_core.attention.alignment.MonteCarlo`` or ``Expected``.
    """
    set_inference(model, inference)
    return run_evaluation(model, loader, evaluator)


def check_measurement(measure: Mapping[str, Any]) -> None:
    """Check a ``measure`` against the signature of its target.

    Raises:
        UserError: naming what is wrong and the nearest right name.
    """
    target = locate(measure.get("_target_"), "measure._target_")
    options = {name: value for name, value in measure.items() if name != "_target_"}
    parameters = inspect.signature(target).parameters
    check_argument_names(options, GIVEN, parameters, "measure", measure["_target_"])
    check_calls(options, "measure")


def measure_weights(
    measure: Mapping[str, Any], config: DictConfig, weights: Path, seed: int
) -> dict[str, float]:
    """Measure the weights of a training on its own test set.

    Args:
        measure: of the row.
        config: of the training.
        weights: its checkpoint.
        seed: of what is drawn while measuring.

    Raises:
        UserError: weights that do not fit, or options that the measurement refuses.
    """
    model = build_model(config, weights_follow=True)
    load_weights(model, weights, "weights_of")
    model.to(config.train.device).eval()
    loader, evaluator = build_evaluation(config)
    torch.manual_seed(seed)
    given = {"model": model, "loader": loader, "evaluator": evaluator}
    metrics: dict[str, float] = instantiate(measure, "measure", **given)
    return metrics

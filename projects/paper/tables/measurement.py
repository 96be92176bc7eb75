"""Evaluation of trained weights in other ways: aligned attention, occluded patches.

The ``measure`` of a setup names one of these. Each gets the model in evaluation mode, its test
loader, its evaluator and a seed, and returns metrics by name as
:func:`~dropkey_core.engine.run_evaluation` does.
"""

import copy
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from dropkey_core.attention.functional import Inference
from dropkey_core.engine.build import build_evaluation, build_model, instantiate, locate
from dropkey_core.engine.checkpoint import load_weights
from dropkey_core.engine.config import check_argument_names, check_calls
from dropkey_core.engine.errors import UserError, suggestion
from dropkey_core.engine.evaluation import Evaluator, run_evaluation
from dropkey_core.equip import set_inference
from projects.paper.figures.occlusion import RATIOS, occlusion_curve

Batches = Iterable[list[dict[str, Any]]]

GIVEN = ("model", "loader", "evaluator", "seed")  # what a measurement gets besides its options


def aligned(
    model: nn.Module, loader: Batches, evaluator: Evaluator, seed: int, inference: Inference
) -> dict[str, float]:
    """Evaluate with attention weights as they were, on average, in training (Table 4).

    Args:
        model: trained with unit "key".
        loader: of the test set, as ``evaluator``.
        evaluator: see there.
        seed: of the masks that Monte Carlo draws.
        inference: ``dropkey_core.attention.alignment.MonteCarlo`` or ``Expected``.
    """
    set_inference(model, inference)
    torch.manual_seed(seed)
    return run_evaluation(model, loader, evaluator)


def occluded(
    model: nn.Module,
    loader: Batches,
    evaluator: Evaluator,
    seed: int,
    metric: str,
    ratios: Sequence[float] = RATIOS,
    num_runs: int = 5,
) -> dict[str, float]:
    """Evaluate without a part of the patches (Table 3), see ``occlusion_curve``.

    Args:
        model: any that ``occlusion_curve`` takes.
        loader: of the test set, as ``evaluator``.
        evaluator: see there.
        seed: of what is taken away.
        metric: one of the evaluator's, for instance ``cls/top1``.
        ratios: parts that are taken away, in [0, 1).
        num_runs: draws of what is taken away.

    Returns:
        for each ratio ``occluded_30/cls/top1``, the mean over runs at 30 %, and
        ``occluded_30/cls/top1_spread``, their standard deviation (0 for a single run).

    Raises:
        ValueError: as ``occlusion_curve``.
        UserError: an unknown metric.
    """
    metrics: dict[str, float] = {}
    points = occlusion_curve(model, loader, evaluator, ratios, num_runs, seed)
    for ratio in ratios:
        results = [point.metrics for point in points if point.ratio == ratio]
        if metric not in results[0]:
            raise UserError(f"measure.metric: no {metric!r}{suggestion(metric, results[0])}")
        values = [result[metric] for result in results]
        name = f"occluded_{round(100 * ratio)}/{metric}"
        metrics[name] = statistics.fmean(values)
        metrics[f"{name}_spread"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return metrics


def check_measurement(measure: Mapping[str, Any]) -> None:
    """Check a ``measure`` against the signature of its target.

    Raises:
        UserError: naming what is wrong and the nearest right name.
    """
    target = locate(measure.get("_target_"), "measure._target_")
    options = {name: value for name, value in measure.items() if name != "_target_"}
    check_argument_names(options, GIVEN, target, "measure")
    check_calls(options, "measure")


def measure_weights(
    measure: Mapping[str, Any], config: DictConfig, weights: Path, seed: int, folder: Path
) -> dict[str, float]:
    """Measure the weights of a training, given by its config, on its own test set.

    An evaluator's files go to ``folder``; they would replace the training's own.

    Raises:
        UserError: weights that do not fit, or options that the measurement refuses.
    """
    config = copy.deepcopy(config)
    if OmegaConf.select(config, "dataloader.evaluator.output_dir") is not None:
        config.dataloader.evaluator.output_dir = str(folder)
    model = build_model(config, weights_follow=True)
    load_weights(model, weights, "weights_of")
    model.to(config.train.device).eval()
    loader, evaluator = build_evaluation(config)
    given = {"model": model, "loader": loader, "evaluator": evaluator, "seed": seed}
    return cast(dict[str, float], instantiate(measure, "measure", **given))

"""Occlusion robustness: a metric over the part of patches left out (arXiv 2208.02646, Table 3)."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dropkey_core.analysis.occlusion import PatchOrder, occluded_forward
from dropkey_core.engine.data import fold_seed
from dropkey_core.engine.distributed import gather_objects, rank_and_world_size
from dropkey_core.engine.evaluation import Evaluator, flatten_results

RATIOS = tuple(tenths / 10 for tenths in range(10))  # 0 to 90 %


@dataclass(frozen=True)
class Occluded:
    """What a model reached without some of the patches.

    Attributes:
        ratio: part of the patches that was taken away.
        run: which draw of them, from 0.
        metrics: by name, as ``run_evaluation`` returns them: ``{"cls/top1": 71.3, ...}``.
    """

    ratio: float
    run: int
    metrics: dict[str, float]


def occlusion_curve(
    model: nn.Module,
    loader: Iterable[list[dict[str, Any]]],
    evaluator: Evaluator,
    ratios: Sequence[float] = RATIOS,
    num_runs: int = 5,
    seed: int = 0,
) -> list[Occluded]:
    """Evaluate a model for each ratio and run, reading the data once.

    In a run patches are taken away in one order per image, whatever the ratio: what is missing at
    10 % is missing at 20 %, too. With ratio 0 all runs are the same, so it is evaluated once.

    Args:
        model: called in eval mode without gradients on lists of samples; its mode is put back.
            Equipped attention is in blocks that take the tokens (B, N, C) or (B, h, w, C) first.
        loader: batches of samples, this process's part of the test set.
        evaluator: copied for each ratio and run; ``reset`` gives each copy new containers.
        ratios: in [0, 1).
        num_runs: at least 1.
        seed: decides what is taken away.

    Returns:
        ``len(ratios) * num_runs`` results, ratio by ratio, those of ratio 0 all the same.

    Raises:
        ValueError: a bad ratio or number of runs, or see ``occluded_forward``.
    """
    check_ratios(ratios)
    if num_runs < 1:
        raise ValueError(f"num_runs must be at least 1, got {num_runs}")
    points = [(ratio, run) for ratio in ratios for run in range(num_runs if ratio else 1)]
    evaluators = {point: copy.copy(evaluator) for point in points}  # of a COCO set no deeper one
    for copied in evaluators.values():
        copied.reset()
    rank, _ = rank_and_world_size()
    orders = [PatchOrder(fold_seed(seed, run, rank)) for run in range(num_runs)]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in loader:
                for order in orders:
                    order.forget()
                for ratio, run in points:
                    outputs = occluded_forward(model, batch, ratio, orders[run])
                    evaluators[ratio, run].process(batch, outputs)
    finally:
        model.train(was_training)
    metrics = {
        # Every process calls evaluate; as in run_evaluation the first one's results count.
        point: gather_objects(flatten_results(evaluators[point].evaluate() or {}))[0]
        for point in points
    }
    return [
        Occluded(ratio, run, metrics[ratio, run if ratio else 0])
        for ratio in ratios
        for run in range(num_runs)
    ]


def check_ratios(ratios: Sequence[float]) -> None:
    """Refuse ratios of which a model sees nothing.

    Raises:
        ValueError: none, one outside [0, 1), or one twice.
    """
    for ratio in ratios:
        if not 0 <= ratio < 1:
            raise ValueError(f"an occlusion ratio must be in [0, 1), got {ratio}")
    if not ratios or len(set(ratios)) < len(ratios):
        raise ValueError(f"occlusion ratios must be some different numbers, got {list(ratios)}")

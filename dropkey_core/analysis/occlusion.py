"""How well a model does without a part of its patches (arXiv 2208.02646, Table 3).

Random patches are taken away before the first attention block, from each image others. In a
sequence their tokens leave it, so that no attention sees them, and the class token stays; in a grid
(VOLO, Swin, any model with token-aware pooling), which must stay complete, their tokens become 0.

Shapes: B images, N tokens, P of them prefix tokens, C channels.
"""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dropkey_core.analysis.tokens import replaced_first_tokens
from dropkey_core.engine.evaluation import Evaluator, flatten_results, gather_objects
from dropkey_core.engine.randomness import fold_seed
from dropkey_core.engine.samplers import rank_and_world_size
from dropkey_core.variants.token_pooling import TokenPooling

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
    after_batch: Callable[[], None] = lambda: None,
) -> list[Occluded]:
    """Evaluate a model for each ratio and run, reading the data once.

    In a run patches are taken away in one order per image, whatever the ratio: what is missing at
    10 % is missing at 20 %, too. With ratio 0 all runs are the same, so it is evaluated once.

    Args:
        model: called in eval mode without gradients on lists of samples; its mode is put back.
            Equipped attention is in blocks that take the tokens (B, N, C) or (B, h, w, C) first.
        loader: batches of samples, this process's part of the test set.
        evaluator: is copied, for each ratio and run.
        ratios: in [0, 1).
        num_runs: at least 1.
        seed: decides what is taken away.
        after_batch: called after each batch, for progress or to stop by raising.

    Returns:
        ``len(ratios) * num_runs`` results, ratio by ratio, those of ratio 0 all the same.

    Raises:
        ValueError: a bad ratio or number of runs; nothing is equipped, or not in blocks.
    """
    check_ratios(ratios)
    if num_runs < 1:
        raise ValueError(f"num_runs must be at least 1, got {num_runs}")
    points = [(ratio, run) for ratio in ratios for run in range(num_runs if ratio else 1)]
    evaluators = {point: copy.deepcopy(evaluator) for point in points}
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
                after_batch()
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


class PatchOrder:
    """In which order the patches of each image are taken away; the same until it is forgotten.

    Args:
        seed: decides all the orders.
    """

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._order: Tensor | None = None

    def forget(self) -> None:
        """Let the next images have orders of their own."""
        self._order = None

    def __call__(self, num_images: int, num_patches: int) -> Tensor:
        """(B, patches) int64: for each image a permutation of the patches."""
        if self._order is None:
            # Image by image, so that the batch size does not matter.
            noise = [torch.rand(num_patches, generator=self._generator) for _ in range(num_images)]
            self._order = torch.stack(noise).argsort(dim=1)
        return self._order


def occluded_forward(model: nn.Module, batch: Any, ratio: float, order: PatchOrder) -> Any:
    """Call ``model`` on ``batch`` without ``ratio`` of the patches, rounded to whole patches.

    Args:
        model: see ``occlusion_curve``.
        batch: what it is called with.
        ratio: in [0, 1); 0 calls the model as it is.
        order: decides which patches; the first ones are taken away.
    """
    if not ratio:
        return model(batch)

    pools = any(isinstance(module, TokenPooling) for module in model.modules())

    def replace(tokens: Tensor, prefix: int) -> Tensor:
        is_sequence = tokens.ndim == 3
        patches = tokens[:, prefix:]
        order_of_patches = order(len(tokens), patches[0, ..., 0].numel()).to(tokens.device)
        if is_sequence and not pools:
            return without_patches(tokens, prefix, ratio, order_of_patches)
        empty = with_empty_patches(patches, ratio, order_of_patches)
        return torch.cat([tokens[:, :prefix], empty], dim=1)

    with replaced_first_tokens(model, replace) as arm:
        arm()
        return model(batch)


def without_patches(tokens: Tensor, prefix: int, ratio: float, order: Tensor) -> Tensor:
    """Take patches out of sequences; the others stay in their order.

    Args:
        tokens: (B, N, C).
        prefix: P, tokens before the patches, which stay.
        ratio: part to take away.
        order: (B, N - P), permutations.

    Returns:
        (B, N - k, C), k = ratio (N - P), rounded; a patch is left in any case
    """
    num_gone = _num_gone(ratio, order.shape[1])
    kept = order[:, num_gone:].sort(dim=1).values + prefix  # (B, N - P - k)
    patches = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))
    return torch.cat([tokens[:, :prefix], patches], dim=1)


def with_empty_patches(tokens: Tensor, ratio: float, order: Tensor) -> Tensor:
    """Set the tokens of patches to 0.

    Args:
        tokens: (B, h, w, C), or a sequence of patches (B, h w, C).
        ratio: part to take away.
        order: (B, h w), permutations.
    """
    gone = order[:, : _num_gone(ratio, order.shape[1])]
    kept = torch.ones_like(order, dtype=tokens.dtype).scatter(1, gone, 0.0)  # (B, h w)
    return tokens * kept.unflatten(1, tokens.shape[1:-1])[..., None]


def _num_gone(ratio: float, num_patches: int) -> int:
    return min(math.floor(ratio * num_patches + 0.5), num_patches - 1)

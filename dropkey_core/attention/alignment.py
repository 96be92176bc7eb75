"""Aligning training and inference: expected and Monte Carlo attention weights.

A model trained with DropKey and run without it sees other attention weights than it was trained
with: dropping keys before the softmax smooths the weights, on average, and inference does not. The
paper aligns the two by averaging over random masks, or by fine-tuning (arXiv 2208.02646, section
3.2, Table 4). Here are the average over masks, and the expectation that it converges to.

Functions take weights. The classes take logits and are what ``inference`` of
``drop_key_attention`` and of the modules wants. Shapes: (..., N) = rows of N keys.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from dropkey_core.attention.expectation import expected_softmax
from dropkey_core.attention.functional import check_logits, drop_key_softmax
from dropkey_core.attention.masks import draw_seed, random_key_mask
from dropkey_core.attention.schedule import check_drop_ratio

# Numbers that are drawn at once: more would leave a CPU's cache, or fill a GPU's memory.
_CPU_DRAW, _GPU_DRAW = 2**18, 2**24


def expected_attention(weights: Tensor, drop_ratio: float, nodes: int = 1) -> Tensor:
    """Return the attention weights that DropKey gives on average, instead of ``weights``.

    The expectation, over the masks of training with unit "key", of the weights after dropping. As
    in training, a query that would lose all its keys loses none of them, so that all masks count
    and rows sum to 1. The keys of a row are those with a positive weight.

    The total-variation error of a row, half the sum of what its weights are off by, is below 3e-5
    for any weights, number of keys and ``drop_ratio``; ``expectation.py`` says why. Differentiable
    once, in memory of the size of ``weights``.

    Args:
        weights: (..., N), floating, >= 0, in proportion to the attention weights of each row; 0 =
            key that the query may not attend to. float16 and bfloat16 are computed in float32.
        drop_ratio: probability in [0, 1) that a query loses a key.
        nodes: of the integral, per octave. Time grows in proportion; 2 nodes are off by 1e-10, as
            far as the type allows.

    Returns:
        (..., N) in the type of ``weights``. Rows sum to 1, rows of zeros stay zeros. With
        ``drop_ratio`` 0 ``weights`` itself.

    Raises:
        ValueError: a ``drop_ratio`` outside [0, 1), ``nodes`` below 1, or integer ``weights``.
    """
    return _of_weights(Expected(nodes), weights, drop_ratio)


def monte_carlo_attention(weights: Tensor, drop_ratio: float, samples: int = 2000) -> Tensor:
    """Return the mean of the attention weights over random masks, instead of ``weights``.

    The paper's way to align training and inference (section 3.2, Table 4), with the masks of
    training with unit "key". ``expected_attention`` is what it converges to, exact and faster. Each
    row gets masks of its own, which ``torch.manual_seed`` governs. Not differentiable.

    Args:
        weights: (..., N), as for ``expected_attention``.
        drop_ratio: probability in [0, 1) that a query loses a key.
        samples: number of masks; the paper takes 2,000 to 6,000.

    Returns:
        (..., N), as from ``expected_attention``

    Raises:
        ValueError: a ``drop_ratio`` outside [0, 1), ``samples`` below 1, or integer ``weights``.
    """
    return _of_weights(MonteCarlo(samples), weights, drop_ratio)


def smoothing_coefficients(weights: Tensor, drop_ratio: float, nodes: int = 1) -> Tensor:
    """Return the factors c_j by which DropKey changes attention weights on average (Eq. 3-4).

    E[d_j p_j / sum_i d_i p_i] = c_j p_j for weights p that sum to 1, where d_j is 1 if key j is
    kept and else 0. c_s < c_t whenever p_s > p_t: large weights shrink, small ones grow.

    Args:
        weights: as for ``expected_attention``.
        drop_ratio: probability in [0, 1) that a query loses a key.
        nodes: as for ``expected_attention``.

    Returns:
        (..., N) in the type of ``weights``. Where a weight is 0, so is the coefficient; towards
        there it grows without bound, because a key that alone is kept gets weight 1, however small
        its own.

    Raises:
        ValueError: as ``expected_attention``.
    """
    wide = weights if weights.dtype == torch.float64 else weights.float()
    expected = expected_attention(wide, drop_ratio, nodes)
    per_key = wide.sum(-1, keepdim=True) / wide.masked_fill(wide <= 0, 1.0)
    return (expected * per_key).to(weights.dtype)


class Alignment(ABC):
    """Softmax averaged over the masks of DropKey.

    To be given as ``inference`` of an attention that was trained with unit "key".
    """

    def __call__(self, logits: Tensor, drop_ratio: float) -> Tensor:
        """Return the weights, averaged.

        Args:
            logits: (..., N), floating; -inf = key that the query may not attend to.
            drop_ratio: probability in [0, 1) that a query loses a key.

        Returns:
            (..., N) in the type of ``logits``. Rows sum to 1, rows of nothing but -inf give 0. With
            ``drop_ratio`` 0 the softmax.

        Raises:
            ValueError: a ``drop_ratio`` outside [0, 1), or integer ``logits``.
        """
        check_logits(logits)
        check_drop_ratio(drop_ratio)
        if drop_ratio == 0.0 or logits.numel() == 0:
            return drop_key_softmax(logits, 0.0)
        return self.average(_as_rows(logits), drop_ratio).view_as(logits).to(logits)

    @abstractmethod
    def average(self, rows: Tensor, drop_ratio: float) -> Tensor:
        """Average over masks, for rows (R, N) with R and N at least 1 and a ratio in (0, 1)."""


@dataclass(frozen=True)
class Expected(Alignment):
    """Softmax in expectation over the masks of DropKey: ``expected_attention`` of logits.

    ``torch.export`` keeps it as the operator ``dropkey::expected_softmax``. ONNX has none, so
    ``torch.onnx.export`` refuses it by that name: set ``inference`` to None first.

    Args:
        nodes: of the integral, per octave; see ``expected_attention``.

    Raises:
        ValueError: ``nodes`` below 1.
    """

    nodes: int = 1

    def __post_init__(self) -> None:
        _check_at_least_1("nodes", self.nodes)

    def average(self, rows: Tensor, drop_ratio: float) -> Tensor:
        """Integrate, see ``Alignment.average``."""
        return expected_softmax(rows, drop_ratio, self.nodes)


@dataclass(frozen=True)
class MonteCarlo(Alignment):
    """Softmax averaged over random masks of DropKey: ``monte_carlo_attention`` of logits.

    Args:
        samples: number of masks.

    Raises:
        ValueError: ``samples`` below 1.
    """

    samples: int = 2000

    def __post_init__(self) -> None:
        _check_at_least_1("samples", self.samples)

    @torch.no_grad()
    def average(self, rows: Tensor, drop_ratio: float) -> Tensor:
        """Draw masks, see ``Alignment.average``."""
        total = torch.zeros_like(rows)
        at_once = _CPU_DRAW if rows.device.type == "cpu" else _GPU_DRAW
        most = max(1, at_once // rows.numel())
        for done in range(0, self.samples, most):
            kept = random_key_mask(
                (min(most, self.samples - done), 1, *rows.shape),
                drop_ratio,
                draw_seed(),
                dtype=rows.dtype,
                device=rows.device,
                allowed=rows[None, None],
            )
            total += drop_key_softmax(kept, 0.0).sum((0, 1))
        return total.div_(self.samples)


def _of_weights(align: Alignment, weights: Tensor, drop_ratio: float) -> Tensor:
    if not weights.is_floating_point():
        raise ValueError(f"weights must be floating, got {weights.dtype}")
    check_drop_ratio(drop_ratio)
    if drop_ratio == 0.0:
        return weights
    wide = weights if weights.dtype == torch.float64 else weights.float()
    absent = wide <= 0  # kept out of the logarithm, whose gradient there is no number
    logits = wide.masked_fill(absent, 1.0).log().masked_fill(absent, -torch.inf)
    return align(logits, drop_ratio).to(weights)


def _as_rows(logits: Tensor) -> Tensor:
    """(..., N) to (R, N), in float32 unless that is less."""
    rows = logits.reshape(logits.shape[:-1].numel(), logits.shape[-1]).contiguous()
    return rows if logits.dtype == torch.float64 else rows.float()


def _check_at_least_1(name: str, number: int) -> None:
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")

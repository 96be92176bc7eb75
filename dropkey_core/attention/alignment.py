"""Attention weights in expectation over the random masks: what training saw on average.

A model trained with DropKey and run without it sees other attention weights than it was trained
with: dropping keys before the softmax smooths the weights, on average, and inference does not. The
paper aligns the two by averaging over random masks, or by fine-tuning (arXiv 2208.02646, section
3.2, Table 4). Here is the average over masks, and the expectation itself.

Shapes: (..., N) = rows of N keys; t is the variable of the integral that follows.

**The expectation as an integral.** A row has weights p_j that sum to 1 and keeps key j, d_j = 1,
with probability 1 - r. Since 1 / y is the integral of exp(-y t) over t > 0,

    E[d_j p_j / sum_i d_i p_i]
        = integral over t in (0, inf) of (1 - r) p_j exp(-p_j t) * prod_{i != j} q_i(t) dt,
    q_i(t) = r + (1 - r) exp(-p_i t),

where masks that drop every key count 0. Its sum over j is therefore 1 - r^N, and what the integral
from t on contributes to that sum is Q(t) - r^N with Q(t) = prod_i q_i(t).

**One node per octave.** The trapezoid rule in log t, with nodes a factor 2 apart, has a relative
error below 1e-5 for every key of every row, whatever the weights, r and N: multiplied out, the
integrand is a sum, with positive coefficients, of terms y exp(-y t), one for each set of keys that
may be kept, and in log t each of those is the same bump, only shifted. Its trapezoid sum is off by
at most 2 |Gamma(1 + 2 pi i n / log 2)| for n nodes per octave: 1e-5 for n = 1, 9e-12 for n = 2.
Nodes from 2^k t_0 for k = 0, 1, ... also make 1 - exp(-p t) the result of one product,
1 - exp(-2 y) = b (2 - b) with b = 1 - exp(-y), in place of an exponential.

**Range.** To the left of the first node t_0 the integrand is a power series in t, whose part there
is summed in closed form (``_FIRST_WEIGHTS``). To the right, Q(t) - r^N says when a row is done: flat
rows after about ten octaves, spiky rows later. Stretches of t between one key and the next, where
nothing happens, are skipped. All is computed from logits, so that no weight ever underflows.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dropkey_core.attention.masks import draw_seed, random_key_mask
from dropkey_core.attention.schedule import check_drop_ratio

# Octaves between two looks at which rows are done; powers of two up to here stay finite in float32.
_OCTAVES = 16
# The part of the nodes left of t_0, t_0 / 2, t_0 / 4, ..., of a polynomial c_1 t + c_2 t^2 + c_3 t^3
# equals its values at t_0, 2 t_0 and 4 t_0 times 43 / 21, -13 / 21 and 1 / 21. Here with their own 1.
_FIRST_WEIGHTS = (64 / 21, 8 / 21, 22 / 21)
# Keys with p t above this are used up: exp(-p t) is 0 beside 1.
_USED_UP = 40.0
# An empty stretch is skipped from this length on: left of its end remain 2^-32 of the next keys.
_SKIPPED_OCTAVES = 32
# Numbers worked on at once: few enough for a CPU's cache, many enough for a GPU.
_CPU_CHUNK, _GPU_CHUNK = 2**15, 2**24


def expected_attention(weights: Tensor, drop_ratio: float, nodes: int = 1) -> Tensor:
    """Return the attention weights that DropKey gives on average, instead of ``weights``.

    The expectation, over the masks of training with unit "key", of the weights after dropping
    (Eq. 3-4 say that it is smoother; see ``smoothing_coefficients``). A query that would lose all
    its keys loses none of them, as in training, so all masks count and rows sum to 1. The keys of
    a row are those with a positive weight.

    Differentiable, with memory of the size of ``weights``.

    Args:
        weights: (..., N), floating, >= 0, each row in proportion to its attention weights; 0 = key
            that the query may not attend to. Computed in float32 at least.
        drop_ratio: probability in [0, 1) that a query loses a key.
        nodes: of the integral, per octave; 1 has a relative error of 1e-5 for every key at any
            spikiness, 2 has 1e-11, as far as the type allows.

    Returns:
        (..., N) in the type of ``weights``. Rows sum to 1, rows of zeros stay zeros. With
        ``drop_ratio`` 0 ``weights`` itself.

    Raises:
        ValueError: a ``drop_ratio`` outside [0, 1), ``nodes`` below 1, or integer ``weights``.
    """
    align = Expected(nodes)
    _check_floating("weights", weights)
    check_drop_ratio(drop_ratio)
    return weights if drop_ratio == 0.0 else align(_safe_log(weights), drop_ratio)


def monte_carlo_attention(weights: Tensor, drop_ratio: float, samples: int = 2000) -> Tensor:
    """Return the mean of the attention weights over random masks, instead of ``weights``.

    The paper's way to align training and inference (section 3.2, Table 4), with the masks of
    training with unit "key". ``expected_attention`` is what it converges to, exact and faster. Each
    row gets masks of its own; ``torch.manual_seed`` governs them. Not differentiable.

    Args:
        weights: as for ``expected_attention``.
        drop_ratio: probability in [0, 1) that a query loses a key.
        samples: number of masks; the paper takes 2,000 to 6,000.

    Returns:
        (..., N) in the type of ``weights``. Rows sum to 1, rows of zeros stay zeros. With
        ``drop_ratio`` 0 ``weights`` itself.

    Raises:
        ValueError: a ``drop_ratio`` outside [0, 1), ``samples`` below 1, or integer ``weights``.
    """
    align = MonteCarlo(samples)
    _check_floating("weights", weights)
    check_drop_ratio(drop_ratio)
    return weights if drop_ratio == 0.0 else align(_safe_log(weights), drop_ratio)


def smoothing_coefficients(weights: Tensor, drop_ratio: float, nodes: int = 1) -> Tensor:
    """Return the factors c_j by which DropKey changes attention weights on average (Eq. 3-4).

    E[d_j p_j / sum_i d_i p_i] = c_j p_j, where c_s < c_t whenever p_s > p_t: large weights shrink,
    small ones grow.

    Args:
        weights: as for ``expected_attention``.
        drop_ratio: probability in [0, 1) that a query loses a key.
        nodes: as for ``expected_attention``.

    Returns:
        (..., N) in the type of ``weights``; 0 where the weight is 0 (the limit of c_j p_j there is
        the chance, times 1 - r, that all other keys are dropped, so c_j itself has none).

    Raises:
        ValueError: as ``expected_attention``.
    """
    expected = expected_attention(weights, drop_ratio, nodes)
    share = weights / weights.sum(-1, keepdim=True)
    return torch.where(weights > 0, expected / share, 0.0)


@dataclass(frozen=True)
class Expected:
    """Softmax in expectation over the masks of DropKey, exact: ``expected_attention`` of logits.

    To be given as ``inference`` of an attention that was trained with unit "key".

    Args:
        nodes: of the integral, per octave; see ``expected_attention``.

    Raises:
        ValueError: ``nodes`` below 1.
    """

    nodes: int = 1

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise ValueError(f"nodes must be at least 1, got {self.nodes}")

    def __call__(self, logits: Tensor, drop_ratio: float) -> Tensor:
        """Return the expected weights.

        Args:
            logits: (..., N), floating; -inf = key that the query may not attend to.
            drop_ratio: probability in [0, 1) that a query loses a key.

        Returns:
            (..., N) in the type of ``logits``. Rows sum to 1, rows of nothing but -inf give 0. With
            ``drop_ratio`` 0 the softmax.

        Raises:
            ValueError: a ``drop_ratio`` outside [0, 1), or integer ``logits``.
        """
        _check_floating("logits", logits)
        check_drop_ratio(drop_ratio)
        if drop_ratio == 0.0:
            return _softmax(logits)
        rows = logits.flatten(0, -2) if logits.dim() > 1 else logits[None]
        rows = rows if logits.dtype == torch.float64 else rows.float()
        return _expected_softmax(rows, drop_ratio, self.nodes).view(logits.shape).to(logits.dtype)


@dataclass(frozen=True)
class MonteCarlo:
    """Softmax averaged over random masks of DropKey: ``monte_carlo_attention`` of logits.

    To be given as ``inference`` of an attention that was trained with unit "key".

    Args:
        samples: number of masks.

    Raises:
        ValueError: ``samples`` below 1.
    """

    samples: int = 2000

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")

    @torch.no_grad()
    def __call__(self, logits: Tensor, drop_ratio: float) -> Tensor:
        """Return the mean weights.

        Args:
            logits: (..., N), floating; -inf = key that the query may not attend to.
            drop_ratio: probability in [0, 1) that a query loses a key.

        Returns:
            (..., N) in the type of ``logits``. Rows sum to 1, rows of nothing but -inf give 0. With
            ``drop_ratio`` 0 the softmax.

        Raises:
            ValueError: a ``drop_ratio`` outside [0, 1), or integer ``logits``.
        """
        _check_floating("logits", logits)
        check_drop_ratio(drop_ratio)
        if drop_ratio == 0.0:
            return _softmax(logits)
        rows = logits.reshape(1, 1, -1, logits.shape[-1])
        rows = rows if logits.dtype == torch.float64 else rows.float()
        mean = torch.zeros_like(rows)
        at_once = max(1, _chunk_size(rows) // max(1, rows.numel()))
        for done in range(0, self.samples, at_once):
            shape = (min(at_once, self.samples - done), 1, *rows.shape[2:])
            kept = random_key_mask(
                shape, drop_ratio, draw_seed(), dtype=rows.dtype, device=rows.device, allowed=rows
            )
            mean += _softmax(kept).sum(0) / self.samples
        return mean.view(logits.shape).to(logits.dtype)


@torch.library.custom_op("dropkey::expected_softmax", mutates_args=())
def _expected_softmax(logits: Tensor, drop_ratio: float, nodes: int) -> Tensor:
    """``Expected`` for (R, N) in float32 or float64; an operator, so that torch.compile keeps it."""
    expected = torch.empty_like(logits)
    for out, chunk in zip(_row_chunks(expected), _row_chunks(logits), strict=True):
        none_left = _chance_of_none_left(chunk, drop_ratio)
        out.copy_(_integral(chunk, drop_ratio, nodes))
        # Takes out what is left of the error, nearly all of which the keys of a row share.
        out.mul_((1.0 - none_left) / _not_zero(out.sum(-1, keepdim=True)))
        out.addcmul_(none_left, _softmax(chunk))
    return expected


@torch.library.custom_op("dropkey::expected_softmax_backward", mutates_args=())
def _expected_softmax_backward(
    grad: Tensor, logits: Tensor, expected: Tensor, drop_ratio: float, nodes: int
) -> Tensor:
    """Gradient of ``_expected_softmax`` by its logits, from that by its result."""
    grad_logits = torch.empty_like(logits)
    inputs = (grad_logits, grad, logits, expected)
    for out, g, chunk, e in zip(*map(_row_chunks, inputs), strict=True):
        none_left = _chance_of_none_left(chunk, drop_ratio)
        weights = _softmax(chunk)
        integral = e - none_left * weights  # sums to 1 - none_left
        mean = (g * integral).sum(-1, keepdim=True) / _not_zero(1.0 - none_left)
        out.copy_(_integral_backward(g - mean, integral, chunk, drop_ratio, nodes))
        out.addcmul_(none_left * weights, g - (g * weights).sum(-1, keepdim=True))
    return grad_logits


def _save_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    logits, ctx.drop_ratio, ctx.nodes = inputs
    ctx.save_for_backward(logits, output)


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    grad_logits = _expected_softmax_backward(grad, *ctx.saved_tensors, ctx.drop_ratio, ctx.nodes)
    return grad_logits, None, None


_expected_softmax.register_fake(lambda logits, drop_ratio, nodes: torch.empty_like(logits))
_expected_softmax_backward.register_fake(
    lambda grad, logits, expected, drop_ratio, nodes: torch.empty_like(logits)
)
_expected_softmax.register_autograd(_backward, setup_context=_save_for_backward)


def _integral(logits: Tensor, drop_ratio: float, nodes: int) -> Tensor:
    """E[d_j p_j / sum_i d_i p_i], where masks that drop every key count 0; (R, N)."""
    integral = torch.zeros_like(logits)
    for rows, stretch in _stretches(logits, drop_ratio, nodes):
        total = torch.zeros_like(stretch.y)
        for node in stretch.nodes():
            total.addcmul_(node.ratio, node.share)
        integral.index_add_(
            0, rows, total.mul_(stretch.y), alpha=(1.0 - drop_ratio) * math.log(2.0) / nodes
        )
    return integral


def _integral_backward(
    grad: Tensor, integral: Tensor, logits: Tensor, drop_ratio: float, nodes: int
) -> Tensor:
    """Gradient of ``_integral`` by the logits, from that by its result; (R, N).

    At one node let G_j be the integrand over Q, (1 - r) y_j exp(-y_j) / q_j with y_j = p_j t. Then
    the derivative of Q G_j by logit i is Q (G_j (1 - r y_j / q_j) [i = j] - G_i G_j).
    """
    result = grad * integral
    keep = 1.0 - drop_ratio
    for rows, stretch in _stretches(logits, drop_ratio, nodes):
        grad_y = grad[rows] * stretch.y
        first, second = torch.zeros_like(stretch.y), torch.zeros_like(stretch.y)
        for node in stretch.nodes():
            mean = (node.ratio * grad_y).sum(-1, keepdim=True) * (keep * node.scale)
            first.addcmul_(node.ratio, node.share * mean)
            second.addcmul_(node.ratio.div_(node.q), node.share * node.scale)
        total = first.mul_(stretch.y).addcmul_(second.mul_(stretch.y), grad_y, value=drop_ratio)
        result.index_add_(0, rows, total, alpha=-keep * math.log(2.0) / nodes)
    return result


@dataclass
class _Node:
    """One t of the integral: ``scale`` times the first t of its stretch.

    Args:
        scale: a power of 2.
        share: (R, 1), Q(t) * scale * (weight of the node).
        q: (R, N), r + (1 - r) exp(-p t).
        ratio: (R, N), exp(-p t) / q; may be overwritten.
    """

    scale: float
    share: Tensor
    q: Tensor
    ratio: Tensor


class _Stretch:
    """At most ``_OCTAVES`` neighbouring nodes of the integral, a factor 2 apart.

    Args:
        y: (R, N), p t at the first node.
        first_weights: (R, 3), weights of the first three nodes; those of the others are 1.
        none_left: (R, 1), r^N.
        drop_ratio: r, in (0, 1).
        tolerance: part of a row's sum that may be missed.

    Attributes:
        remainder: (R, 1), the part that is right of the node visited last.
    """

    def __init__(
        self,
        y: Tensor,
        first_weights: Tensor,
        none_left: Tensor,
        drop_ratio: float,
        tolerance: float,
    ) -> None:
        self.y = y
        self.remainder = 1.0 - none_left
        self._first_weights = first_weights
        self._none_left = none_left
        self._keep = 1.0 - drop_ratio
        self._tolerance = tolerance

    def nodes(self) -> Iterator[_Node]:
        """Go from node to node until no row has anything left, or the stretch ends."""
        one = self.y.new_ones(())
        b = self.y.neg().expm1_().neg_()  # 1 - exp(-p t), to the last digit where it is tiny
        q, ratio = torch.empty_like(b), torch.empty_like(b)
        for octave in range(_OCTAVES):
            torch.mul(b, -self._keep, out=q)
            survival = torch.log1p(q, out=ratio).sum(-1, keepdim=True).exp_()  # Q(t)
            q.add_(1.0)
            torch.sub(one, b, out=ratio).div_(q)
            scale = 2.0**octave
            share = survival * scale
            if octave < len(_FIRST_WEIGHTS):
                share *= self._first_weights[:, octave, None]
            yield _Node(scale, share, q, ratio)
            self.remainder = survival - self._none_left
            if not (self.remainder > self._tolerance).any():
                return
            b.lerp_(one, b)  # b + b (1 - b)


def _stretches(logits: Tensor, drop_ratio: float, nodes: int) -> Iterator[tuple[Tensor, _Stretch]]:
    """Cover the integral by stretches, whose nodes must all be visited.

    Yields:
        the indices of the rows that a stretch is for, (R',), and the stretch.
    """
    tolerance = max(_relative_error(nodes), torch.finfo(logits.dtype).eps)
    log_t0 = math.log(tolerance) / 4  # what is left of t0 is summed up to its third power
    for phase in range(nodes):
        first = log_t0 + phase / nodes * math.log(2.0)
        yield from _octaves(logits, drop_ratio, first, tolerance)


def _octaves(
    logits: Tensor, drop_ratio: float, log_t0: float, tolerance: float
) -> Iterator[tuple[Tensor, _Stretch]]:
    """Cover the integral by stretches with one node per octave, the first of them at t0.

    Here t is in units of 1 / sum_i exp(logit_i), so that only logits are needed.
    """
    rows = torch.arange(len(logits), device=logits.device)
    none_left = _chance_of_none_left(logits, drop_ratio)
    fresh = logits.new_tensor(_FIRST_WEIGHTS)
    end = logits.new_full((len(logits), 1), -torch.inf)  # log t where the next stretch begins
    while len(rows):
        pending = logits.masked_fill(logits + end > math.log(_USED_UP), -torch.inf)
        after_gap = log_t0 - pending.logsumexp(-1, keepdim=True)
        is_fresh = after_gap - end > _SKIPPED_OCTAVES * math.log(2.0)
        start = torch.where(is_fresh, after_gap, end).clamp_(max=torch.finfo(end.dtype).max)
        stretch = _Stretch(
            _exp(logits + start),
            torch.where(is_fresh, fresh, 1.0),
            none_left,
            drop_ratio,
            tolerance,
        )
        yield rows, stretch
        end = start + _OCTAVES * math.log(2.0)
        alive = ((stretch.remainder > tolerance) & (after_gap < torch.inf)).squeeze(-1)
        rows, logits, none_left, end = (x[alive] for x in (rows, logits, none_left, end))


def _relative_error(nodes: int) -> float:
    """Bound on the relative error of the trapezoid rule: 2 |Gamma(1 + 2 pi i nodes / log 2)|."""
    y = 2.0 * math.pi**2 * nodes / math.log(2.0)  # |Gamma(1 + i x)|^2 = pi x / sinh(pi x)
    return 2.0 * math.sqrt(2.0 * y) * math.exp(-y / 2.0)


def _exp(logits: Tensor) -> Tensor:
    """exp, in place, without what would overflow, or slow a CPU down by being denormal."""
    return F.threshold_(logits.clamp_(max=math.log(_USED_UP) + 1.0).exp_(), 1e-30, 0.0)


def _softmax(logits: Tensor) -> Tensor:
    """Softmax whose rows of nothing but -inf are 0."""
    bare = logits.amax(-1, keepdim=True) == -torch.inf
    return logits.masked_fill(bare, 0.0).softmax(-1).masked_fill(bare, 0.0)


def _chance_of_none_left(logits: Tensor, drop_ratio: float) -> Tensor:
    """r^N for the N keys that a row may attend to; (R, 1)."""
    num_keys = (logits > -torch.inf).sum(-1, keepdim=True)
    return torch.pow(drop_ratio, num_keys.to(logits.dtype))


def _safe_log(weights: Tensor) -> Tensor:
    """Logits of weights; 0 becomes -inf, with a gradient of 0."""
    weights = weights if weights.dtype == torch.float64 else weights.float()
    absent = weights <= 0
    return weights.masked_fill(absent, 1.0).log().masked_fill(absent, -torch.inf)


def _not_zero(x: Tensor) -> Tensor:
    return x.clamp_min(torch.finfo(x.dtype).tiny)


def _row_chunks(rows: Tensor) -> tuple[Tensor, ...]:
    return rows.split(max(1, _chunk_size(rows) // max(1, rows.shape[-1])))


def _chunk_size(rows: Tensor) -> int:
    return _CPU_CHUNK * torch.get_num_threads() if rows.device.type == "cpu" else _GPU_CHUNK


def _check_floating(name: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating, got {tensor.dtype}")

"""Expected softmax under random key masks, exactly, by numerical quadrature.

Shapes: (R, N) = rows (queries) and their keys.

**The integral.** A row has weights p_j that sum to 1 and keeps key j, d_j = 1, with probability
1 - r. Since 1 / y is the integral of exp(-y t) over t > 0,

    E[d_j p_j / sum_i d_i p_i]
        = integral over t in (0, inf) of (1 - r) p_j exp(-p_j t) * prod_{i != j} q_i(t) dt,
    q_i(t) = r + (1 - r) exp(-p_i t),

where a mask that drops every key counts 0. Over all keys that sums to 1 - r^N, of which the part
from t on is Q(t) - r^N with Q(t) = prod_i q_i(t).

**One node per octave.** The trapezoid rule in log t, with nodes a factor 2 apart, has a relative
error of at most 1e-5, for every key of every row, whatever r and N. For, multiplied out, the
integrand is a sum of terms exp(-P t) with positive coefficients, one for each set of keys that may
be kept and its weight P; in log t each of them is the same bump P t exp(-P t), only shifted; and
the trapezoid sum over that bump is off by at most 2 |Gamma(1 + 2 pi i n / log 2)| with n nodes per
octave, which is 1e-5 for n = 1 and 9e-12 for n = 2. More nodes are laid as several such rows of
octaves, shifted. Doubling t also takes one product, 1 - exp(-2 y) = b (2 - b) with
b = 1 - exp(-y), in place of an exponential.

**Range.** Left of its first node the integrand is a power series in t, of which the first three
terms are summed in closed form. On the right a row ends where Q(t) - r^N does: flat rows after ten
octaves, spiky rows later. Where one key is used up long before the next one counts, the octaves
between are skipped. Both ends cost less than another 1e-5. All keys of a row have their nodes in
common, so that what a row lacks of the sum 1 - r^N is shared out in proportion.

**No underflow.** From the second stretch of octaves on, p t comes from the logits, so that weights
may be as small as logits are far apart.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dropkey_core.attention.functional import drop_key_softmax

# Octaves between two looks at which rows are done. 2^16 squared stays finite in float32.
_OCTAVES = 16
# To the nodes t0, 2 t0, 4 t0 add those at t0 / 2, t0 / 4, ...: for c1 t + c2 t^2 + c3 t^3 these sum
# to its values at the three, times 43 / 21, -13 / 21 and 1 / 21.
_FIRST_WEIGHTS = (64 / 21, 8 / 21, 22 / 21)
# A key is used up where p t is above this: exp(-p t) is 0 beside 1.
_USED_UP = 40.0
# Octaves worth skipping: left of their end is 2^-32 of what the next keys have.
_SKIPPED_OCTAVES = 32
# How often a row is halved by multiplying its factors in pairs before the logarithm, which costs as
# much as eight products. A product of all of them would gather their rounding.
_FOLDS = 3
# Numbers worked on at once: few enough for a CPU's cache, many enough for a GPU.
_CPU_CHUNK, _GPU_CHUNK = 2**18, 2**24


def expected_softmax(logits: Tensor, drop_ratio: float, nodes: int) -> Tensor:
    """Return the expectation of the softmax over keys that are dropped at random.

    A row that would lose all its keys loses none of them. An operator of torch, so that compiled
    and exported models keep it as it is. Differentiable once, in reverse or forward mode.

    Args:
        logits: (R, N), contiguous, float32 or float64; -inf = key that the row does not have.
        drop_ratio: in (0, 1).
        nodes: per octave, at least 1.

    Returns:
        (R, N) in the type of ``logits``; rows sum to 1, rows without keys are 0.
    """
    if torch.compiler.is_compiling():
        return _expected_softmax(logits, drop_ratio, nodes)
    return _DifferentiableSoftmax.apply(logits, drop_ratio, nodes)


@torch.library.custom_op("dropkey::expected_softmax", mutates_args=())
def _expected_softmax(logits: Tensor, drop_ratio: float, nodes: int) -> Tensor:
    """``expected_softmax``."""
    expected = torch.empty_like(logits)
    for out, chunk in zip(_row_chunks(expected), _row_chunks(logits), strict=True):
        rows = _Rows.of(chunk, drop_ratio)
        integral = _integral(rows, drop_ratio, nodes)
        # Takes out what is left of the error, nearly all of which the keys of a row share.
        integral.mul_((1.0 - rows.none_left) / _not_zero(integral.sum(-1, keepdim=True)))
        torch.addcmul(integral, rows.none_left, rows.weights, out=out)
    return expected


@torch.library.custom_op("dropkey::expected_softmax_backward", mutates_args=())
def _expected_softmax_backward(
    grad: Tensor, logits: Tensor, expected: Tensor, drop_ratio: float, nodes: int
) -> Tensor:
    """Gradient of ``_expected_softmax`` by its logits, from that by its result."""
    grad_logits = torch.empty_like(logits)
    inputs = (grad_logits, grad, logits, expected)
    for out, g, chunk, e in zip(*map(_row_chunks, inputs), strict=True):
        rows = _Rows.of(chunk, drop_ratio)
        from_all = rows.none_left * rows.weights
        integral = e - from_all  # sums to 1 - none_left
        mean = (g * integral).sum(-1, keepdim=True) / _not_zero(1.0 - rows.none_left)
        out.copy_(_integral_backward(g - mean, integral, rows, drop_ratio, nodes))
        out.addcmul_(from_all, g - (g * rows.weights).sum(-1, keepdim=True))
    return grad_logits


def _save_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    logits, ctx.drop_ratio, ctx.nodes = inputs
    ctx.save_for_backward(logits, output)


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    grad_logits = _expected_softmax_backward(grad, *ctx.saved_tensors, ctx.drop_ratio, ctx.nodes)
    return grad_logits, None, None


class _DifferentiableSoftmax(torch.autograd.Function):
    """``_expected_softmax`` for torch.func and forward mode, of which operators know nothing."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, drop_ratio: float, nodes: int) -> Tensor:
        return _expected_softmax(logits, drop_ratio, nodes)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        _save_for_backward(ctx, inputs, output)
        ctx.save_for_forward(inputs[0], output)

    backward = staticmethod(_backward)

    @staticmethod
    def jvp(ctx, tangent, *_):  # type: ignore[no-untyped-def]
        # It is the gradient of E[log sum_i d_i exp(logit_i)], so that its own derivative is
        # symmetric, and forward mode multiplies with what the backward pass does.
        return _backward(ctx, tangent.contiguous())[0]


_expected_softmax.register_fake(lambda logits, drop_ratio, nodes: torch.empty_like(logits))
_expected_softmax_backward.register_fake(
    lambda grad, logits, expected, drop_ratio, nodes: torch.empty_like(logits)
)
_expected_softmax.register_autograd(_backward, setup_context=_save_for_backward)


@dataclass
class _Rows:
    """Rows of attention, of which the integral is wanted.

    Args:
        logits: (R, N).
        weights: (R, N), their softmax.
        none_left: (R, 1), the chance r^N that all the N keys of a row are dropped.
    """

    logits: Tensor
    weights: Tensor
    none_left: Tensor

    @classmethod
    def of(cls, logits: Tensor, drop_ratio: float) -> "_Rows":
        """Return the rows with these ``logits``."""
        num_keys = (logits > -torch.inf).sum(-1, keepdim=True).to(logits.dtype)
        return cls(logits, drop_key_softmax(logits, 0.0), torch.pow(drop_ratio, num_keys))


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
        self._drop_ratio = max(drop_ratio, torch.finfo(y.dtype).tiny)  # q is a divisor
        self._tolerance = tolerance

    def nodes(self) -> Iterator[_Node]:
        """Go from node to node until no row has anything left, or the stretch ends."""
        r, one = self._drop_ratio, self.y.new_ones(())
        b = self.y.neg().expm1_().neg_()  # 1 - exp(-p t), to the last digit where it is tiny
        q, ratio = torch.empty_like(b), torch.empty_like(b)
        for octave in range(_OCTAVES):
            survival = _product_of_complements(torch.mul(b, 1.0 - r, out=ratio))  # Q(t)
            torch.sub(one, b, out=ratio)  # exp(-p t)
            ratio.div_(torch.lerp(ratio, one, r, out=q))
            scale = 2.0**octave
            share = survival * scale
            if octave < len(_FIRST_WEIGHTS):
                share *= self._first_weights[:, octave, None]
            yield _Node(scale, share, q, ratio)
            self.remainder = survival - self._none_left
            if not (self.remainder > self._tolerance).any():
                return
            b.lerp_(one, b)  # b + b (1 - b)


def _product_of_complements(x: Tensor) -> Tensor:
    """Product of 1 - x over the last axis, kept; overwrites ``x`` (R, N)."""
    one, n = x.new_ones(()), x.shape[-1]
    for _ in range(_FOLDS):
        half = n // 2
        head = x[:, :half]
        head.lerp_(one, x[:, n - half : n])  # 1 - (1 - a) (1 - b) = a + b (1 - a)
        n -= half
    return x[:, :n].neg_().log1p_().sum(-1, keepdim=True).exp_()


def _integral(rows: _Rows, drop_ratio: float, nodes: int) -> Tensor:
    """E[d_j p_j / sum_i d_i p_i], where masks that drop every key count 0; (R, N)."""
    integral = torch.zeros_like(rows.weights)
    for indices, stretch in _stretches(rows, drop_ratio, nodes):
        total = torch.zeros_like(stretch.y)
        for node in stretch.nodes():
            total.addcmul_(node.ratio, node.share)
        integral.index_add_(
            0, indices, total.mul_(stretch.y), alpha=(1.0 - drop_ratio) * math.log(2.0) / nodes
        )
    return integral


def _integral_backward(
    grad: Tensor, integral: Tensor, rows: _Rows, drop_ratio: float, nodes: int
) -> Tensor:
    """Gradient of ``_integral`` by the logits, from that by its result; (R, N).

    At one node let G_j be the integrand over Q, (1 - r) y_j exp(-y_j) / q_j with y_j = p_j t. Then
    the derivative of Q G_j by logit i is Q (G_j (1 - r y_j / q_j) [i = j] - G_i G_j).
    """
    result = grad * integral
    keep = 1.0 - drop_ratio
    for indices, stretch in _stretches(rows, drop_ratio, nodes):
        grad_y = grad[indices] * stretch.y
        first, second = torch.zeros_like(stretch.y), torch.zeros_like(stretch.y)
        for node in stretch.nodes():
            mean = (node.ratio * grad_y).sum(-1, keepdim=True) * (keep * node.scale)
            first.addcmul_(node.ratio, node.share * mean)
            second.addcmul_(node.ratio.div_(node.q), node.share * node.scale)
        total = first.mul_(stretch.y).addcmul_(second.mul_(stretch.y), grad_y, value=drop_ratio)
        result.index_add_(0, indices, total, alpha=-keep * math.log(2.0) / nodes)
    return result


def _stretches(rows: _Rows, drop_ratio: float, nodes: int) -> Iterator[tuple[Tensor, _Stretch]]:
    """Cover the integral by stretches, whose nodes must all be visited.

    Yields:
        the indices of the rows that a stretch is for, (R',), and the stretch.
    """
    tolerance = max(_relative_error(nodes), torch.finfo(rows.weights.dtype).eps)
    log_t0 = math.log(tolerance) / 4  # what is left of t0 is summed up to its third power
    for phase in range(nodes):
        first = log_t0 + phase / nodes * math.log(2.0)
        yield from _octaves(rows, drop_ratio, first, tolerance)


def _octaves(
    rows: _Rows, drop_ratio: float, log_t0: float, tolerance: float
) -> Iterator[tuple[Tensor, _Stretch]]:
    """Cover the integral by stretches with one node per octave, the first of them at t0."""
    indices = torch.arange(len(rows.weights), device=rows.weights.device)
    none_left = rows.none_left
    extended = rows.weights.new_tensor([_FIRST_WEIGHTS])
    first_weights, y = extended, _without_denormals(rows.weights * math.exp(log_t0))
    log_total = rows.logits.amax(-1, keepdim=True) - rows.weights.amax(-1, keepdim=True).log()
    log_y = rows.logits - log_total + log_t0
    while True:
        stretch = _Stretch(y, first_weights, none_left, drop_ratio, tolerance)
        yield indices, stretch
        is_open = (stretch.remainder > tolerance).squeeze(-1)
        if not is_open.any():
            return
        indices, none_left, log_y = indices[is_open], none_left[is_open], log_y[is_open]
        log_y += _OCTAVES * math.log(2.0)
        pending = log_y.masked_fill(log_y > math.log(_USED_UP), -torch.inf)
        highest = pending.amax(-1, keepdim=True)
        # Rounding may leave a remainder where no key is left; that row ends with its next node.
        none_left = none_left.masked_fill(highest == -torch.inf, torch.inf)
        log_sum = pending.sub_(highest).logsumexp(-1, keepdim=True)
        skips = log_t0 - log_sum - highest > _SKIPPED_OCTAVES * math.log(2.0)
        # In two steps, because a mask of huge negative logits would swallow the smaller one.
        log_y -= torch.where(skips, highest, 0.0)
        log_y += torch.where(skips, log_t0 - log_sum, 0.0)
        first_weights = torch.where(skips, extended, 1.0)
        y = _exp(log_y)


def _relative_error(nodes: int) -> float:
    """Bound on the relative error of the trapezoid rule: 2 |Gamma(1 + 2 pi i nodes / log 2)|."""
    y = 2.0 * math.pi**2 * nodes / math.log(2.0)  # |Gamma(1 + i x)|^2 = pi x / sinh(pi x)
    return 2.0 * math.sqrt(2.0 * y) * math.exp(-y / 2.0)


def _exp(logits: Tensor) -> Tensor:
    """exp without what would overflow or is denormal."""
    return _without_denormals(logits.clamp(max=math.log(_USED_UP) + 1.0).exp_())


def _without_denormals(y: Tensor) -> Tensor:
    """Round what would slow a CPU down to 0, in place."""
    return torch.threshold_(y, 1e-30, 0.0)


def _not_zero(x: Tensor) -> Tensor:
    return x.clamp_min(torch.finfo(x.dtype).tiny)


def _row_chunks(rows: Tensor) -> tuple[Tensor, ...]:
    return rows.split(max(1, _chunk_size(rows) // max(1, rows.shape[-1])))


def _chunk_size(rows: Tensor) -> int:
    return _CPU_CHUNK if rows.device.type == "cpu" else _GPU_CHUNK

"""DropKey attention as functions: scaled dot product, and the softmax alone.

Shapes: (B, H, L, D) = batch, heads, tokens, head_dim; Lq, Lk = queries, keys.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from dropkey_core.attention.flex import (
    HashedKey,
    TooManyKernels,
    flex_drop_key_attention,
    flex_fits,
)
from dropkey_core.attention.masks import (
    add_causal,
    additive_mask,
    draw_seed,
    mask_far,
    split_causal,
)
from dropkey_core.attention.patterns import Key, MaskDraw, Pattern
from dropkey_core.attention.places import DROPOUT, BeforeSoftmax, Unit, find_unit
from dropkey_core.attention.recomputed import recomputed_attention, recomputing_pays
from dropkey_core.attention.schedule import check_drop_ratio

# How attention is computed when nothing is dropped any more: (logits, drop_ratio) -> weights.
Inference = Callable[[Tensor, float], Tensor]


@overload
def drop_key_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    drop_ratio: float,
    *,
    unit: str | Pattern | Unit = ...,
    attn_mask: Tensor | None = ...,
    key_padding_mask: Tensor | None = ...,
    is_causal: bool = ...,
    enable_gqa: bool = ...,
    scale: float | None = ...,
    training: bool = ...,
    need_weights: Literal[False] = ...,
    inference: Inference | None = ...,
) -> Tensor: ...


@overload
def drop_key_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    drop_ratio: float,
    *,
    unit: str | Pattern | Unit = ...,
    attn_mask: Tensor | None = ...,
    key_padding_mask: Tensor | None = ...,
    is_causal: bool = ...,
    enable_gqa: bool = ...,
    scale: float | None = ...,
    training: bool = ...,
    need_weights: Literal[True],
    inference: Inference | None = ...,
) -> tuple[Tensor, Tensor]: ...


def drop_key_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    drop_ratio: float,
    *,
    unit: str | Pattern | Unit = "key",
    attn_mask: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    is_causal: bool = False,
    enable_gqa: bool = False,
    scale: float | None = None,
    training: bool = True,
    need_weights: bool = False,
    inference: Inference | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention in which each query of each head loses random keys, or weights.

    With unit "key" this is DropKey (arXiv 2208.02646, Algorithm 1, Eq. 12-14): a dropped key gets
    -inf *before* the softmax, so that the weights of a query still sum to 1. The other units are
    what it is compared with:

    | unit        |                                                                       |
    |-------------|-----------------------------------------------------------------------|
    | `"key"`     | DropKey                                                               |
    | `"weight"`  | vanilla dropout: a dropped weight gets 0 *after* the softmax, and the |
    |             | others grow by 1 / (1 - ``drop_ratio``)                               |
    | `"element"` | DropAttention(e): the others share what the dropped weights had       |
    | `"column"`  | DropAttention(c): the same, for all queries of a head alike           |

    These names are short for two choices. *What falls together* is a pattern: ``Key()``,
    ``Key(shared_over=...)``, ``Window(length)``, ``Block(size)``, ``Cross(size)``. *Where it acts*
    is a place: ``BeforeSoftmax(pattern)``, ``AfterSoftmax(pattern)``, ``Renormalised(pattern)``;
    see ``places.py`` for which of them is which method. A pattern alone acts before the softmax.

    Without dropping (``drop_ratio`` 0 or not ``training``) it is
    ``torch.nn.functional.scaled_dot_product_attention`` and nothing else, unless ``inference`` says
    otherwise. All randomness follows from torch's default generator: the same
    ``torch.manual_seed``, the same mask, with ``need_weights`` or without.

    A query that would lose all the keys it may attend to loses none of them this time. A query that
    may attend to none in the first place gets zeros, and zero gradients. Neither is ever nan. While
    keys are dropped, those that a mask lowers by 64 or more below the highest of their row (-1e9,
    the lowest of the type) count as masked, as with -inf.

    Args:
        query: (B, H, Lq, D), floating.
        key: (B, H, Lk, D).
        value: (B, H, Lk, Dv).
        drop_ratio: probability in [0, 1) that a query loses a key (or weight).
        unit: what is dropped: a name of the table, a pattern, or a place with a pattern.
        attn_mask: (Lq, Lk) or (B, H, Lq, Lk), where axes of length 1 broadcast; as in
            ``scaled_dot_product_attention`` bool, True = may attend, or floating, added to the
            logits, or a ``torch.nn.attention.bias.CausalBias``.
        key_padding_mask: (B, Lk); bool, True = ignore this key, or floating, added to the logits.
        is_causal: query i may attend to the keys 0 ... i only, whatever Lq and Lk; without an
            ``attn_mask``, as in ``scaled_dot_product_attention``. Fused on a CPU or an NVIDIA GPU
            it takes no (Lq, Lk) mask.
        enable_gqa: ``key`` and ``value`` may have fewer heads, a divisor of H; each serves as many
            successive heads of ``query``, each of which loses keys of its own.
        scale: factor on the dot products; default 1 / sqrt(D).
        training: whether to drop anything.
        need_weights: return the weights too. They are then computed explicitly, at several times
            the time and memory of the fused path.
        inference: what takes the place of the softmax when not ``training``, so that attention is
            what it was on average while training (section 3.2): an ``alignment.Expected`` or
            ``alignment.MonteCarlo``. None: the plain softmax. Weights are then explicit, too.

    Returns:
        the output (B, H, Lq, Dv); with ``need_weights`` also the weights (B, H, Lq, Lk) that made
        it, after dropping.

    Raises:
        ValueError: a ``drop_ratio`` outside [0, 1), an unknown ``unit``, a mask of the wrong type,
            ``attn_mask`` with ``is_causal``, a number of heads that does not fit, nested tensors,
            ``inference`` for a unit other than keys.
    """
    check_drop_ratio(drop_ratio)
    unit = find_unit(unit)
    query, key, value = _autocast(query, key, value)
    _check_tensors(query, key, value, enable_gqa)
    attn_mask, diagonal = split_causal(attn_mask, is_causal, query.shape[-2], key.shape[-2])
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    inputs = _Inputs(query, key, value, attn_mask, key_padding_mask, diagonal, enable_gqa, scale)

    ratio = drop_ratio if training else 0.0
    if ratio > 0.0 and isinstance(unit, BeforeSoftmax):
        return _attend_to_kept_keys(inputs, unit, ratio, need_weights)
    is_aligned = inference is not None and not training and drop_ratio > 0.0
    is_fused = isinstance(unit, BeforeSoftmax) or unit == DROPOUT or ratio == 0.0
    if need_weights or is_aligned or not is_fused:
        softmax = partial(drop_key_softmax, unit=unit, training=training, inference=inference)
        output, weights = inputs.attend_explicitly(partial(softmax, drop_ratio=drop_ratio))
        return (output, weights) if need_weights else output
    return inputs.attend(dropout=ratio)


def drop_key_softmax(
    logits: Tensor,
    drop_ratio: float,
    *,
    unit: str | Pattern | Unit = "key",
    training: bool = True,
    inference: Inference | None = None,
) -> Tensor:
    """Softmax over the keys in which each query of each head loses some of them.

    ``drop_key_attention`` without its products with queries, keys and values, for code that
    computes attention explicitly; the paper's Algorithm 1 has it between those two products.

    Args:
        logits: (B, H, Lq, Lk), or any shape that ends in (Lq, Lk); scaled and masked already,
            -inf = may not attend; while keys are dropped, so are those that are 64 or more below
            the largest of their row, as a mask of -1e9 makes them.
        drop_ratio: as in ``drop_key_attention``, like all that follow.
        unit: what is dropped.
        training: whether to drop anything.
        inference: what takes the place of the softmax when not ``training``.

    Returns:
        the weights, of the shape and type of ``logits``. A query that may attend to nothing gets
        zeros.

    Raises:
        ValueError: as ``drop_key_attention``.
    """
    check_drop_ratio(drop_ratio)
    unit = find_unit(unit)
    check_logits(logits)
    if drop_ratio == 0.0 or (not training and inference is None):
        return _softmax(logits)
    logits = mask_far(logits)
    if not training and inference is not None:
        return _align(logits, drop_ratio, unit, inference)
    if isinstance(unit, BeforeSoftmax):
        return _softmax_over_kept_keys(logits, drop_ratio, unit, draw_seed(logits.device))
    return unit.drop(_softmax(logits), drop_ratio)


def check_logits(logits: Tensor) -> None:
    """Raise a ``ValueError`` unless these are floating logits of a plain tensor."""
    if logits.is_nested:
        raise ValueError("logits must not be a nested tensor: pad them, with -inf for padding")
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating, got {logits.dtype}")


@dataclass
class _Inputs:
    """What attends to what: the arguments of ``drop_key_attention`` that say it.

    Attributes:
        diagonal: query i may attend to the keys 0 ... i + diagonal only. None: to all.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    attn_mask: Tensor | None
    key_padding_mask: Tensor | None
    diagonal: int | None
    enable_gqa: bool
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the logits, (B, H, Lq, Lk)."""
        return *self.query.shape[:-1], self.key.shape[-2]

    def mask(self) -> Tensor | None:
        """Return the additive mask that broadcasts to ``shape``, but for the diagonal."""
        return additive_mask(self.attn_mask, self.key_padding_mask, self.query.dtype)

    def with_diagonal(self, mask: Tensor | None) -> Tensor | None:
        """Return an additive mask with the diagonal in it; None if nothing is masked."""
        return add_causal(mask, self.diagonal, (self.shape[-2], self.shape[-1]), like=self.query)

    def attend(self, dropout: float = 0.0) -> Tensor:
        """Attend by torch's fused kernels."""
        mask = self.mask()
        if mask is None and self.diagonal == 0:
            return self.attend_under(None, dropout, is_causal=True)
        return self.attend_under(self.with_diagonal(mask), dropout)

    def attend_under(
        self, mask: Tensor | None, dropout: float = 0.0, is_causal: bool = False
    ) -> Tensor:
        """Attend by torch's fused kernels under a mask in place of those given."""
        return F.scaled_dot_product_attention(
            self.query,
            self.key,
            self.value,
            mask,
            dropout,
            is_causal,
            scale=self.scale,
            enable_gqa=self.enable_gqa,
        )

    def attend_explicitly(self, softmax: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Return the output, and the weights that ``softmax`` makes of the masked logits."""
        logits = _per_group(self.query * self.scale, self.key.transpose(-2, -1))
        mask = self.with_diagonal(self.mask())
        weights = softmax(logits if mask is None else logits + mask)
        return _per_group(weights, self.value.to(weights.dtype)), weights


def _attend_to_kept_keys(
    inputs: _Inputs, unit: BeforeSoftmax, drop_ratio: float, need_weights: bool
) -> Tensor | tuple[Tensor, Tensor]:
    """DropKey, by the leanest of the ways that the inputs fit."""
    query, key, value = inputs.query, inputs.key, inputs.value
    given = (inputs.attn_mask, inputs.key_padding_mask)
    inputs.attn_mask, inputs.key_padding_mask = map(_masking_fully, given)
    masks: dict[str, Any] = {
        "attn_mask": inputs.attn_mask,
        "key_padding_mask": inputs.key_padding_mask,
    }
    seed = draw_seed(query.device)
    single = unit.pattern if type(unit.pattern) is Key and not unit.pattern.shared_over else None
    rest: dict[str, Any] = {"pattern": single, "diagonal": inputs.diagonal, "scale": inputs.scale}
    has_draw = seed is not None or torch.compiler.is_compiling()
    if single is not None and has_draw and flex_fits(query, key, value, **masks):
        if not need_weights:
            try:
                return flex_drop_key_attention(query, key, value, drop_ratio, seed, **masks, **rest)
            except TooManyKernels:
                _warn_of_dense_masks()
        unit = BeforeSoftmax(HashedKey.like(single))  # the same mask, by whichever way
        single = None
    if need_weights:
        softmax = partial(_softmax_over_kept_keys, drop_ratio=drop_ratio, unit=unit, seed=seed)
        return inputs.attend_explicitly(softmax)
    allowed = inputs.mask()
    if single is not None and seed is not None and recomputing_pays(query, key, value, allowed):
        return recomputed_attention(query, key, value, drop_ratio, seed, allowed=allowed, **rest)
    draw = MaskDraw(inputs.shape, drop_ratio, seed, query.device)
    return inputs.attend_under(unit.mask(draw, query.dtype, inputs.with_diagonal(allowed)))


def _masking_fully(mask: Tensor | None) -> Tensor | None:
    if mask is None or not mask.is_floating_point():
        return mask
    return mask_far(mask)


@cache
def _warn_of_dense_masks() -> None:
    warnings.warn(
        "FlexAttention has kernels for as many kinds of inputs as torch allows; from now on other "
        "kinds take a dense mask, which drops the same keys but takes more memory. "
        "torch._dynamo.config.recompile_limit = 64 allows more",
        stacklevel=4,
    )


def _softmax_over_kept_keys(
    logits: Tensor, drop_ratio: float, unit: BeforeSoftmax, seed: int | None
) -> Tensor:
    return _softmax(unit.mask_logits(logits, drop_ratio, seed))


def _per_group(x: Tensor, y: Tensor) -> Tensor:
    """Multiply (..., H, M, K) by (..., G, K, N), where each of G serves H / G heads: no copies."""
    heads, groups = (t.shape[-3] if t.dim() > 2 else 1 for t in (x, y))
    if heads == groups or groups == 1:
        return x @ y
    joined = x.unflatten(-3, (groups, heads // groups)).flatten(-3, -2)  # (..., G, H / G * M, K)
    return (joined @ y).reshape(*x.shape[:-1], y.shape[-1])


def _align(logits: Tensor, drop_ratio: float, unit: Unit, inference: Inference) -> Tensor:
    pattern = unit.pattern if isinstance(unit, BeforeSoftmax) else None
    if not isinstance(pattern, Key) or pattern.spares:
        raise ValueError(
            f"inference must be None for unit {unit}: only the expectation over dropped keys, unit "
            f'"key", is known, where any key may be dropped; got inference={inference}'
        )
    return inference(logits, drop_ratio)


def _softmax(logits: Tensor) -> Tensor:
    # A softmax over nothing but -inf is nan, and so is its gradient: keep such rows out of it.
    if logits.shape[-1] == 0:
        return logits  # no key, no weight, no largest logit
    bare = logits.detach().amax(-1, keepdim=True) == -torch.inf
    return logits.masked_fill(bare, 0.0).softmax(-1).masked_fill(bare, 0.0)


def _check_tensors(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool) -> None:
    if query.is_nested or key.is_nested or value.is_nested:
        raise ValueError(
            "query, key and value must not be nested tensors: pad them, by "
            "torch.nested.to_padded_tensor, and say with key_padding_mask what is padding"
        )
    heads, *others = (x.shape[-3] if x.dim() > 2 else 1 for x in (query, key, value))
    if enable_gqa and any(heads % max(other, 1) for other in others):
        raise ValueError(
            f"key and value must have numbers of heads that divide those of query, {heads}; got "
            f"{others[0]} and {others[1]}"
        )
    if not enable_gqa and any(other not in (1, heads) and heads != 1 for other in others):
        raise ValueError(
            f"key and value must have as many heads as query, {heads}, got {others[0]} and "
            f"{others[1]}: set enable_gqa=True if each shall serve several"
        )


def _autocast(*tensors: Tensor) -> list[Tensor]:
    """Cast as autocast casts the inputs of ``scaled_dot_product_attention``.

    Done up front because the mask is made in the type the kernel computes in.
    """
    device = tensors[0].device.type
    if not torch.compiler.is_compiling() and not torch.amp.is_autocast_available(device):
        return list(tensors)  # meta
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [x if x.dtype == torch.float64 else x.to(dtype) for x in tensors]

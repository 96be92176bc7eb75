"""DropKey attention as functions: scaled dot product, and the softmax alone.

Shapes: (B, H, L, D) = batch, heads, tokens, head_dim; Lq, Lk = queries, keys.
"""

import math
from collections.abc import Callable
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from dropkey_core.attention.flex import HashedKey, flex_drop_key_attention, flex_fits
from dropkey_core.attention.masks import additive_mask, draw_seed
from dropkey_core.attention.patterns import Key, MaskDraw, Pattern
from dropkey_core.attention.places import DROPKEY, DROPOUT, BeforeSoftmax, Unit, find_unit
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
    scale: float | None = None,
    training: bool = True,
    need_weights: bool = False,
    inference: Inference | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention in which each query of each head loses random keys, or weights.

    With unit "key" this is DropKey (arXiv 2208.02646, Algorithm 1, Eq. 12-14): a dropped key gets
    -inf *before* the softmax, so that the weights of a query still sum to 1. The other units are
    what it is compared with:

    ============ ===================================================================================
    "key"        DropKey
    "weight"     vanilla dropout: a dropped weight gets 0 *after* the softmax and the others grow by
                 1 / (1 - ``drop_ratio``)
    "element"    DropAttention(e): the others share what the dropped weights had
    "column"     DropAttention(c): the same, and all queries of a head lose the same keys
    ============ ===================================================================================

    These names are short for two choices. *What falls together* is a pattern: ``Key()``,
    ``Key(shared_over=...)``, ``Window(length)``, ``Block(size)``, ``Cross(size)``. *Where it acts*
    is a place: ``BeforeSoftmax(pattern)``, ``AfterSoftmax(pattern)``, ``Renormalised(pattern)``;
    see ``places.py`` for which of them is which method. A pattern alone acts before the softmax.

    Without dropping (``drop_ratio`` 0 or not ``training``) it is
    ``torch.nn.functional.scaled_dot_product_attention`` and nothing else, unless ``inference`` says
    otherwise. All randomness follows from torch's default generator: the same
    ``torch.manual_seed``, the same mask, with ``need_weights`` or without.

    A query that would lose all the keys it may attend to loses none of them this time. A query that
    may attend to none in the first place gets zeros, and zero gradients. Neither is ever nan.

    Args:
        query: (B, H, Lq, D), floating.
        key: (B, H, Lk, D).
        value: (B, H, Lk, Dv).
        drop_ratio: probability in [0, 1) that a query loses a key (or weight).
        unit: what is dropped: a name of the table, a pattern, or a place with a pattern.
        attn_mask: (Lq, Lk) or (B, H, Lq, Lk), where axes of length 1 broadcast; as in
            ``scaled_dot_product_attention`` bool, True = may attend, or floating, added to the
            logits.
        key_padding_mask: (B, Lk); bool, True = ignore this key, or floating, added to the logits.
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
            ``inference`` for a unit other than keys.
    """
    check_drop_ratio(drop_ratio)
    unit = find_unit(unit)
    query, key, value = _autocast(query, key, value)
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    ratio = drop_ratio if training else 0.0

    masks = {"attn_mask": attn_mask, "key_padding_mask": key_padding_mask}
    if ratio > 0.0 and unit == DROPKEY and flex_fits(query, key, value, **masks):
        if not need_weights:
            return flex_drop_key_attention(
                query, key, value, ratio, draw_seed(), scale=scale, **masks
            )
        unit = BeforeSoftmax(HashedKey())  # so that the mask is the same, with weights or without
    mask = additive_mask(attn_mask, key_padding_mask, query.dtype)

    is_aligned = inference is not None and not training and drop_ratio > 0.0
    is_fused = isinstance(unit, BeforeSoftmax) or unit == DROPOUT or ratio == 0.0
    if need_weights or is_aligned or not is_fused:
        logits = (query * scale) @ key.transpose(-2, -1)
        logits = logits if mask is None else logits + mask
        weights = drop_key_softmax(
            logits, drop_ratio, unit=unit, training=training, inference=inference
        )
        output = weights @ value.to(weights.dtype)
        return (output, weights) if need_weights else output

    if ratio > 0.0 and isinstance(unit, BeforeSoftmax):
        seed = draw_seed()
        if unit == DROPKEY and recomputing_pays(query, key, value, mask):
            return recomputed_attention(query, key, value, ratio, seed, allowed=mask, scale=scale)
        shape = (*query.shape[:-1], key.shape[-2])
        mask = unit.mask(MaskDraw(shape, ratio, seed, query.device), query.dtype, mask)
    dropout = ratio if unit == DROPOUT else 0.0
    return F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scale)


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
            -inf = may not attend.
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
    if drop_ratio == 0.0:
        return _softmax(logits)
    if not training:
        return (
            _softmax(logits) if inference is None else _align(logits, drop_ratio, unit, inference)
        )
    if isinstance(unit, BeforeSoftmax):
        draw = MaskDraw(tuple(logits.shape), drop_ratio, draw_seed(), logits.device)
        return _softmax(unit.mask(draw, logits.dtype, allowed=logits))
    return unit.drop(_softmax(logits), drop_ratio)


def _align(logits: Tensor, drop_ratio: float, unit: Unit, inference: Inference) -> Tensor:
    if not (isinstance(unit, BeforeSoftmax) and isinstance(unit.pattern, Key)):
        raise ValueError(
            f"inference must be None for unit {unit}: only the expectation over dropped keys, unit "
            f'"key", is known; got inference={inference}'
        )
    return inference(logits, drop_ratio)


def _softmax(logits: Tensor) -> Tensor:
    # A softmax over nothing but -inf is nan, and so is its gradient: keep such rows out of it.
    if logits.shape[-1] == 0:
        return logits  # no key, no weight, no largest logit
    bare = logits.detach().amax(-1, keepdim=True) == -torch.inf
    return logits.masked_fill(bare, 0.0).softmax(-1).masked_fill(bare, 0.0)


def _autocast(*tensors: Tensor) -> list[Tensor]:
    """Cast as autocast casts the inputs of ``scaled_dot_product_attention``.

    Done up front because the mask is made in the type the kernel computes in.
    """
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [x if x.dtype == torch.float64 else x.to(dtype) for x in tensors]

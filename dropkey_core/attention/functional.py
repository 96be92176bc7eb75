"""DropKey attention as a function.

Shapes: (B, H, L, D) = batch, heads, tokens, head_dim; Lq, Lk = queries, keys.
"""

import math
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from dropkey_core.attention.masks import additive_mask, draw_seed, random_key_mask
from dropkey_core.attention.schedule import check_drop_ratio

UNITS = ("key", "weight")


@overload
def drop_key_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    drop_ratio: float,
    *,
    unit: str = ...,
    attn_mask: Tensor | None = ...,
    key_padding_mask: Tensor | None = ...,
    scale: float | None = ...,
    training: bool = ...,
    need_weights: Literal[False] = ...,
) -> Tensor: ...


@overload
def drop_key_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    drop_ratio: float,
    *,
    unit: str = ...,
    attn_mask: Tensor | None = ...,
    key_padding_mask: Tensor | None = ...,
    scale: float | None = ...,
    training: bool = ...,
    need_weights: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def drop_key_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    drop_ratio: float,
    *,
    unit: str = "key",
    attn_mask: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    scale: float | None = None,
    training: bool = True,
    need_weights: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention in which each query of each head loses random keys, or weights.

    With unit "key" this is DropKey (arXiv 2208.02646, Algorithm 1, Eq. 12-14): a dropped key gets
    -inf *before* the softmax, so that the weights of a query still sum to 1. With unit "weight" it
    is the vanilla dropout that the paper compares with: a dropped weight gets 0 *after* the softmax
    and the others grow by 1 / (1 - ``drop_ratio``).

    Without dropping (``drop_ratio`` 0 or not ``training``) it is
    ``torch.nn.functional.scaled_dot_product_attention`` and nothing else. All randomness follows
    from torch's default generator: the same ``torch.manual_seed``, the same mask, with
    ``need_weights`` or without.

    A query that would lose all the keys it may attend to loses none of them this time. A query that
    may attend to none in the first place gets zeros, and zero gradients. Neither is ever nan.

    Args:
        query: (B, H, Lq, D), floating.
        key: (B, H, Lk, D).
        value: (B, H, Lk, Dv).
        drop_ratio: probability in [0, 1) that a query loses a key (or weight).
        unit: "key" or "weight".
        attn_mask: (Lq, Lk) or (B, H, Lq, Lk), where axes of length 1 broadcast; as in
            ``scaled_dot_product_attention`` bool, True = may attend, or floating, added to the
            logits.
        key_padding_mask: (B, Lk); bool, True = ignore this key, or floating, added to the logits.
        scale: factor on the dot products; default 1 / sqrt(D).
        training: whether to drop anything.
        need_weights: return the weights too. They are then computed explicitly, at several times
            the time and memory of the fused path.

    Returns:
        the output (B, H, Lq, Dv); with ``need_weights`` also the weights (B, H, Lq, Lk) that made
        it, after dropping.

    Raises:
        ValueError: a ``drop_ratio`` outside [0, 1), an unknown ``unit``, a mask of the wrong type.
    """
    check_drop_ratio(drop_ratio)
    check_unit(unit)
    query, key, value = _autocast(query, key, value)
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    ratio = drop_ratio if training else 0.0
    weight_dropout = ratio if unit == "weight" else 0.0

    mask = additive_mask(attn_mask, key_padding_mask, query.dtype)
    if unit == "key" and ratio > 0.0:
        mask = random_key_mask(
            (*query.shape[:-1], key.shape[-2]),
            ratio,
            draw_seed(),
            dtype=query.dtype,
            device=query.device,
            allowed=mask,
        )
    if need_weights:
        return explicit_attention(query, key, value, mask, scale, weight_dropout)
    return F.scaled_dot_product_attention(query, key, value, mask, weight_dropout, scale=scale)


def explicit_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    weight_dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Attention as in the paper's Algorithm 1: the reference, and the way to see the weights.

    Args:
        query: (B, H, Lq, D).
        key: (B, H, Lk, D).
        value: (B, H, Lk, Dv).
        mask: additive, broadcasts to (B, H, Lq, Lk): 0 = may attend, -inf = may not.
        scale: factor on the dot products.
        weight_dropout: probability of vanilla dropout on the weights.

    Returns:
        the output (B, H, Lq, Dv) and the weights (B, H, Lq, Lk) it was made with. A query that may
        attend to nothing gets zeros.
    """
    logits = (query * scale) @ key.transpose(-2, -1)
    weights = logits.softmax(-1) if mask is None else _masked_softmax(logits + mask)
    weights = F.dropout(weights, weight_dropout)
    return weights @ value.to(weights.dtype), weights


def _masked_softmax(logits: Tensor) -> Tensor:
    # A softmax over nothing but -inf is nan, and so is its gradient: keep such rows out of it.
    bare = (logits == -torch.inf).all(-1, keepdim=True)
    return logits.masked_fill(bare, 0.0).softmax(-1).masked_fill(bare, 0.0)


def check_unit(unit: str) -> None:
    """Raise a ``ValueError`` that names the unit, unless it is one of ``UNITS``."""
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")


def _autocast(*tensors: Tensor) -> list[Tensor]:
    """Cast as autocast casts the inputs of ``scaled_dot_product_attention``.

    Done up front because the mask is made in the type the kernel computes in.
    """
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [x if x.dtype == torch.float64 else x.to(dtype) for x in tensors]

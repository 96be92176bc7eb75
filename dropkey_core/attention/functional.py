"""DropKey attention as a function.

Shapes: (B, H, L, D) = batch, heads, tokens, head_dim; Lq, Lk = queries, keys.
"""

import math
from typing import Literal, overload

import torch
from torch import Tensor

from dropkey_core.attention.kernels import explicit_attention, fused_attention
from dropkey_core.attention.masks import RandomKeyMask, additive_mask, draw_seed
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

    allowed = additive_mask(attn_mask, key_padding_mask, query.dtype)
    mask: Tensor | RandomKeyMask | None = allowed
    if unit == "key" and ratio > 0.0:
        batch, heads, num_queries, _ = query.shape
        mask = RandomKeyMask(
            shape=(batch, heads, num_queries, key.shape[-2]),
            drop_ratio=ratio,
            seed=draw_seed(),
            dtype=query.dtype,
            device=query.device,
            allowed=allowed,
        )
    if not need_weights:
        return fused_attention(query, key, value, mask, scale, weight_dropout)
    if isinstance(mask, RandomKeyMask):
        mask = mask.dense()
    return explicit_attention(query, key, value, mask, scale, weight_dropout)


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

"""DropKey attention as a function."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dropkey_core.attention.masks import draw_seed, random_key_mask
from dropkey_core.attention.schedule import check_drop_ratio

UNITS = ("key", "weight")


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
):
    """Attend."""
    check_drop_ratio(drop_ratio)
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")
    ratio = drop_ratio if training else 0.0
    mask = _additive_mask(attn_mask, key_padding_mask, query.dtype)
    if unit == "key" and ratio > 0.0:
        shape = (*query.shape[:-1], key.shape[-2])
        mask = random_key_mask(
            shape, ratio, draw_seed(), allowed=mask, dtype=query.dtype, device=query.device
        )
    dropout = ratio if unit == "weight" else 0.0
    if need_weights:
        return _explicit(query, key, value, mask, dropout, scale)
    return F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scale)


def _explicit(query, key, value, mask, dropout, scale):
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    logits = (query * scale) @ key.transpose(-2, -1)
    if mask is not None:
        logits = logits + mask
    weights = F.dropout(logits.softmax(-1), dropout)
    return weights @ value, weights


def _additive_mask(attn_mask, key_padding_mask, dtype):
    mask = None
    if attn_mask is not None:
        mask = (
            attn_mask.to(dtype)
            if attn_mask.is_floating_point()
            else _minus_inf_where(~attn_mask, dtype)
        )
    if key_padding_mask is not None:
        padding = _minus_inf_where(key_padding_mask, dtype)[:, None, None, :]
        mask = padding if mask is None else mask + padding
    return mask


def _minus_inf_where(blocked, dtype):
    return torch.zeros(blocked.shape, dtype=dtype, device=blocked.device).masked_fill_(
        blocked, -torch.inf
    )

"""Causal attention: which keys a query may attend to by its place, and how that is asked for.

A *diagonal* says it in one number, as in ``torch.tril``: query i may attend to the keys
0 ... i + diagonal. It is 0 for ``is_causal`` and ``causal_upper_left`` and Lk - Lq for
``causal_lower_right``, where the last query may attend to every key.

Shapes: Lq, Lk = queries, keys.
"""

import sys
from typing import Any

import torch
from torch import Tensor


def split_causal(
    attn_mask: Tensor | None, is_causal: bool, num_queries: int, num_keys: int
) -> tuple[Tensor | None, int | None]:
    """Tell causal attention apart from masks that have entries.

    Args:
        attn_mask: mask with entries, a ``torch.nn.attention.bias.CausalBias``, or None.
        is_causal: query i may attend to the keys 0 ... i only.
        num_queries: Lq.
        num_keys: Lk.

    Returns:
        the mask with entries, or None; and the diagonal, None = not causal

    Raises:
        ValueError: ``attn_mask`` and ``is_causal`` both given, as in torch; a bias for other
            lengths.
    """
    if is_causal and attn_mask is not None:
        raise ValueError(
            "attn_mask must be None with is_causal=True, as in scaled_dot_product_attention; give "
            "one mask that has both"
        )
    if is_causal:
        return None, 0
    bias: Any = attn_mask
    if not is_causal_bias(bias):
        return attn_mask, None
    lengths = bias.seq_len_q, bias.seq_len_kv
    if lengths != (num_queries, num_keys):
        raise ValueError(
            f"attn_mask must be a causal bias for {num_queries} queries and {num_keys} keys, got "
            f"one for {lengths[0]} and {lengths[1]}"
        )
    is_upper_left = bias.variant == type(bias.variant).UPPER_LEFT
    return None, 0 if is_upper_left else num_keys - num_queries


def add_causal(
    mask: Tensor | None, diagonal: int | None, size: tuple[int, int], like: Tensor
) -> Tensor | None:
    """Merge an additive mask with a diagonal.

    Args:
        mask: additive, broadcasts to (..., Lq, Lk). None: nothing else is masked.
        diagonal: see the top of the file. None: not causal.
        size: (Lq, Lk).
        like: of the device and floating type of the result.

    Returns:
        additive mask with both in it; None if there is nothing to mask
    """
    if diagonal is None:
        return mask
    hidden = hidden_keys(size, diagonal, like.device)
    if mask is None:
        return like.new_zeros(size).masked_fill_(hidden, -torch.inf)
    return mask.masked_fill(hidden, -torch.inf)


def hidden_keys(size: tuple[int, int], diagonal: int, device: torch.device) -> Tensor:
    """Return (Lq, Lk) bool, True = the key comes after the last one that the query may see."""
    return torch.ones(size, dtype=torch.bool, device=device).triu_(diagonal + 1)


def is_causal_bias(attn_mask: Tensor | None) -> bool:
    """Return whether a mask is a ``torch.nn.attention.bias.CausalBias``, which has no entries."""
    # Nobody can have made one before its module is imported, which takes a while.
    module = sys.modules.get("torch.nn.attention.bias")
    return module is not None and isinstance(attn_mask, module.CausalBias)

"""Two ways to compute the same attention: written out, and fused.

Shapes: (B, H, L, D) = batch, heads, tokens, head_dim, and Lq, Lk where queries and keys differ in
number. Masks are additive: 0 where a query may attend, -inf where it may not.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dropkey_core.attention.masks import RandomKeyMask


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
        mask: additive, broadcasts to (B, H, Lq, Lk).
        scale: factor on the dot products.
        weight_dropout: probability of vanilla dropout on the weights.

    Returns:
        the output (B, H, Lq, Dv) and the weights (B, H, Lq, Lk) it was made with. Queries that may
        attend to nothing get zeros.
    """
    logits = (query * scale) @ key.transpose(-2, -1)
    weights = logits.softmax(-1) if mask is None else _masked_softmax(logits + mask)
    weights = F.dropout(weights, weight_dropout)
    return weights @ value.to(weights.dtype), weights


def _masked_softmax(logits: Tensor) -> Tensor:
    # A softmax over nothing but -inf is nan, and so is its gradient: keep such rows out of it.
    bare = (logits == -torch.inf).all(-1, keepdim=True)
    return logits.masked_fill(bare, 0.0).softmax(-1).masked_fill(bare, 0.0)


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | RandomKeyMask | None,
    scale: float,
    weight_dropout: float = 0.0,
) -> Tensor:
    """Attention by ``torch.nn.functional.scaled_dot_product_attention``.

    A large random mask on a CPU is made piece by piece and thrown away, and made again from its
    seed for the gradient: that is faster than to store it, and takes no memory.

    Args and result are those of ``explicit_attention``, without the weights; ``mask`` may also be
    one still to be drawn.
    """
    if isinstance(mask, RandomKeyMask):
        if _goes_piecewise(query, key, value, mask):
            out: Tensor = _PiecewiseAttention.apply(query, key, value, mask, scale)
            return out
        mask = mask.dense()
    return F.scaled_dot_product_attention(query, key, value, mask, weight_dropout, scale=scale)


def _goes_piecewise(query: Tensor, key: Tensor, value: Tensor, mask: RandomKeyMask) -> bool:
    """Tell whether the mask is worth it and torch's fused CPU kernel takes these tensors."""
    mask_is_learned = mask.allowed is not None and mask.allowed.requires_grad
    return (
        mask.is_large
        and not mask_is_learned
        and query.shape[:2] == key.shape[:2] == value.shape[:2]
        and query.shape[-1] == key.shape[-1] == value.shape[-1]
        and query.dtype == key.dtype == value.dtype
        and all(x.stride(-1) == 1 for x in (query, key, value))
    )


class _PiecewiseAttention(torch.autograd.Function):
    """Torch's fused CPU attention under a random mask of which only a piece exists at a time."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: RandomKeyMask, scale: float
    ) -> Tensor:
        out = _empty_like(query)
        statistics_type = torch.promote_types(query.dtype, torch.float32)
        logsumexp = torch.empty(query.shape[:-1], dtype=statistics_type)
        for piece, part in mask.pieces():
            out[piece], logsumexp[piece] = (
                torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                    query[piece], key[piece], value[piece], attn_mask=part, scale=scale
                )
            )
        ctx.save_for_backward(query, key, value, out, logsumexp)
        ctx.mask, ctx.scale = mask, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        grads = [_empty_like(x) for x in tensors[:3]]
        for piece, part in ctx.mask.pieces():
            grad_parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad_out[piece],
                *(x[piece] for x in tensors),
                0.0,
                False,
                attn_mask=part,
                scale=ctx.scale,
            )
            for grad, grad_part in zip(grads, grad_parts, strict=True):
                grad[piece] = grad_part
        return *grads, None, None


def _empty_like(x: Tensor) -> Tensor:
    """Uninitialised (B, H, L, D), in memory (B, L, H, D): heads then merge without a copy."""
    batch, heads, length, head_dim = x.shape
    return x.new_empty(batch, length, heads, head_dim).transpose(1, 2)

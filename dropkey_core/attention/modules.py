"""Multi-head attention with DropKey, a drop-in for ``torch.nn.MultiheadAttention``.

Shapes: (B, L, E) = batch, tokens, embed_dim; (B, H, L, D) = the same per head, E = H * D.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropkey_core.attention.functional import drop_key_attention
from dropkey_core.attention.schedule import check_drop_ratio


class MultiheadAttention(nn.MultiheadAttention):
    """``torch.nn.MultiheadAttention`` whose queries lose random keys in training.

    Args:
        embed_dim: width E of queries and outputs.
        num_heads: number of heads H; divides ``embed_dim``.
        dropout: as in torch.
        drop_ratio: probability in [0, 1) that a query of a head loses a key, in training mode.
        unit: "key" or "weight": what ``drop_ratio`` drops.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *args: Any,
        drop_ratio: float = 0.0,
        unit: str = "key",
        **kwargs: Any,
    ) -> None:
        check_drop_ratio(drop_ratio)
        super().__init__(embed_dim, num_heads, *args, **kwargs)
        self.drop_ratio = drop_ratio
        self.unit = unit

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; the arguments of ``torch.nn.MultiheadAttention.forward``."""
        q, k, v = self._project(query, key, value)
        heads = (self.num_heads, self.head_dim)
        if self.batch_first:
            q, k, v = (x.unflatten(-1, heads).transpose(1, 2) for x in (q, k, v))
        else:
            q, k, v = (x.unflatten(-1, heads).permute(1, 2, 0, 3) for x in (q, k, v))
        out = drop_key_attention(
            q,
            k,
            v,
            self.drop_ratio,
            unit=self.unit,
            attn_mask=None if attn_mask is None else ~attn_mask,
            key_padding_mask=key_padding_mask,
            training=self.training,
            need_weights=need_weights,
        )
        out, weights = out if need_weights else (out, None)
        out = out.transpose(1, 2) if self.batch_first else out.permute(2, 0, 1, 3)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        return self.out_proj(out.flatten(-2)), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, bias = self.in_proj_weight, self.in_proj_bias
        width = self.embed_dim
        if query is key and key is value:
            q, k, v = F.linear(query, weight, bias).chunk(3, -1)
            return q, k, v
        if query is key:
            w_qk, w_v = weight.split((2 * width, width))
            b_qk, b_v = bias.split((2 * width, width))
            q, k = F.linear(query, w_qk, b_qk).chunk(2, -1)
            return q, k, F.linear(value, w_v, b_v)
        q, k, v = (
            F.linear(x, w, b)
            for x, w, b in zip((query, key, value), weight.chunk(3), bias.chunk(3), strict=True)
        )
        return q, k, v

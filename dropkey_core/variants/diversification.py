"""Attention diversification loss, ADL (TAP and ADL, arXiv 2303.11126).

Where all queries look at the same few keys, a corrupted key harms all of them. The loss is how
much the map of a query resembles that of the mean query, where either is large.

Shapes: (B, H, Lq, Lk) = batch, heads, queries, keys.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor


def attention_diversification(maps: Iterable[Tensor], threshold: float = 2.0) -> Tensor:
    """Return the loss of some layers, to be added to that of the task; minimised.

    For each layer, with P the mean of the map over its heads and s the mean of P over the queries,

        P~ = P where P > threshold / Lk, else 0;    s~ likewise;    loss = mean cos(s~, P~_query)

    over batch and queries, then averaged over the layers. Gradients flow into both arguments. The
    loss and its gradient are exactly 0 as long as no key has more than ``threshold / Lk`` of the
    mean query's attention; and the gradient is 0 where just one key has, since any two multiples
    of it have a cosine of 1. The paper's weight is 1.

    The original drops the batch axis of a batch of one, which makes its loss 0 there; here each
    image counts as it does in a larger batch.

    Args:
        maps: a map (B, H, Lq, Lk) of each layer with gradients, such as
            ``captured_attention`` collects: after dropping, as in the original. Meant is
            self-attention, see ``self_attention``.
        threshold: of a map, in units of uniform attention 1 / Lk; above 0.

    Returns:
        the loss in [0, 1] for weights that are not negative, shape (), float32 or wider

    Raises:
        ValueError: no map, a map with other axes, or ``threshold`` not above 0.
    """
    if not threshold > 0:
        raise ValueError(f"threshold must be above 0, got {threshold}")
    losses = [_layer_loss(layer, threshold) for layer in maps]
    if not losses:
        raise ValueError("attention diversification needs the map of at least one layer, got none")
    return torch.stack(losses).mean()


def _layer_loss(layer: Tensor, threshold: float) -> Tensor:
    if layer.dim() != 4:
        raise ValueError(
            "attention diversification needs maps (B, H, Lq, Lk) of self-attention, got "
            f"{tuple(layer.shape)}"
        )
    # In half precision the gradient of a cosine next to zero would overflow.
    dtype = torch.promote_types(layer.dtype, torch.float32)
    of_queries = layer.to(dtype).mean(1)  # (B, Lq, Lk)
    of_mean_query = of_queries.mean(1, keepdim=True)  # (B, 1, Lk)
    least = threshold / layer.shape[-1]
    similarity = F.cosine_similarity(
        of_mean_query * (of_mean_query > least), of_queries * (of_queries > least), dim=-1
    )  # (B, Lq)
    return similarity.mean()

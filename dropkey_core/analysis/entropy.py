"""Entropy of attention, layer by layer (arXiv 2208.02646, Figure 4).

Shapes: B images, H heads, Lq queries, Lk keys.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dropkey_core.analysis.layers import LayerAttention, over_layers


@dataclass(frozen=True)
class LayerEntropy:
    """Entropy of attention in one layer.

    Attributes:
        name: of the attention module.
        layer: what tells it from the others, for a figure.
        mean: over images and heads, in nats.
        std: standard deviation over images and heads.
        num_values: images times heads.
        greatest: log(Lk), if every key got the same.
    """

    name: str
    layer: str
    mean: float
    std: float
    num_values: int
    greatest: float


def entropy(weights: Tensor) -> Tensor:
    """Return the entropy of rows of weights in nats: -sum w log w, with 0 log 0 = 0.

    Args:
        weights: (..., Lk), rows that sum to 1.

    Returns:
        (...) from 0 (all on one key) to log(Lk) (the same on each)
    """
    return torch.special.entr(weights.float()).sum(dim=-1)


def attention_entropy(
    model: nn.Module, loader: Iterable[Any], query: str = "class"
) -> list[LayerEntropy]:
    """Measure the entropy of a model's attention in eval mode.

    Args:
        model: with equipped attention; it is called on each batch.
        loader: batches.
        query: ``class``: the class token's attention, in the layers that have one; ``all``: that of
            all queries, whose mean is taken for each image and head (also window, where there are
            such).

    Returns:
        a result for each layer, in the model's order

    Raises:
        ValueError: another ``query``, nothing is equipped, no class token, or no batch.
    """
    found = over_layers(model, loader, query, lambda layer, _: _per_head(layer, query))
    return [LayerEntropy(*numbers, math.log(num_keys)) for numbers, num_keys in found]


def _per_head(layer: LayerAttention, query: str) -> Tensor:
    """(B, H)."""
    if query == "class":
        assert layer.class_weights is not None
        return entropy(layer.class_weights)
    return entropy(layer.weights).flatten(2).mean(dim=2)

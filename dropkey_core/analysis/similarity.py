"""Similarity of attention between layers (DeepViT, arXiv 2103.11886, equation 2).

In deep vision transformers attention collapses: from some layer on all do the same.
Shapes: B images, H heads, Lq queries, Lk keys, L layers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dropkey_core.analysis.layers import over_batches, short_names


@dataclass(frozen=True)
class LayerSimilarity:
    """Similarity of the attention of each two layers.

    Attributes:
        names: of the attention modules, L of them.
        layers: what tells them from each other, for a figure.
        matrix: (L, L) in [0, 1], symmetric; NaN where the maps of two layers have not the same
            shape.
        num_images: what it is the mean of.
    """

    names: tuple[str, ...]
    layers: tuple[str, ...]
    matrix: Tensor
    num_images: int


def cosine_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Return how alike two layers' use of each key is: cosines of what a key gives to all queries.

    Args:
        first: (..., Lq, Lk) weights.
        second: the same shape.

    Returns:
        (..., Lk) in [0, 1]; 0 for a key that no query of one layer attends to
    """
    return torch.cosine_similarity(first.float(), second.float(), dim=-2)


def layer_similarity(model: nn.Module, loader: Iterable[Any]) -> LayerSimilarity:
    """Measure how alike a model's layers attend, in eval mode: mean over images, heads and keys.

    Head h of a layer is compared with head h of the other.

    Args:
        model: with equipped attention; it is called on each batch.
        loader: batches.

    Raises:
        ValueError: nothing is equipped, fewer than two layers, or no batch.
    """
    total: Tensor | None = None
    names: list[str] = []
    num_images = 0
    for batch, _, layers in over_batches(model, loader):
        if len(layers) < 2:
            raise ValueError(
                f"similarity needs two layers of attention, the model has {len(layers)}"
            )
        names = [layer.name for layer in layers]
        matrix = _pairs([layer.weights for layer in layers])
        total = len(batch) * matrix + (0 if total is None else total)
        num_images += len(batch)
    if total is None:
        raise ValueError("there are no images to measure the similarity on")
    short = short_names(names)
    return LayerSimilarity(tuple(names), tuple(short), total / num_images, num_images)


def _pairs(maps: list[Tensor]) -> Tensor:
    """(L, L) float64 on the CPU."""
    matrix = torch.full((len(maps), len(maps)), torch.nan, dtype=torch.float64)
    for i, first in enumerate(maps):
        for j, second in enumerate(maps[: i + 1]):
            if first.shape == second.shape:
                matrix[i, j] = matrix[j, i] = cosine_similarity(first, second).mean().item()
    return matrix

"""Attention weights of each layer on images, and the class token's part of them.

Shapes: B images, H heads, Lq queries, Lk keys.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dropkey_core.analysis.capture import captured_attention, captured_dimensions
from dropkey_core.variants.blocks import num_prefix_tokens

QUERIES = ("class", "all")


@dataclass(frozen=True)
class LayerAttention:
    """What an attention module did in one call.

    Attributes:
        name: of the module in the model.
        weights: (B, H, Lq, Lk), or with other axes before the last two (windows, neighbourhoods);
            rows sum to 1.
        num_prefix: tokens before the patches, the class token first; 0 if there are none.
        is_class_attention: whether the class token is the only query.
    """

    name: str
    weights: Tensor
    num_prefix: int
    is_class_attention: bool

    @property
    def class_weights(self) -> Tensor | None:
        """(B, H, Lk), what the class token gives to each token; None without class token."""
        return self.weights[:, :, 0] if self.is_class_attention or self.num_prefix else None

    @property
    def patch_weights(self) -> Tensor | None:
        """(B, H, patches), what the class token gives to patches; None without class token."""
        class_weights = self.class_weights
        return None if class_weights is None else class_weights[..., self.num_prefix :]


def look(model: nn.Module, inputs: Any) -> tuple[Any, list[LayerAttention]]:
    """Call a model and keep what its attention did.

    Args:
        model: with equipped attention (``apply_dropkey(model, 0.0)`` is enough); in eval mode for
            weights without anything dropped.
        inputs: what it is called with: images for a bare network, samples for a project's model.

    Returns:
        what the model returns, and the attention of each call, in the order of the modules;
        modules that were not called are missing

    Raises:
        ValueError: nothing is equipped.
    """
    with captured_attention(model) as maps, captured_dimensions(model) as dimensions:
        outputs = model(inputs)
    calls = [(name, weights) for name, of_module in maps.items() for weights in of_module]
    # Where the class token comes last (VOLO, CaiT), the layers before have none.
    comes_last = any(_is_class_attention(weights) for _, weights in calls)
    layers = []
    for name, weights in calls:
        is_class_attention = _is_class_attention(weights)
        is_sequence = dimensions[name] == 3 and weights.ndim == 4
        is_square = weights.shape[-2] == weights.shape[-1]
        may_have = is_class_attention if comes_last else is_square
        prefix = num_prefix_tokens(model, name) if is_sequence and may_have else 0
        layers.append(LayerAttention(name, weights, prefix, is_class_attention))
    return outputs, layers


def _is_class_attention(weights: Tensor) -> bool:
    return weights.ndim == 4 and weights.shape[2] == 1 < weights.shape[3]


def over_batches(
    model: nn.Module, loader: Iterable[Any]
) -> Iterator[tuple[Any, Any, list[LayerAttention]]]:
    """Look at each batch in eval mode without gradients; the model's mode is put back.

    Yields:
        batch, what the model made of it, the attention of each layer
    """
    was_training = model.training
    model.eval()
    try:
        for batch in loader:
            with torch.no_grad():
                outputs, layers = look(model, batch)
            yield batch, outputs, layers
    finally:
        model.train(was_training)


def over_layers(
    model: nn.Module,
    loader: Iterable[Any],
    query: str,
    measure: Callable[[LayerAttention, int], Tensor],
    after_batch: Callable[[Any, Any], None] = lambda batch, outputs: None,
) -> Iterator[tuple[tuple[str, str, float, float, int], int]]:
    """Measure each layer on all batches.

    Args:
        model: with equipped attention; it is called on each batch in eval mode.
        loader: batches.
        query: ``class``: the layers in which a class token looks at others; ``all``: all layers.
        measure: a layer and the number of images -> values of any shape.
        after_batch: called with each batch and the model's outputs for it.

    Yields:
        (name, short name, mean, standard deviation (NaN for that of one), number of values), Lk

    Raises:
        ValueError: another ``query``, nothing is equipped, no class token, or no batch.
    """
    if query not in QUERIES:
        raise ValueError(f"query must be class or all, got {query!r}")
    values: dict[str, list[Tensor]] = defaultdict(list)
    num_keys: dict[str, int] = {}
    for batch, outputs, layers in over_batches(model, loader):
        after_batch(batch, outputs)
        for layer in class_token_layers(layers) if query == "class" else layers:
            values[layer.name].append(measure(layer, len(batch)).cpu())
            num_keys[layer.name] = layer.weights.shape[-1]
    if not values:
        raise ValueError("there are no images to measure attention on")
    for short, (name, parts) in zip(short_names(values), values.items(), strict=True):
        joined = torch.cat(parts).double().flatten()
        std = joined.std().item() if len(joined) > 1 else math.nan
        yield (name, short, joined.mean().item(), std, len(joined)), num_keys[name]


def class_token_layers(layers: Iterable[LayerAttention]) -> list[LayerAttention]:
    """Those layers in which a class token looks at other tokens.

    Raises:
        ValueError: there are none.
    """
    found = [layer for layer in layers if layer.class_weights is not None]
    if not found:
        raise ValueError(
            "no class token looks at anything in this model: what asks for one cannot be measured"
        )
    return found


def short_names(names: Iterable[str]) -> list[str]:
    """Names without the beginning and the end that all of them have in common.

    ``network.blocks.0.attn`` and ``network.blocks.1.attn`` become 0 and 1.
    """
    parts = [name.split(".") for name in names]
    if len(parts) < 2:
        return [".".join(part) for part in parts]
    start = _num_common(parts)
    end = _num_common([part[start:][::-1] for part in parts])
    return [".".join(part[start : len(part) - end]) or ".".join(part) for part in parts]


def _num_common(parts: list[list[str]]) -> int:
    """How many words all the lists begin with; of each list one word at least is not counted."""
    count = 0
    while all(len(part) > count + 1 for part in parts) and len({part[count] for part in parts}) < 2:
        count += 1
    return count

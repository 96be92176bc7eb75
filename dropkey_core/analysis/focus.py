"""Focus of attention: the share of the few most attended tokens.

Vision transformers tend to over-focus: a few tokens get nearly all, and where corruption hits
those, much is lost (TAP and ADL, arXiv 2303.11126). Shapes: B images, H heads, Lk keys.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dropkey_core.analysis.layers import LayerAttention, over_layers


@dataclass(frozen=True)
class LayerFocus:
    """Part of the attention that the most attended tokens of an image get in one layer.

    Attributes:
        name: of the attention module.
        layer: what tells it from the others, for a figure.
        mean: over images, in [0, 1].
        std: standard deviation over images.
        num_images: how many.
        even: what they would get if all tokens got the same.
    """

    name: str
    layer: str
    mean: float
    std: float
    num_images: int
    even: float


def share_of_top(weights: Tensor, top: int) -> Tensor:
    """Return the part of each row that its ``top`` largest weights have: (..., Lk) -> (...).

    Weights are not negative; of fewer keys than ``top`` all count.
    """
    largest = weights.float().topk(min(top, weights.shape[-1]), dim=-1).values
    return largest.sum(dim=-1) / weights.float().sum(dim=-1)


def attention_focus(
    model: nn.Module,
    loader: Iterable[Any],
    top: int = 5,
    query: str = "class",
    after_batch: Callable[[Any, Any], None] = lambda batch, outputs: None,
) -> list[LayerFocus]:
    """Measure the share of the ``top`` most attended tokens.

    Args:
        model: with equipped attention; it is called on each batch in eval mode.
        loader: batches.
        top: number of tokens, at least 1.
        query: ``class``: what the class token gives them, in the layers that have one; ``all``:
            what all queries together give them. Most attended are others in each head; the mean
            over heads is taken.
        after_batch: called with each batch and the model's outputs for it, for instance the
            ``process`` of an evaluator.

    Returns:
        a result for each layer

    Raises:
        ValueError: ``top`` below 1, another ``query``, nothing is equipped, no class token, no
            batch.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    found = over_layers(
        model, loader, query, lambda layer, count: _per_image(layer, query, top, count), after_batch
    )
    return [LayerFocus(*numbers, min(top / num_keys, 1.0)) for numbers, num_keys in found]


def _per_image(layer: LayerAttention, query: str, top: int, num_images: int) -> Tensor:
    """(B,): mean over heads, and over windows or neighbourhoods where there are such."""
    if query == "class":
        assert layer.class_weights is not None
        received = layer.class_weights  # (B, H, Lk)
    else:
        received = layer.weights.mean(dim=-2)  # (..., Lk)
    return share_of_top(received, top).reshape(num_images, -1).mean(dim=1)

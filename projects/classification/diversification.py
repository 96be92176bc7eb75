"""Attention diversification (arXiv 2303.11126) as a second loss of a classifier."""

from torch import Tensor, nn

from dropkey_core.analysis.capture import captured_attention
from dropkey_core.variants import attention_diversification, self_attention


class Diversification:
    """Runs a network and judges the maps of its self-attention.

    Attention is computed explicitly for it, at several times the time and memory of the fused path.

    Args:
        weight: of the loss; the paper's is 1.
        threshold: see ``attention_diversification``; the paper's is 2.

    Raises:
        ValueError: a number that is not above 0.
    """

    def __init__(self, weight: float = 1.0, threshold: float = 2.0) -> None:
        for name, number in (("weight", weight), ("threshold", threshold)):
            if not number > 0.0:
                raise ValueError(f"variants.diversification.{name} must be above 0, got {number}")
        self.weight = weight
        self.threshold = threshold

    def __call__(self, network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the network's output for ``images``, and the weighted loss.

        Args:
            network: with self-attention that drops keys, with a ratio of 0 or more. Class
                attention and outlook attention are not judged.
            images: (B, 3, S, S).

        Raises:
            ValueError: no self-attention.
        """
        with captured_attention(network) as maps:
            output = network(images)
        judged = [layer for name in self_attention(network) for layer in maps[name]]
        return output, self.weight * attention_diversification(judged, self.threshold)

"""Images as tensors, and how well a network classifies them.

Shapes: N images of S x S pixels, K classes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

NUM_BINS = 15  # of the calibration error, as usual (arXiv 1706.04599)
EVAL_BATCH = 250


class Images(NamedTuple):
    """A split.

    Attributes:
        pixels: (N, 3, S, S) uint8.
        labels: (N,) int64.
    """

    pixels: Tensor
    labels: Tensor


class Judgement(NamedTuple):
    """How well images are classified.

    Attributes:
        top1: accuracy in percent.
        loss: mean cross entropy in nats.
        ece: expected calibration error in percent.
    """

    top1: float
    loss: float
    ece: float


def normalised(pixels: Tensor) -> Tensor:
    """(N, 3, S, S) uint8 -> float32, as ``ClassificationMapper`` does by default."""
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    )
    return (pixels / 255 - mean) / std


def batches_of(images: Images) -> Iterator[tuple[Tensor, slice]]:
    """Normalised pixels (B, 3, S, S) of some images after the other, and which they are."""
    for start in range(0, len(images.labels), EVAL_BATCH):
        place = slice(start, start + EVAL_BATCH)
        yield normalised(images.pixels[place]), place


@torch.no_grad()
def judge(network: nn.Module, images: Images) -> Judgement:
    """Judge a network in evaluation mode: (N, 3, S, S) -> logits (N, K)."""
    logits = torch.cat([network(pixels) for pixels, _ in batches_of(images)])
    right = logits.argmax(1) == images.labels
    loss = F.cross_entropy(logits, images.labels).item()
    return Judgement(100 * right.double().mean().item(), loss, calibration_error(logits, right))


def calibration_error(logits: Tensor, right: Tensor) -> float:
    """Expected calibration error (arXiv 1706.04599, equation 3) in percent.

    Args:
        logits: (N, K).
        right: (N,) bool, True = the highest rated class is the true one.

    Returns:
        the mean over images of |accuracy - confidence| of the image's bin, 15 equal ones in (0, 1].
    """
    confidence = logits.double().softmax(1).amax(1)
    bins = (confidence * NUM_BINS).ceil().long().clamp(1, NUM_BINS) - 1
    gaps = torch.zeros(NUM_BINS, dtype=torch.float64)
    gaps.index_add_(0, bins, right.double() - confidence)
    return 100 * gaps.abs().sum().item() / len(right)

"""Denoising queries (DN-DETR, arXiv 2203.01305): in training some begin as objects with noise.

Such a query is told which object to find, so that boxes and classes are learnt before the matching
has settled. Shapes: B images, K groups, T the most objects of an image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

BOX_NOISE = 0.4  # lambda_1 = lambda_2 of the paper
LABEL_NOISE = 0.2  # share of labels that are drawn anew
BLANK_BOX = 0.5


class NoisyQueries(NamedTuple):
    """Objects with noise; each group holds all objects once, in T places, the first ones.

    Attributes:
        labels: (B, K T) int64 class indices, C where there is no object.
        boxes: (B, K T, 4) float32 cxcywh in [0, 1].
        exists: (B, K T) bool.
        pairs: images (M,), queries (M,), objects of the batch (M,), as ``assign`` returns them.
    """

    labels: Tensor
    boxes: Tensor
    exists: Tensor
    pairs: tuple[Tensor, Tensor, Tensor]


def noisy_queries(
    labels: Sequence[Tensor], boxes_cxcywh: Sequence[Tensor], num_groups: int, num_classes: int
) -> NoisyQueries:
    """Draw noise for each object of a batch, K times (section 4.2).

    A centre moves by less than lambda_1 / 2 of the box's sides, a side changes by less than
    lambda_2 of itself, and a label is drawn anew with ``LABEL_NOISE``.

    Args:
        labels: per image (t,) int64.
        boxes_cxcywh: per image (t, 4) float32.
        num_groups: K.
        num_classes: C.
    """
    most = max(len(image_labels) for image_labels in labels)
    device = labels[0].device
    slots = (len(labels), num_groups, most)
    noisy_labels = torch.full(slots, num_classes, device=device)
    noisy_boxes = torch.full((*slots, 4), BLANK_BOX, device=device)
    for image, (own_labels, own_boxes) in enumerate(zip(labels, boxes_cxcywh, strict=True)):
        count = len(own_labels)
        noisy_labels[image, :, :count] = with_other_labels(
            own_labels.expand(num_groups, -1), num_classes
        )
        noisy_boxes[image, :, :count] = moved(own_boxes.expand(num_groups, -1, -1))
    exists = noisy_labels < num_classes
    images, _, places = (index for index in exists.nonzero().unbind(1))
    offsets = torch.tensor([0, *map(len, labels)], device=device).cumsum(0)
    pairs = (images, exists.flatten(1).nonzero()[:, 1], offsets[images] + places)
    return NoisyQueries(
        noisy_labels.flatten(1), noisy_boxes.flatten(1, 2), exists.flatten(1), pairs
    )


def moved(boxes_cxcywh: Tensor) -> Tensor:
    """Boxes (..., 4) with noise in centre and sides."""
    sides = boxes_cxcywh[..., 2:]
    reach = torch.cat([sides / 2, sides], dim=-1) * BOX_NOISE
    noise = 2 * torch.rand_like(boxes_cxcywh) - 1
    return (boxes_cxcywh + noise * reach).clamp(0, 1)


def with_other_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Labels of any shape, some of them drawn anew."""
    others = torch.randint_like(labels, num_classes)
    return torch.where(torch.rand(labels.shape, device=labels.device) < LABEL_NOISE, others, labels)


def apart(sizes: Sequence[int], device: torch.device) -> Tensor | None:
    """Keep groups of queries apart in self-attention.

    Args:
        sizes: of the groups, in their order; they sum to Q.
        device: of the mask.

    Returns:
        (Q, Q) bool, True = may not attend: to a query of another group. None for one group.
    """
    if len(sizes) < 2:
        return None
    group = torch.arange(len(sizes), device=device).repeat_interleave(
        torch.tensor(sizes, device=device)
    )
    return group[:, None] != group

"""Attention maps of DETR's encoder and QPIC's decoder over the image.

DETR: from a point of the image (figure 3 of arXiv 2005.12872); QPIC: for a pair (figure 5 of arXiv
2103.05399). Shapes: images of H x W pixels, h x w cells of the feature map.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from dropkey_core.analysis.capture import captured_attention, captured_shape


class Reference(NamedTuple):
    """A point to look from: fractions of the image's width and height, and what is there."""

    x: float
    y: float
    label: str


@torch.no_grad()
def run_with_attention(
    model: nn.Module, attention: nn.Module, sample: dict[str, Any]
) -> tuple[dict[str, Tensor], Tensor]:
    """Run a model on an image and keep what one of its attentions gives the cells.

    Args:
        model: a ``Detr`` or ``Qpic`` in eval mode.
        attention: one of its modules whose keys are the cells of the feature map.
        sample: see ``Detr.forward``.

    Returns:
        what the model returns for the image, and (Lq, h, w) weights, the mean over heads; those of
        a query sum to 1.
    """
    with captured_shape(model.input_proj) as shapes, captured_attention(attention) as maps:
        (outputs,) = model([sample])
    return outputs, maps[""][0][0].mean(0).unflatten(-1, shapes[0][-2:])


def attention_from(attention: Tensor, point: Reference, size: Sequence[int]) -> Tensor:
    """Attention from the cell that a point of an image lies in.

    Args:
        attention: (h w, h, w) of the image.
        point: inside the image.
        size: (H, W) of the image as the model saw it.

    Returns:
        (h, w), what each cell gets.
    """
    cells = attention.shape[1:]
    side = cell_side(size, cells)
    row = min(int(point.y * size[0]) // side, cells[0] - 1)
    column = min(int(point.x * size[1]) // side, cells[1] - 1)
    return attention[row * cells[1] + column]


def cell_side(size: Sequence[int], cells: Sequence[int]) -> int:
    """Pixels along a cell, a power of two; the last cells may reach over the image's edge."""
    return 2 ** math.ceil(math.log2(max(size[0] / cells[0], size[1] / cells[1])))


def on_image(weights: Tensor, size: Sequence[int]) -> np.ndarray:
    """What each pixel gets, between the cells' middles linearly.

    Args:
        weights: (h, w) of the cells, which begin at the image's upper left corner.
        size: (H, W) of the image as the model saw it.

    Returns:
        (H, W) float32.
    """
    side = cell_side(size, weights.shape)
    pixels = interpolate(weights[None, None].float(), scale_factor=side, mode="bilinear")[0, 0]
    return pixels[: size[0], : size[1]].cpu().numpy()

"""Where the decoder of QPIC looks for a pair (figure 5 of arXiv 2103.05399 shows such maps).

Shapes: B images, Q queries, h x w cells of the feature map.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from dropkey_core.analysis.capture import captured_attention, captured_shape
from projects.detr.picture import Picture
from projects.detr.visualize import draw_map
from projects.figure import (
    CAPTION,
    FONT_SIZE,
    MARGIN,
    add_axes,
    new_figure,
    write,
)
from projects.qpic.picture import Pair, draw_pair
from projects.qpic.qpic import Qpic

MAP_SIDE = 520  # longer side of each map, in pixels
PER_ROW = 4


@torch.no_grad()
def find_with_attention(
    model: Qpic, samples: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Tensor]], Tensor]:
    """Find pairs and keep the cross-attention of the last decoder layer.

    Args:
        model: in eval mode.
        samples: see ``Qpic.forward``.

    Returns:
        what the model returns, and the attention (B, Q, h, w), the mean of its heads. The weights
        of a query sum to 1; padding gets none.
    """
    last_layer = model.transformer.decoder.layers[-1]
    with (
        captured_shape(model.input_proj) as shapes,
        captured_attention(last_layer.multihead_attn) as maps,
    ):
        found = model(samples)
    return found, maps[""][0].mean(1).unflatten(-1, shapes[0][-2:])


def draw_attention_maps(
    picture: Picture[Pair],
    pairs: Sequence[Pair],
    maps: Sequence[np.ndarray],
    span: tuple[float, float],
    heading: str,
) -> Figure:
    """Draw, for each pair, where its query looks, with the pair over it.

    Args:
        picture: the image; its own pairs are not drawn.
        pairs: at least one.
        maps: for each pair (h, w), what each cell gets.
        span: width and height of all cells together, in those of the image; see ``cell_span``.
        heading: one line.
    """
    factor = MAP_SIDE / max(picture.image.shape[:2])
    picture = picture.scaled(factor)
    height, width = picture.image.shape[:2]
    columns = min(len(pairs), PER_ROW)
    rows = math.ceil(len(pairs) / PER_ROW)
    caption = CAPTION * max(len(pair.verbs) for pair in pairs)  # one line per verb
    top = 60  # the heading
    page_width = max(columns * (width + MARGIN) + MARGIN, 900)
    figure = new_figure(page_width, top + rows * (caption + height + MARGIN))
    write(figure, MARGIN, 30, heading, size=1.25 * FONT_SIZE)
    for number, (pair, weights) in enumerate(zip(pairs, maps, strict=True)):
        row, column = divmod(number, PER_ROW)
        x = MARGIN + column * (width + MARGIN)
        y = top + row * (caption + height + MARGIN)
        write(figure, x, y + caption / 2, pair.label)
        axes = add_axes(figure, x, y + caption, width, height)
        draw_map(axes, picture.image, weights, span)
        draw_pair(axes, pair.scaled(factor), (height, width))
    return figure

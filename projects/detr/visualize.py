"""Pages of what DETR finds, and figures of where its encoder looks.

Shapes: B images of H x W pixels, h x w cells of the feature map, L = h w.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from dropkey_core.analysis.capture import captured_attention, captured_shape
from projects.detr.detr import Detr
from projects.detr.picture import (
    DASHED,
    FOUND_IOU,
    PREDICTED,
    TRUE,
    Picture,
    draw_boxes,
)
from projects.figure import (
    CAPTION,
    FONT_SIZE,
    MARGIN,
    add_axes,
    add_legend,
    new_figure,
    write,
)

# Okabe and Ito's palette, whose colours stay apart for every kind of colour vision.
POINT_COLOURS = ("#E69F00", "#56B4E9", "#F0E442", "#CC79A7", "#009E73", "#D55E00", "#0072B2")
PICTURE_SIDES = (800, 1600)  # least and greatest longer side of a picture, in pixels
CELL = (440, 400)  # width and greatest height of a picture on the page, in pixels
ATTENTION_SIDE = 900  # longer side of the image among its attention maps, in pixels


# ---- boxes ---------------------------------------------------------------------------------------
def draw_picture(picture: Any, draw: Callable[[Any, Axes], None] = draw_boxes) -> Figure:
    """Draw what was found on an image and nothing around it.

    Small images are enlarged until labels can be read, large ones reduced, see ``PICTURE_SIDES``.

    Args:
        picture: a ``Picture``, of boxes or of something else.
        draw: draws it on axes that have as many pixels as its image.
    """
    longer = max(picture.image.shape[:2])
    least, greatest = PICTURE_SIDES
    picture = picture.scaled(min(max(longer, least), greatest) / longer)
    height, width = picture.image.shape[:2]
    figure = new_figure(width, height)
    draw(picture, add_axes(figure, 0, 0, width, height))
    return figure


def draw_page(
    pictures: Sequence[Any],
    heading: str,
    draw: Callable[[Any, Axes], None] = draw_boxes,
    explain: Callable[[Sequence[Any]], list[Any]] | None = None,
) -> Figure:
    """Draw pictures in a grid, with a heading and a legend.

    Args:
        pictures: at least one, as ``draw_picture`` takes them; up to four stand side by side.
        heading: one line.
        draw: see ``draw_picture``.
        explain: makes the legend's entries; default: those of boxes.
    """
    columns = min(len(pictures), max(2, min(4, math.ceil(math.sqrt(len(pictures))))))
    width, height = CELL
    pictures = [
        picture.scaled(min(width / picture.image.shape[1], height / picture.image.shape[0]))
        for picture in pictures
    ]
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    row_heights = [max(picture.image.shape[0] for picture in row) for row in rows]
    top = 96  # heading and legend
    page_width = max(columns, 2) * (width + MARGIN) + MARGIN
    page_height = top + sum(row_height + CAPTION + MARGIN for row_height in row_heights)
    figure = new_figure(page_width, page_height)
    write(figure, MARGIN, 30, heading, size=1.25 * FONT_SIZE)
    add_legend(figure, MARGIN, 68, (explain or box_kinds)(pictures))
    y = top
    for row, row_height in zip(rows, row_heights, strict=True):
        for column, picture in enumerate(row):
            h, w = picture.image.shape[:2]
            x = MARGIN + column * (width + MARGIN)
            write(figure, x, y + CAPTION / 2, picture.title, size=0.9 * FONT_SIZE)
            draw(picture, add_axes(figure, x, y + CAPTION, w, h))
        y += row_height + CAPTION + MARGIN
    return figure


def box_kinds(pictures: Sequence[Picture]) -> list[Any]:
    """Legend entries of those kinds of boxes that occur."""
    handles: list[Any] = [Line2D([], [], color=PREDICTED, linewidth=2, label="predicted, score")]
    true = [box for picture in pictures for box in picture.true]
    if true:
        label = f"true, named where not found at IoU {FOUND_IOU:g}"
        handles.append(Line2D([], [], color=TRUE, linewidth=2, linestyle=DASHED, label=label))
    if any(box.is_crowd for box in true):
        handles.append(
            Patch(fill=False, edgecolor=TRUE, linestyle=":", hatch="//", label="crowd, not judged")
        )
    return handles


# ---- attention -----------------------------------------------------------------------------------
@torch.no_grad()
def detect_with_attention(
    model: Detr, samples: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Tensor]], Tensor]:
    """Detect objects and keep the self-attention of the last encoder layer.

    Args:
        model: in eval mode.
        samples: see ``Detr.forward``.

    Returns:
        what the model returns, and the attention (B, heads, h, w, h, w): from the cell of the
        first h, w to that of the second. The weights of a cell sum to 1; padding gets none.
    """
    last_layer = model.transformer.encoder.layers[-1]
    with (
        captured_shape(model.input_proj) as shapes,
        captured_attention(last_layer.self_attn) as maps,
    ):
        detections = model(samples)
    cells = shapes[0][-2:]
    return detections, maps[""][0].unflatten(-1, cells).unflatten(2, cells)


@dataclass(frozen=True)
class Reference:
    """A point to look from.

    Attributes:
        x: as a fraction of the image's width, in [0, 1].
        y: as a fraction of its height.
        label: what is there.
    """

    x: float
    y: float
    label: str


def attention_from(attention: Tensor, point: Reference, size: tuple[int, int]) -> Tensor:
    """Attention from the cell that a point of an image lies in, averaged over heads.

    Args:
        attention: (heads, h, w, h, w) of the image.
        point: inside the image.
        size: (H, W) of the image as the model saw it, without padding.

    Returns:
        (h, w), what each cell gets.
    """
    cells = attention.shape[1:3]
    stride = cell_side(size, cells)
    row = min(int(point.y * size[0]) // stride, cells[0] - 1)
    column = min(int(point.x * size[1]) // stride, cells[1] - 1)
    return attention[:, row, column].mean(0)


def cell_side(size: tuple[int, int], cells: tuple[int, int]) -> int:
    """Pixels along a cell, a power of two; the last cells may reach over the image's edge."""
    return 2 ** math.ceil(math.log2(max(size[0] / cells[0], size[1] / cells[1])))


def cell_span(size: tuple[int, int], cells: tuple[int, int]) -> tuple[float, float]:
    """Width and height of all cells (h, w) together, in those of an image (H, W); 1 or more."""
    side = cell_side(size, cells)
    return cells[1] * side / size[1], cells[0] * side / size[0]


def draw_attention(
    picture: Picture,
    points: Sequence[Reference],
    maps: Sequence[np.ndarray],
    span: tuple[float, float],
    heading: str,
) -> Figure:
    """Draw an image amid the attention from points of it (figure 3 of arXiv 2005.12872).

    Args:
        picture: the image; its boxes are not drawn.
        points: where to look from, at least one.
        maps: for each point (h, w), what each cell gets.
        span: width and height of all cells together, in those of the image; see ``cell_span``.
        heading: one line.
    """
    factor = ATTENTION_SIDE / max(picture.image.shape[:2])
    picture = picture.scaled(factor)
    height, width = picture.image.shape[:2]
    per_side = math.ceil(len(points) / 2)
    top = 60  # the heading
    map_height = (height - (per_side - 1) * (CAPTION + MARGIN)) / per_side
    map_width = round(map_height * width / height)
    num_left = len(points) // 2
    image_x = MARGIN + (map_width + MARGIN if num_left else 0)
    page_width = image_x + width + MARGIN + map_width + MARGIN
    figure = new_figure(page_width, top + CAPTION + height + MARGIN)
    write(figure, MARGIN, 30, heading, size=1.25 * FONT_SIZE)
    write(figure, image_x, top + CAPTION / 2, picture.title)
    axes = add_axes(figure, image_x, top + CAPTION, width, height)
    axes.imshow(picture.image)
    for number, point in enumerate(points):
        mark(axes, number, point.x * width, point.y * height)
    for number, (point, weights) in enumerate(zip(points, maps, strict=True)):
        is_left = number < num_left
        place = number if is_left else number - num_left
        x = MARGIN if is_left else image_x + width + MARGIN
        y = top + round(place * (map_height + CAPTION + MARGIN))
        write(figure, x, y + CAPTION / 2, f"{number + 1}: {point.label}")
        axes = add_axes(figure, x, y + CAPTION, map_width, round(map_height))
        draw_map(axes, picture.image, weights, span)
        mark(axes, number, point.x * width, point.y * height)
    return figure


def draw_map(axes: Axes, image: np.ndarray, weights: np.ndarray, span: tuple[float, float]) -> None:
    """Lay a map (h, w) over an image in grey, darkest at 0, brightest at its own maximum."""
    height, width = image.shape[:2]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
    extent = (-0.5, span[0] * width - 0.5, span[1] * height - 0.5, -0.5)
    axes.imshow(weights, extent=extent, cmap="viridis", vmin=0, interpolation="bilinear", alpha=0.7)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def mark(axes: Axes, number: int, x: float, y: float) -> None:
    """Mark a point with its number, counted from 1."""
    colour = POINT_COLOURS[number % len(POINT_COLOURS)]
    axes.plot(
        [x], [y], "o", markersize=13, color=colour, markeredgecolor="black", markeredgewidth=1.2
    )
    axes.text(x, y, str(number + 1), fontsize=FONT_SIZE, ha="center", va="center_baseline")

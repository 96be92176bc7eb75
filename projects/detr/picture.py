"""Boxes, labels and lines on images, and attention maps over them: single pictures and pages."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox, IdentityTransform
from torch import Tensor
from torchvision.ops import box_iou

from projects.figure import (
    DPI,
    FONT_SIZE,
    SMALL_FONT_SIZE,
    Panel,
    PictureRow,
    add_axes,
    draw_page,
    escaped,
    new_figure,
)

Corners = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels of the image

# Okabe and Ito's palette, whose colours stay apart for every kind of colour vision.
ORANGE, SKY, YELLOW, GREY = "#E69F00", "#56B4E9", "#F0E442", "#C8C8C8"
DASHED = (0, (4, 2))

LINE_WIDTH = 1.6  # points
LABEL_PAD = 3  # pixels around a label's text
PICTURE_SIDES = (800, 1600)  # least and greatest longer side of a picture, in pixels
CELL = (440, 400)  # width and greatest height of a picture on a page, in pixels
FOUND_IOU = 0.5  # as in AP50


@dataclass(frozen=True)
class Marking:
    """A box, or two with a line between their centres, and one label.

    Attributes:
        boxes: corners of each.
        colours: one for each.
        label: lines of text; "" writes nothing.
        label_colour: of what is behind the text, and of the line.
        is_true: dashed instead of solid.
        is_crowd: dotted and hatched.
    """

    boxes: Sequence[Corners]
    colours: Sequence[str]
    label: str = ""
    label_colour: str = GREY
    is_true: bool = False
    is_crowd: bool = False


@dataclass(frozen=True)
class Picture:
    """An image and what to draw on it.

    Attributes:
        title: its caption on a page.
        image: (H, W, 3) uint8 RGB.
        annotations: those listed first lie on top, and have the first choice of a label's place.
        attention: (h, w) weights, of which each is an equal part of the image; it is drawn in grey
            below them, darkest at 0, brightest at their maximum.
        points: number -> (x, y), points to mark, in pixels.
    """

    title: str
    image: np.ndarray
    annotations: Sequence[Marking] = ()
    attention: np.ndarray | None = None
    points: Mapping[int, tuple[float, float]] = field(default_factory=dict)

    def size(self, factor: float) -> tuple[int, int]:
        """Width and height when it is enlarged by a factor; at least one pixel."""
        height, width = self.image.shape[:2]
        return max(1, round(factor * width)), max(1, round(factor * height))


def as_array(image: Tensor) -> np.ndarray:
    """An image (3, H, W) as (H, W, 3)."""
    return image.permute(1, 2, 0).contiguous().numpy()


# ---- pictures and pages --------------------------------------------------------------------------
def draw_picture(picture: Picture) -> Figure:
    """Draw what was found on an image and nothing around it.

    Small images are enlarged until labels can be read, large ones reduced, see ``PICTURE_SIDES``.
    """
    longer = max(picture.image.shape[:2])
    size = picture.size(min(max(longer, PICTURE_SIDES[0]), PICTURE_SIDES[1]) / longer)
    figure = new_figure(*size)
    draw(picture, add_axes(figure, 0, 0, *size))
    return figure


def draw_pictures(pictures: Sequence[Picture], heading: str, legend: Sequence[Any] = ()) -> Figure:
    """Draw pictures in a grid, up to four side by side, with a heading and a legend."""
    columns = min(len(pictures), max(2, min(4, math.ceil(math.sqrt(len(pictures))))))
    panels = []
    for picture in pictures:
        height, width = picture.image.shape[:2]
        size = picture.size(min(CELL[0] / width, CELL[1] / height))
        panels.append(Panel(picture.title, *size, lambda axes, drawn=picture: draw(drawn, axes)))
    rows = [PictureRow(panels[first : first + columns]) for first in range(0, len(panels), columns)]
    return draw_page(rows, [heading], legend)


def legend_line(label: str, colour: str, **style: Any) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], color=colour, linewidth=2, label=label, **style)


def draw(picture: Picture, axes: Axes) -> None:
    """Draw a picture on axes, whose coordinates become the image's pixels, edges at whole ones."""
    height, width = picture.image.shape[:2]
    extent = (0, width, height, 0)
    width_drawn, height_drawn = (max(1, round(side)) for side in axes.bbox.size)
    how = cv2.INTER_AREA if width_drawn < width else cv2.INTER_CUBIC
    image = cv2.resize(picture.image, (width_drawn, height_drawn), interpolation=how)
    if picture.attention is None:
        axes.imshow(image, extent=extent, aspect="auto", interpolation="nearest")
    else:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        axes.imshow(grey, extent=extent, aspect="auto", cmap="gray", vmin=0, vmax=255)
        colours = {"cmap": "viridis", "vmin": 0, "alpha": 0.7, "interpolation": "bilinear"}
        axes.imshow(picture.attention, extent=extent, aspect="auto", **colours)
    axes.set(xlim=extent[:2], ylim=extent[2:])
    taken: list[Bbox] = []
    for annotation in reversed(picture.annotations):
        add_boxes(axes, annotation)
    for annotation in picture.annotations:
        add_label(axes, annotation, taken)
    for number, (x, y) in picture.points.items():
        mark(axes, number, x, y)


# ---- lines ---------------------------------------------------------------------------------------
def add_boxes(axes: Axes, annotation: Marking) -> None:
    """Draw the boxes of an annotation whole, also along the image's edges, and the line."""
    style: dict[str, Any] = {"linewidth": LINE_WIDTH}
    if annotation.is_crowd:
        style |= {"linestyle": ":", "hatch": "/", "alpha": 0.8}
    else:
        style |= {"linestyle": DASHED if annotation.is_true else "-", "path_effects": [halo()]}
    inset = LINE_WIDTH * DPI / 72 / 2
    canvas = axes.bbox.padded(-inset)
    for corners, colour in zip(annotation.boxes, annotation.colours, strict=True):
        box = on_page(axes, corners)
        low = np.clip(box.min, canvas.min, canvas.max)
        width, height = np.clip(box.max, canvas.min, canvas.max) - low
        place = {"transform": IdentityTransform(), "fill": False, "joinstyle": "miter"}
        axes.add_patch(Rectangle(low, width, height, edgecolor=colour, **place, **style))
    if len(annotation.boxes) == 2:
        corners = np.array(annotation.boxes).reshape(2, 2, 2)  # boxes, ends, x and y
        style |= {"color": annotation.label_colour, "marker": "o", "markersize": 3.5}
        axes.plot(*corners.mean(axis=1).T, **style)


def halo() -> withStroke:
    """A dark edge around lines, which tells them from any image."""
    return withStroke(linewidth=LINE_WIDTH + 1.2, foreground="#202020", alpha=0.7)


def on_page(axes: Axes, corners: Corners) -> Bbox:
    """Where a box lies on the figure, in its pixels from the lower left corner."""
    (x0, y0), (x1, y1) = axes.transData.transform(np.reshape(corners, (2, 2)))
    return Bbox.from_extents(x0, y1, x1, y0)


def mark(axes: Axes, number: int, x: float, y: float) -> None:
    """Mark a point with a number."""
    style = {"color": ORANGE, "markeredgecolor": "black", "markeredgewidth": 1.2}
    axes.plot(x, y, "o", markersize=13, **style)
    axes.text(x, y, str(number), fontsize=FONT_SIZE, ha="center", va="center_baseline")


def overlap(first: Corners, second: Corners) -> float:
    """Intersection over union of two boxes."""
    return float(box_iou(torch.tensor([first]), torch.tensor([second])))


# ---- labels --------------------------------------------------------------------------------------
def add_label(axes: Axes, annotation: Marking, taken: list[Bbox]) -> None:
    """Write a label along its last box where it hides no other, smaller where there is little room.

    Where there is none nothing is written. The place found is added to ``taken``.
    """
    behind = {"facecolor": annotation.label_colour, "edgecolor": "none"}
    for font_size in (FONT_SIZE, SMALL_FONT_SIZE) if annotation.label else ():
        text = axes.text(
            *(0, 0, escaped(annotation.label)),
            transform=IdentityTransform(),
            fontsize=font_size,
            va="top",
            clip_on=True,
            bbox={**behind, "pad": LABEL_PAD * 72 / DPI},
            zorder=5,  # above the lines of all boxes
        )
        size = text.get_window_extent().padded(LABEL_PAD).size
        for place in label_places(size, on_page(axes, annotation.boxes[-1]), axes.bbox):
            if not place.padded(-1).count_overlaps(taken):
                taken.append(place)
                text.set_position((place.x0 + LABEL_PAD, place.y1 - LABEL_PAD))
                return
        text.remove()


def label_places(size: Sequence[float], box: Bbox, canvas: Bbox) -> Iterator[Bbox]:
    """Places for a label along the sides of its box, wholly inside the canvas, the best first.

    Args:
        size: width and height of the label.
        box: what it is of, in pixels from the lower left corner.
        canvas: the image, likewise.
    """
    width, height = size
    wanted = [
        (x, y)
        for y in (box.y1, box.y1 - height, box.y0, box.y0 - height)  # above, inside, ..., below
        for x in (box.x0, box.x1 - width)
    ]
    wanted += [(box.x0, y) for y in np.arange(box.y1 - 2 * height, box.y0, -height)]
    for x, y in wanted:
        x = max(canvas.x0, min(x, canvas.x1 - width))
        y = max(canvas.y0, min(y, canvas.y1 - height))
        yield Bbox.from_bounds(x, y, width, height)

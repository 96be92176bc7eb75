"""Pictures of what DETR finds, and of where its encoder looks.

Shapes: B images of H x W pixels, h x w cells of the feature map, L = h w.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor, nn

from projects.detr.detr import Detr

Place = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels

# Of Okabe and Ito's palette, whose colours stay apart for every kind of colour vision.
PREDICTED, TRUE = "#E69F00", "#56B4E9"
POINT_COLOURS = ("#E69F00", "#56B4E9", "#F0E442", "#CC79A7", "#009E73", "#D55E00", "#0072B2")
HALO = "#202020"
DASHED = (0, (4, 2))

DPI = 128  # a power of two: sizes in pixels survive the way through inches
FONT_SIZE, SMALL_FONT_SIZE = 8.5, 6.5  # points
LINE_WIDTH = 1.6  # points
MAX_HIDDEN = 0.05  # share of a label that may lie below another
LABEL_PAD = 3  # pixels around a label's text
MARGIN = 16  # pixels between the pictures of a page
LONGEST_NAME = 28  # letters of a class name

PICTURE_SIDES = (800, 1600)  # least and greatest longer side of a picture, in pixels
CELL = (440, 400)  # width and greatest height of a picture on the page, in pixels
ATTENTION_SIDE = 900  # longer side of the image among its attention maps, in pixels
FOUND_IOU = 0.5  # as in AP50


@dataclass(frozen=True)
class Box:
    """A box to draw.

    Attributes:
        corners: x0, y0, x1, y1 in pixels of the image.
        name: of its class.
        score: in [0, 1] if it was predicted, None if it is true.
        is_crowd: whether it holds many objects that nobody told apart.
    """

    corners: Place
    name: str
    score: float | None = None
    is_crowd: bool = False

    @property
    def colour(self) -> str:
        """Tells predicted boxes from true ones."""
        return TRUE if self.score is None else PREDICTED

    @property
    def label(self) -> str:
        """What is written on it."""
        name = self.name
        if len(name) > LONGEST_NAME:
            name = name[: LONGEST_NAME - 1] + "…"
        if self.is_crowd:
            return f"{name} (crowd)"
        return name if self.score is None else f"{name} {self.score:.2f}"

    def scaled(self, factor: float) -> "Box":
        """The same box on an image that was resized by ``factor``."""
        x0, y0, x1, y1 = (factor * value for value in self.corners)
        return Box((x0, y0, x1, y1), self.name, self.score, self.is_crowd)


@dataclass(frozen=True)
class Picture:
    """An image and what to draw on it.

    Attributes:
        title: a few words.
        image: (H, W, 3) uint8 RGB.
        predicted: what the model found.
        true: what is there; empty if that is not known.
    """

    title: str
    image: np.ndarray
    predicted: Sequence[Box]
    true: Sequence[Box] = ()

    def scaled(self, factor: float) -> "Picture":
        """The same picture at another size; no side gets below one pixel."""
        size = [max(1, round(factor * side)) for side in self.image.shape[1::-1]]
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        return Picture(
            self.title,
            cv2.resize(self.image, size, interpolation=how),
            [box.scaled(factor) for box in self.predicted],
            [box.scaled(factor) for box in self.true],
        )


# ---- boxes ---------------------------------------------------------------------------------------
def draw_picture(picture: Picture) -> Figure:
    """Draw boxes on an image and nothing around it.

    Small images are enlarged until labels can be read, large ones reduced, see ``PICTURE_SIDES``.
    """
    longer = max(picture.image.shape[:2])
    least, greatest = PICTURE_SIDES
    picture = picture.scaled(min(max(longer, least), greatest) / longer)
    height, width = picture.image.shape[:2]
    figure = new_figure(width, height)
    draw_boxes(picture, add_axes(figure, 0, 0, width, height))
    return figure


def draw_page(pictures: Sequence[Picture], heading: str) -> Figure:
    """Draw pictures in a grid, with a heading and a legend.

    Args:
        pictures: at least one; up to four stand side by side.
        heading: one line.
    """
    columns = min(len(pictures), max(2, min(4, math.ceil(math.sqrt(len(pictures))))))
    width, height = CELL
    pictures = [
        picture.scaled(min(width / picture.image.shape[1], height / picture.image.shape[0]))
        for picture in pictures
    ]
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    row_heights = [max(picture.image.shape[0] for picture in row) for row in rows]
    caption = 30
    top = 96  # heading and legend
    page_width = max(columns, 2) * (width + MARGIN) + MARGIN
    page_height = top + sum(row_height + caption + MARGIN for row_height in row_heights)
    figure = new_figure(page_width, page_height)
    write(figure, MARGIN, 30, heading, size=1.25 * FONT_SIZE)
    add_legend(figure, MARGIN, 68, pictures)
    y = top
    for row, row_height in zip(rows, row_heights, strict=True):
        for column, picture in enumerate(row):
            h, w = picture.image.shape[:2]
            x = MARGIN + column * (width + MARGIN)
            write(figure, x, y + caption / 2, picture.title, size=0.9 * FONT_SIZE)
            draw_boxes(picture, add_axes(figure, x, y + caption, w, h))
        y += row_height + caption + MARGIN
    return figure


def draw_boxes(picture: Picture, axes: Axes) -> None:
    """Draw an image and its boxes on axes that have as many pixels as the image.

    True boxes lie below predicted ones. Of the true ones only those that were not found carry
    their name, since on the others it stands already.
    """
    axes.imshow(picture.image, interpolation="nearest")
    height, width = picture.image.shape[:2]
    inset = LINE_WIDTH * DPI / 72 / 2  # lines along the border stay whole
    for box in [*picture.true, *picture.predicted]:
        x0, y0, x1, y1 = box.corners
        left, right = np.clip((x0, x1), inset, max(inset, width - inset)) - 0.5
        top, bottom = np.clip((y0, y1), inset, max(inset, height - inset)) - 0.5
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, **box_style(box)))
    ranked = sorted(picture.predicted, key=lambda box: -(box.score or 0))
    missed = [box for box in picture.true if box.is_crowd or not is_found(box, ranked)]
    taken: list[Place] = []
    for box in [*ranked, *missed]:
        add_label(axes, box, taken)


def box_style(box: Box) -> dict[str, Any]:
    """How a box is drawn: predicted ones solid, true ones dashed, crowds dotted and hatched."""
    style: dict[str, Any] = {
        "fill": False,
        "linewidth": LINE_WIDTH,
        "edgecolor": box.colour,
        "linestyle": DASHED if box.score is None else "-",
        "joinstyle": "miter",
    }
    if box.is_crowd:
        return {**style, "linestyle": ":", "hatch": "/", "alpha": 0.8}
    halo = withStroke(linewidth=LINE_WIDTH + 1.2, foreground=HALO, alpha=0.7)
    return {**style, "path_effects": [halo]}


def is_found(true: Box, predicted: Sequence[Box]) -> bool:
    """Whether a predicted box of the same class overlaps a true one by ``FOUND_IOU`` or more."""
    return any(
        box.name == true.name and overlap(box.corners, true.corners) >= FOUND_IOU
        for box in predicted
    )


def overlap(first: Place, second: Place) -> float:
    """Intersection over union of two rectangles."""
    common = common_area(first, second)
    areas = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (first, second))
    return common / (areas - common) if common else 0.0


def common_area(first: Place, second: Place) -> float:
    """Area that two rectangles share."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)


# ---- labels --------------------------------------------------------------------------------------
def add_label(axes: Axes, box: Box, taken: list[Place]) -> None:
    """Write a box's label where it hides no other, smaller where there is little room.

    Where there is none the box stays without. The place found is added to ``taken``.
    """
    renderer = axes.figure.canvas.get_renderer()
    width, height = (abs(low - high) for low, high in (axes.get_xlim(), axes.get_ylim()))
    for font_size in (FONT_SIZE, SMALL_FONT_SIZE):
        text = axes.text(
            *(0, 0, escaped(box.label)),
            fontsize=font_size,
            ha="left",
            va="top",
            clip_on=True,
            bbox={"facecolor": box.colour, "edgecolor": "none", "pad": LABEL_PAD * 72 / DPI},
            zorder=5,  # above the lines of all boxes
        )
        extent = text.get_window_extent(renderer)
        size = (extent.width + 2 * LABEL_PAD, extent.height + 2 * LABEL_PAD)
        place = label_place(size, box.corners, (width, height), taken)
        if place is not None:
            taken.append(place)
            text.set_position((place[0] + LABEL_PAD - 0.5, place[1] + LABEL_PAD - 0.5))
            return
        text.remove()


def label_place(
    size: tuple[float, float],
    corners: Sequence[float],
    canvas: tuple[float, float],
    taken: Sequence[Place],
) -> Place | None:
    """Find a place for a label along the sides of its box, wholly inside the image.

    Args:
        size: width and height of the label in pixels.
        corners: x0, y0, x1, y1 of the box.
        canvas: width and height of the image.
        taken: where other labels are.

    Returns:
        the first place that other labels leave free, but for ``MAX_HIDDEN`` of its area; or None.
    """
    width, height = size
    x0, y0, x1, y1 = corners
    wanted = [
        (x, y)
        for y in (y0 - height, y0, y1 - height, y1)  # above, top inside, bottom inside, below
        for x in (x0, x1 - width)
    ]
    wanted += [(x0, y0 + step * height) for step in range(1, int((y1 - y0) / height))]
    for x, y in wanted:
        x = max(0.0, min(x, canvas[0] - width))
        y = max(0.0, min(y, canvas[1] - height))
        place = (x, y, x + width, y + height)
        if sum(common_area(place, other) for other in taken) <= MAX_HIDDEN * width * height:
            return place
    return None


def escaped(text: str) -> str:
    """Text for matplotlib, which would read formulas between dollar signs."""
    return text.replace("$", r"\$")


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
        captured_weights(last_layer.self_attn) as weights,
    ):
        detections = model(samples)
    cells = shapes[0][-2:]
    return detections, weights[0].unflatten(-1, cells).unflatten(2, cells)


@contextmanager
def captured_weights(attention: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the weights (B, heads, Lq, Lk) of each call of an attention inside the context.

    What the call itself computes stays as it is: the weights are computed beside it.
    """
    collected: list[Tensor] = []

    def compute_weights(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        wanted = {**kwargs, "need_weights": True, "average_attn_weights": False}
        collected.append(module.forward(*args, **wanted)[1])  # forward() calls no hook again

    hook = attention.register_forward_pre_hook(compute_weights, with_kwargs=True)
    try:
        yield collected
    finally:
        hook.remove()


@contextmanager
def captured_shape(module: nn.Module) -> Iterator[list[torch.Size]]:
    """Collect the shape of what a module returns, for each call inside the context."""
    collected: list[torch.Size] = []
    hook = module.register_forward_hook(lambda _, __, output: collected.append(output.shape))
    try:
        yield collected
    finally:
        hook.remove()


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


def cell_side(size: Sequence[int], cells: Sequence[int]) -> int:
    """Pixels along a cell, a power of two; the last cells may reach over the image's edge."""
    return 2 ** math.ceil(math.log2(max(size[0] / cells[0], size[1] / cells[1])))


def draw_attention(
    picture: Picture,
    points: Sequence[Reference],
    maps: Sequence[np.ndarray],
    stride: float,
    heading: str,
) -> Figure:
    """Draw an image amid the attention from points of it (figure 3 of arXiv 2005.12872).

    Args:
        picture: the image; its boxes are not drawn.
        points: where to look from, at least one.
        maps: for each point (h, w), what each cell gets.
        stride: side of a cell in pixels of the image.
        heading: one line.
    """
    factor = ATTENTION_SIDE / max(picture.image.shape[:2])
    picture = picture.scaled(factor)
    height, width = picture.image.shape[:2]
    per_side = math.ceil(len(points) / 2)
    caption, top = 30, 60
    map_height = (height - (per_side - 1) * (caption + MARGIN)) / per_side
    map_width = round(map_height * width / height)
    num_left = len(points) // 2
    image_x = MARGIN + (map_width + MARGIN if num_left else 0)
    page_width = image_x + width + MARGIN + map_width + MARGIN
    figure = new_figure(page_width, top + caption + height + MARGIN)
    write(figure, MARGIN, 30, heading, size=1.25 * FONT_SIZE)
    write(figure, image_x, top + caption / 2, picture.title)
    axes = add_axes(figure, image_x, top + caption, width, height)
    axes.imshow(picture.image)
    for number, point in enumerate(points):
        mark(axes, number, point.x * width, point.y * height)
    for number, (point, weights) in enumerate(zip(points, maps, strict=True)):
        is_left = number < num_left
        place = number if is_left else number - num_left
        x = MARGIN if is_left else image_x + width + MARGIN
        y = top + round(place * (map_height + caption + MARGIN))
        write(figure, x, y + caption / 2, f"{number + 1}: {point.label}")
        axes = add_axes(figure, x, y + caption, map_width, round(map_height))
        draw_map(axes, picture.image, weights, stride * factor)
        mark(axes, number, point.x * width, point.y * height)
    return figure


def draw_map(axes: Axes, image: np.ndarray, weights: np.ndarray, stride: float) -> None:
    """Lay a map (h, w) over an image in grey, darkest at 0, brightest at its own maximum."""
    height, width = image.shape[:2]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
    rows, columns = weights.shape
    covered = (-0.5, columns * stride - 0.5, rows * stride - 0.5, -0.5)
    axes.imshow(
        weights, extent=covered, cmap="viridis", vmin=0, interpolation="bilinear", alpha=0.7
    )
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def mark(axes: Axes, number: int, x: float, y: float) -> None:
    """Mark a point with its number, counted from 1."""
    colour = POINT_COLOURS[number % len(POINT_COLOURS)]
    axes.plot(
        [x], [y], "o", markersize=13, color=colour, markeredgecolor="black", markeredgewidth=1.2
    )
    axes.text(x, y, str(number + 1), fontsize=FONT_SIZE, ha="center", va="center_baseline")


# ---- figures -------------------------------------------------------------------------------------
def new_figure(width: int, height: int) -> Figure:
    """An empty figure of so many pixels, apart from pyplot's global state."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes without ticks at a place in pixels from the figure's upper left corner."""
    page_width, page_height = figure.get_size_inches() * DPI
    bottom = page_height - y - height
    axes = figure.add_axes(
        (x / page_width, bottom / page_height, width / page_width, height / page_height)
    )
    axes.set_axis_off()
    return axes


def write(figure: Figure, x: float, y: float, text: str, size: float = FONT_SIZE) -> None:
    """Write a line from x on, at middle height y, in pixels from the upper left corner."""
    width, height = figure.get_size_inches() * DPI
    figure.text(x / width, 1 - y / height, escaped(text), fontsize=size, va="center")


def add_legend(figure: Figure, x: float, y: float, pictures: Sequence[Picture]) -> None:
    """Explain those kinds of boxes that occur, in one row at middle height y."""
    width, height = figure.get_size_inches() * DPI
    handles: list[Any] = [Line2D([], [], color=PREDICTED, linewidth=2, label="predicted, score")]
    true = [box for picture in pictures for box in picture.true]
    if true:
        label = f"true, named where not found (IoU < {FOUND_IOU:g} or other class)"
        handles.append(Line2D([], [], color=TRUE, linewidth=2, linestyle=DASHED, label=label))
    if any(box.is_crowd for box in true):
        handles.append(
            Patch(fill=False, edgecolor=TRUE, linestyle=":", hatch="//", label="crowd, not judged")
        )
    figure.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(x / width, 1 - y / height),
        ncol=len(handles),
        fontsize=FONT_SIZE,
        frameon=False,
        borderaxespad=0,
        borderpad=0,
        handlelength=3,
    )


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG; returns its path."""
    figure.savefig(path, dpi=DPI, format="png")
    return path

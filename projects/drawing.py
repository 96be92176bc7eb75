"""Boxes, lines, labels and attention maps drawn on images, with OpenCV (lines) and Pillow (text).

torchvision's ``draw_bounding_boxes`` has neither dashes nor lines, and its labels hide each other.
Places and sizes are in pixels from the upper left corner.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor
from torchvision.ops import box_iou

from projects.page import FONT_SIZE, SMALL_FONT_SIZE, Panel, PictureRow, draw_page, font

Corners = tuple[float, float, float, float]  # x0, y0, x1, y1

# Okabe and Ito's palette, whose colours stay apart for every kind of colour vision.
ORANGE, SKY, YELLOW, GREY = "#E69F00", "#56B4E9", "#F0E442", "#C8C8C8"
DARK = (48, 48, 48)  # around lines, which tells them from any image

LINE_WIDTH, HALO_WIDTH = 2, 4
DASH, DOT = (9, 9), (1, 6)  # lengths of a stroke and of the gap after it
HATCH = 40  # from line to line in a crowd
LABEL_PAD = 3  # around a label's text
PICTURE_SIDES = (800, 1600)  # least and greatest longer side of a picture
CELL = (440, 400)  # width and greatest height of a picture on a page
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
        markings: those listed first lie on top, and have the first choice of a label's place.
        attention: (h, w) weights, of which each is an equal part of the image; it is drawn in grey
            below them, darkest at 0, brightest at their maximum.
        points: number -> (x, y), points to mark.
    """

    title: str
    image: np.ndarray
    markings: Sequence[Marking] = ()
    attention: np.ndarray | None = None
    points: Mapping[int, tuple[float, float]] = field(default_factory=dict)


def as_array(image: Tensor) -> np.ndarray:
    """An image (3, H, W) as (H, W, 3)."""
    return image.permute(1, 2, 0).contiguous().numpy()


# ---- pictures and pages --------------------------------------------------------------------------
def draw_picture(picture: Picture) -> Image.Image:
    """Draw what was found on an image and nothing around it.

    Small images are enlarged until labels can be read, large ones reduced, see ``PICTURE_SIDES``.
    """
    longer = max(picture.image.shape[:2])
    return draw(picture, min(max(longer, PICTURE_SIDES[0]), PICTURE_SIDES[1]) / longer)


def draw_pictures(
    pictures: Sequence[Picture], heading: str, legend: Sequence[Panel] = ()
) -> Image.Image:
    """Draw pictures on a page, up to four side by side; a single one as large as alone."""
    if len(pictures) == 1:
        panels = [Panel(pictures[0].title, np.asarray(draw_picture(pictures[0])))]
    else:
        panels = [panel_of(picture) for picture in pictures]
    columns = max(2, min(4, math.ceil(math.sqrt(len(panels)))))
    rows = [PictureRow(panels[first : first + columns]) for first in range(0, len(panels), columns)]
    return draw_page(rows, [heading], legend)


def panel_of(picture: Picture) -> Panel:
    """A picture as large as it is on a page, its title above it."""
    height, width = picture.image.shape[:2]
    return Panel(picture.title, np.asarray(draw(picture, min(CELL[0] / width, CELL[1] / height))))


def legend_entry(caption: str, marking: Marking) -> Panel:
    """An entry of a legend: what a marking looks like, its boxes within 48 x 20 pixels."""
    paper = np.full((20, 48, 3), 255, np.uint8)
    return Panel(caption, np.asarray(draw(Picture("", paper, [replace(marking, label="")]), 1)))


def draw(picture: Picture, zoom: float) -> Image.Image:
    """Draw a picture whose image is enlarged by a factor; at least one pixel."""
    height, width = picture.image.shape[:2]
    size = max(1, round(zoom * width)), max(1, round(zoom * height))
    image = Image.fromarray(picture.image).resize(size, Image.Resampling.BICUBIC)
    canvas = np.array(image)
    if picture.attention is not None:
        canvas = coloured_by(canvas, picture.attention)
    scale = np.array([size[0] / width, size[1] / height])
    places = [
        [np.reshape(corners, (2, 2)) * scale for corners in marking.boxes]
        for marking in picture.markings
    ]
    drawn = list(zip(picture.markings, places, strict=True))
    for marking, boxes in reversed(drawn):
        draw_lines(canvas, marking, boxes)
    for x, y in picture.points.values():
        dot(canvas, np.array([x, y]) * scale, 12, rgb(ORANGE))
    image = Image.fromarray(canvas)
    write_labels(image, drawn)
    for number, (x, y) in picture.points.items():
        text = ImageDraw.Draw(image).text
        text((x * scale[0], y * scale[1]), str(number), "black", font(FONT_SIZE), anchor="mm")
    return image


def coloured_by(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A grey version of an image (H, W, 3) coloured by weights (h, w), none below 0."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    shares = np.rint(255 * weights / max(weights.max(), 1e-12)).astype(np.uint8)
    shares = cv2.resize(shares, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    colours = cv2.cvtColor(cv2.applyColorMap(shares, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    return cv2.addWeighted(grey, 0.3, colours, 0.7, 0)


def overlap(first: Corners, second: Corners) -> float:
    """Intersection over union of two boxes."""
    return float(box_iou(torch.tensor([first]), torch.tensor([second])))


# ---- lines ---------------------------------------------------------------------------------------
def draw_lines(canvas: np.ndarray, marking: Marking, boxes: Sequence[np.ndarray]) -> None:
    """Draw boxes (2, 2), corners of x and y, whole also along the image's edges; and the line."""
    pattern = DOT if marking.is_crowd else DASH if marking.is_true else None
    size = np.array(canvas.shape[1::-1])
    for box, colour in zip(boxes, marking.colours, strict=True):
        (x0, y0), (x1, y1) = np.rint(np.clip(box, 1, np.maximum(size - 2, 1))).astype(int)
        if marking.is_crowd:
            hatch(canvas[y0 : y1 + 1, x0 : x1 + 1], rgb(colour))
        stroke(canvas, [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)], rgb(colour), pattern)
    if len(boxes) == 2:
        ends = [box.mean(axis=0) for box in boxes]
        stroke(canvas, ends, rgb(marking.label_colour), pattern)
        for end in ends:
            dot(canvas, end, 4, rgb(marking.label_colour))


def stroke(
    canvas: np.ndarray,
    corners: Sequence[Sequence[float]],
    colour: tuple[int, ...],
    pattern: tuple[int, int] | None = None,
) -> None:
    """Draw lines from corner to corner, of strokes and gaps where asked for.

    All but dots have a dark edge.
    """
    lines = []
    for start, end in itertools.pairwise(corners):
        start, way = np.asarray(start, float), np.subtract(end, start)
        length = max(float(np.hypot(*way)), 1e-9)
        on, off = pattern or (length, 1)
        for first in np.arange(0, length, on + off):
            ends = start + np.outer([first, min(first + on, length)], way / length)
            lines.append(np.rint(16 * ends).astype(int))
    edge = [] if pattern == DOT else [(HALO_WIDTH, DARK)]
    for width, shade in [*edge, (LINE_WIDTH, colour)]:
        for start, end in lines:
            cv2.line(canvas, start.tolist(), end.tolist(), shade, width, cv2.LINE_AA, shift=4)


def hatch(canvas: np.ndarray, colour: tuple[int, ...]) -> None:
    """Draw thin lines from lower left to upper right over a canvas."""
    height, width = canvas.shape[:2]
    for x in range(0, width + height, HATCH):
        cv2.line(canvas, (x, 0), (x - height, height), colour, 1, cv2.LINE_AA)


def dot(canvas: np.ndarray, middle: np.ndarray, radius: int, colour: tuple[int, ...]) -> None:
    """Draw a disc with a dark edge."""
    place = np.rint(16 * middle).astype(int).tolist()
    for more, shade in ((1, DARK), (0, colour)):
        cv2.circle(canvas, place, 16 * (radius + more), shade, cv2.FILLED, cv2.LINE_AA, shift=4)


def rgb(colour: str) -> tuple[int, ...]:
    """A colour such as ``#E69F00`` as three numbers to 255."""
    return ImageColor.getrgb(colour)


# ---- labels --------------------------------------------------------------------------------------
def write_labels(image: Image.Image, drawn: Sequence[tuple[Marking, Sequence[np.ndarray]]]) -> None:
    """Write each label along its last box where it hides no other, smaller where room is little.

    Where there is none nothing is written.
    """
    canvas = ImageDraw.Draw(image)
    taken = np.zeros((0, 4))
    for marking, boxes in drawn:
        for size in (FONT_SIZE, SMALL_FONT_SIZE) if marking.label else ():
            style = {"font": font(size), "spacing": 3}
            left, _, right, _ = canvas.multiline_textbbox((0, 0), marking.label, **style)
            # As high without letters that reach below the line as with them.
            bottom = canvas.multiline_textbbox((0, 0), f"{marking.label}g", **style)[3]
            extent = right - left + 2 * LABEL_PAD, bottom + 2 * LABEL_PAD
            places = label_places(extent, boxes[-1].flatten(), image.size)
            place = next((place for place in places if is_free(place, taken)), None)
            if place is not None:
                taken = np.vstack([taken, place])
                canvas.rectangle(list(place), marking.label_colour)
                corner = place[0] + LABEL_PAD - left, place[1] + LABEL_PAD
                canvas.multiline_text(corner, marking.label, "black", **style)
                break


def is_free(place: np.ndarray, taken: np.ndarray) -> bool:
    """Whether a place (4,) overlaps none of those taken (n, 4) by more than a pixel."""
    apart = (taken[:, 2:] <= place[:2] + 1) | (taken[:, :2] >= place[2:] - 1)
    return bool(apart.any(axis=1).all())


def label_places(
    size: Sequence[float], box: Sequence[float], canvas: Sequence[int]
) -> Iterator[np.ndarray]:
    """Places (4,) for a label along the sides of its box, wholly inside the canvas, the best first.

    Args:
        size: width and height of the label.
        box: what it is of.
        canvas: width and height of the image.
    """
    (width, height), (x0, y0, x1, y1) = size, box
    wanted = [  # above, inside at the top, at the bottom, below
        (x, y) for y in (y0 - height, y0, y1 - height, y1) for x in (x0, x1 - width)
    ]
    wanted += [(x0, y) for y in np.arange(y0 + height, y1 - height, height)]
    for x, y in wanted:
        x = max(0, min(x, canvas[0] - 1 - width))
        y = max(0, min(y, canvas[1] - 1 - height))
        yield np.rint([x, y, x + width, y + height])

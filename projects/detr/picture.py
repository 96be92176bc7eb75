"""An image with boxes on it: predicted and true ones, each with a label that can be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from projects.figure import DPI, FONT_SIZE, SMALL_FONT_SIZE, escaped

Place = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels

# Of Okabe and Ito's palette, whose colours stay apart for every kind of colour vision.
PREDICTED, TRUE = "#E69F00", "#56B4E9"
HALO = "#202020"
DASHED = (0, (4, 2))

LINE_WIDTH = 1.6  # points
LABEL_PAD = 3  # pixels around a label's text
MAX_HIDDEN = 0.05  # share of a label that may lie below another
LONGEST_NAME = 28  # letters of a class name
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


class Drawn(Protocol):
    """What can be drawn on a picture of any size: a box, or several that belong together."""

    def scaled(self, factor: float) -> Any:
        """The same on an image that was resized by ``factor``."""


D = TypeVar("D", bound=Drawn)


@dataclass(frozen=True)
class Picture(Generic[D]):
    """An image and what to draw on it.

    Attributes:
        title: a few words.
        image: (H, W, 3) uint8 RGB.
        predicted: what the model found.
        true: what is there; empty if that is not known.
    """

    title: str
    image: np.ndarray
    predicted: Sequence[D]
    true: Sequence[D] = ()

    def scaled(self, factor: float) -> "Picture[D]":
        """The same picture at another size; no side gets below one pixel."""
        size = [max(1, round(factor * side)) for side in self.image.shape[1::-1]]
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        return Picture(
            self.title,
            cv2.resize(self.image, size, interpolation=how),
            [drawn.scaled(factor) for drawn in self.predicted],
            [drawn.scaled(factor) for drawn in self.true],
        )


# ---- boxes ---------------------------------------------------------------------------------------
def draw_boxes(picture: Picture, axes: Axes) -> None:
    """Draw an image and its boxes on axes that have as many pixels as the image.

    True boxes lie below predicted ones. Of the true ones only those that were not found carry
    their name, since on the others it stands already.
    """
    axes.imshow(picture.image, interpolation="nearest")
    size = picture.image.shape[:2]
    for box in [*picture.true, *picture.predicted]:
        add_rectangle(axes, box.corners, size, box_style(box))
    ranked = sorted(picture.predicted, key=lambda box: -(box.score or 0))
    missed = [box for box in picture.true if box.is_crowd or not is_found(box, ranked)]
    taken: list[Place] = []
    for box in [*ranked, *missed]:
        add_label(axes, box, taken)


def add_rectangle(axes: Axes, corners: Place, size: tuple[int, int], style: dict[str, Any]) -> None:
    """Draw a rectangle on an image of (height, width) pixels, lines along its border whole."""
    height, width = size
    inset = LINE_WIDTH * DPI / 72 / 2
    x0, y0, x1, y1 = corners
    left, right = np.clip((x0, x1), inset, max(inset, width - inset)) - 0.5
    top, bottom = np.clip((y0, y1), inset, max(inset, height - inset)) - 0.5
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, **style))


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
    return {**style, "path_effects": [halo()]}


def halo() -> withStroke:
    """A dark edge around lines, which tells them from any image."""
    return withStroke(linewidth=LINE_WIDTH + 1.2, foreground=HALO, alpha=0.7)


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
    """Write what is to be said of a box, see ``write_label``."""
    write_label(axes, box.label, box.colour, box.corners, taken)


def write_label(
    axes: Axes, label: str, colour: str, corners: Sequence[float], taken: list[Place]
) -> None:
    """Write a label along a rectangle where it hides no other, smaller where there is little room.

    Where there is none nothing is written. The place found is added to ``taken``.
    """
    renderer = axes.figure.canvas.get_renderer()
    width, height = (abs(low - high) for low, high in (axes.get_xlim(), axes.get_ylim()))
    for font_size in (FONT_SIZE, SMALL_FONT_SIZE):
        text = axes.text(
            *(0, 0, escaped(label)),
            fontsize=font_size,
            ha="left",
            va="top",
            clip_on=True,
            bbox={"facecolor": colour, "edgecolor": "none", "pad": LABEL_PAD * 72 / DPI},
            zorder=5,  # above the lines of all boxes
        )
        extent = text.get_window_extent(renderer)
        size = (extent.width + 2 * LABEL_PAD, extent.height + 2 * LABEL_PAD)
        place = label_place(size, corners, (width, height), taken)
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

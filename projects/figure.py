"""Figures laid out in pixels from the upper left corner: axes, text, pages of panels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

DPI = 128  # a power of two: sizes in pixels survive the way through inches
FONT_SIZE, SMALL_FONT_SIZE = 8.5, 6.5  # points
MARGIN = 16  # pixels between pictures
CAPTION, NEXT_LINE = 30, 20  # pixels of a line of text above a picture, and of each further one
LEAST_WIDTH = 900  # pixels of a page, so that its heading fits


# ---- pages ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Panel:
    """A picture on a page.

    Attributes:
        caption: lines above it.
        width: in pixels.
        height: in pixels.
        draw: draws it on axes of this size.
    """

    caption: str
    width: int
    height: int
    draw: Callable[[Axes], Any]


@dataclass(frozen=True)
class PictureRow:
    """Panels side by side, and a title above them unless it is empty."""

    panels: Sequence[Panel]
    title: str = ""

    @property
    def text_height(self) -> int:
        """Pixels of the title and the longest caption."""
        further = max(panel.caption.count("\n") for panel in self.panels)
        return CAPTION * (1 + bool(self.title)) + NEXT_LINE * further

    @property
    def height(self) -> int:
        """Pixels, with the margin below."""
        return self.text_height + max(panel.height for panel in self.panels) + MARGIN


def draw_page(
    rows: Sequence[PictureRow], heading: Sequence[str] = (), legend: Sequence[Any] = ()
) -> Figure:
    """Draw rows of panels below each other, each column as wide as the widest panel.

    Args:
        rows: at least one.
        heading: lines above all.
        legend: entries of a legend below the heading.
    """
    cell = max(panel.width for row in rows for panel in row.panels) + MARGIN
    width = max(MARGIN + max(len(row.panels) for row in rows) * cell, LEAST_WIDTH)
    lines = len(heading) + bool(legend)
    y = MARGIN + lines * CAPTION + MARGIN // 2 if lines else 0
    figure = new_figure(width, y + sum(row.height for row in rows))
    for number, line in enumerate(heading):
        middle = MARGIN + (number + 0.5) * CAPTION
        write_within(figure, MARGIN, middle, width - 2 * MARGIN, line, 1.25 * FONT_SIZE)
    if legend:
        _, page_height = figure.get_size_inches() * DPI
        place = (MARGIN / width, 1 - (MARGIN + (lines - 0.5) * CAPTION) / page_height)
        style: dict[str, Any] = {
            "fontsize": FONT_SIZE,
            "frameon": False,
            "borderaxespad": 0,
            "borderpad": 0,
        }
        style |= {"ncol": len(legend), "handlelength": 3}
        figure.legend(handles=legend, loc="center left", bbox_to_anchor=place, **style)
    for row in rows:
        if row.title:
            middle = y + CAPTION / 2 + 4
            write_within(figure, MARGIN, middle, width - 2 * MARGIN, row.title, 1.1 * FONT_SIZE)
        top = y + row.text_height
        for column, panel in enumerate(row.panels):
            x = MARGIN + column * cell
            for number, line in enumerate(reversed(panel.caption.split("\n"))):
                write_within(figure, x, top - CAPTION / 2 - number * NEXT_LINE, panel.width, line)
            panel.draw(add_axes(figure, x, top, panel.width, panel.height))
        y += row.height
    return figure


# ---- parts ---------------------------------------------------------------------------------------
def new_figure(width: int, height: int) -> Figure:
    """An empty figure of so many pixels, apart from pyplot's global state."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes without ticks at a place in pixels from the figure's upper left corner."""
    page_width, page_height = figure.get_size_inches() * DPI
    left, bottom = x / page_width, 1 - (y + height) / page_height
    axes = figure.add_axes((left, bottom, width / page_width, height / page_height))
    axes.set_axis_off()
    return axes


def write(figure: Figure, x: float, y: float, text: str, size: float = FONT_SIZE) -> None:
    """Write a line from x on, at middle height y, in pixels from the upper left corner."""
    width, height = figure.get_size_inches() * DPI
    figure.text(x / width, 1 - y / height, escaped(text), fontsize=size, va="center")


def write_within(
    figure: Figure, x: float, y: float, width: float, text: str, size: float = FONT_SIZE
) -> None:
    """Write a line as ``write`` does that is at most ``width`` pixels wide.

    Where it is too long the letters get smaller, down to ``SMALL_FONT_SIZE``; if that is not
    enough, its end is left out.
    """
    write(figure, x, y, text, size)
    line = figure.texts[-1]
    needed = line.get_window_extent().width
    if needed <= width:
        return
    line.set_fontsize(max(SMALL_FONT_SIZE, size * width / needed))
    while len(text) > 1 and line.get_window_extent().width > width:
        text = text[:-1]
        line.set_text(escaped(text) + "…")


def escaped(text: str) -> str:
    """Text for matplotlib, which would read formulas between dollar signs."""
    return text.replace("$", r"\$")


def as_image(figure: Figure) -> Image.Image:
    """The pixels of a figure, RGB."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG and print where."""
    figure.savefig(path, dpi=DPI, format="png")
    print(path, flush=True)

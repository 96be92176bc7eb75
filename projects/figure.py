"""Figures that are laid out in pixels, from the upper left corner."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DPI = 128  # a power of two: sizes in pixels survive the way through inches
FONT_SIZE, SMALL_FONT_SIZE = 8.5, 6.5  # points
MARGIN = 16  # pixels between pictures
CAPTION = 30  # pixels above a picture


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


def add_legend(figure: Figure, x: float, y: float, handles: list[Any]) -> None:
    """Explain lines and colours in one row at middle height y."""
    width, height = figure.get_size_inches() * DPI
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


def say_saved(figure: Figure, path: Path) -> None:
    """Write a figure and print where."""
    print(save(figure, path), flush=True)

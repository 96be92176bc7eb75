"""Pages of pictures, drawn with Pillow: panels with captions in rows, a heading and a legend.

Places and sizes are in pixels from the upper left corner.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dropkey_core.engine.files.atomic_write import whole_file

FONT_SIZE, SMALL_FONT_SIZE = 15, 12
MARGIN = 16  # between pictures
CAPTION, NEXT_LINE = 30, 20  # heights of a line of text above a picture, and of each further one
LEAST_WIDTH = 900  # of a page, so that its heading fits


@dataclass(frozen=True)
class Panel:
    """A picture on a page: lines of text above it, and pixels (h, w, 3) uint8 RGB."""

    caption: str
    pixels: np.ndarray


@dataclass(frozen=True)
class PictureRow:
    """Panels side by side, and a title above them unless it is empty."""

    panels: Sequence[Panel]
    title: str = ""

    @property
    def text_height(self) -> int:
        """Height of the title and the longest caption."""
        further = max(panel.caption.count("\n") for panel in self.panels)
        return CAPTION * (1 + bool(self.title)) + NEXT_LINE * further

    @property
    def height(self) -> int:
        """With the margin below."""
        return self.text_height + max(panel.pixels.shape[0] for panel in self.panels) + MARGIN


def draw_page(
    rows: Sequence[PictureRow],
    heading: Sequence[str] = (),
    legend: Sequence[Panel] = (),
    least_width: int = LEAST_WIDTH,
) -> Image.Image:
    """Draw rows of panels below each other, each column as wide as the widest panel.

    Args:
        rows: at least one.
        heading: lines above all.
        legend: small pictures in a line below the heading, with their captions beside them.
        least_width: of the page.
    """
    cell = MARGIN + max(panel.pixels.shape[1] for row in rows for panel in row.panels)
    width = max(MARGIN + cell * max(len(row.panels) for row in rows), least_width)
    lines = len(heading) + bool(legend)
    y = MARGIN + lines * CAPTION + MARGIN // 2 if lines else 0
    page = Image.new("RGB", (width, y + sum(row.height for row in rows)), "white")
    room = width - 2 * MARGIN
    for number, line in enumerate(heading):
        write_within(page, MARGIN, MARGIN + (number + 0.5) * CAPTION, room, line, FONT_SIZE + 4)
    draw_legend(page, MARGIN + (lines - 0.5) * CAPTION, legend)
    for row in rows:
        if row.title:
            write_within(page, MARGIN, y + CAPTION / 2 + 4, room, row.title, FONT_SIZE + 2)
        top = y + row.text_height
        for column, panel in enumerate(row.panels):
            x = MARGIN + column * cell
            for number, line in enumerate(reversed(panel.caption.split("\n"))):
                middle = top - CAPTION / 2 - number * NEXT_LINE
                write_within(page, x, middle, panel.pixels.shape[1], line)
            page.paste(Image.fromarray(panel.pixels), (x, top))
        y += row.height
    return page


def draw_legend(page: Image.Image, middle: float, legend: Sequence[Panel]) -> None:
    """Draw small pictures with their captions beside them, at a middle height."""
    x = MARGIN
    for entry in legend:
        height, width = entry.pixels.shape[:2]
        page.paste(Image.fromarray(entry.pixels), (x, round(middle - height / 2)))
        x += width + MARGIN // 2
        write(page, x, middle, entry.caption)
        x += round(font(FONT_SIZE).getlength(entry.caption)) + 2 * MARGIN


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which knows most of the world's letters and comes with matplotlib."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)


def write(page: Image.Image, x: float, middle: float, text: str, size: int = FONT_SIZE) -> None:
    """Write a line from x on, at a middle height."""
    ImageDraw.Draw(page).text((x, middle), text, "black", font(size), anchor="lm")


def write_within(
    page: Image.Image, x: float, middle: float, width: float, text: str, size: int = FONT_SIZE
) -> None:
    """Write a line as ``write`` does that is at most ``width`` wide.

    Where it is too long the letters get smaller, down to ``SMALL_FONT_SIZE``; if that is not
    enough, its end is left out.
    """
    while size > SMALL_FONT_SIZE and font(size).getlength(text) > width:
        size -= 1
    while len(text) > 2 and font(size).getlength(text) > width:
        text = f"{text.rstrip('…')[:-1]}…"
    write(page, x, middle, text, size)


def save(picture: Image.Image | np.ndarray, path: Path) -> None:
    """Write a picture as PNG and print where."""
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    with whole_file(path, "wb") as file:
        picture.save(file, "PNG")
    print(path, flush=True)

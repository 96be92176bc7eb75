"""Pictures with meshes on them, in rows: one row per image."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from projects.figure import (
    CAPTION,
    FONT_SIZE,
    MARGIN,
    add_axes,
    new_figure,
    write_within,
)
from projects.metro.pictures.rasteriser import render
from projects.metro.pictures.view import View

# Of Okabe and Ito's palette, whose colours stay apart for every kind of colour vision.
PREDICTED, TRUE = (230, 159, 0), (86, 180, 233)
PAPER = 245  # grey level behind a mesh without image
SIDE = 320  # of a picture in pixels
HEADING, HEADING_LINE = 24, 28  # pixels above everything, and more for each line of text
LEAST_WIDTH = 900  # pixels of a figure, so that captions fit


@dataclass(frozen=True)
class Row:
    """Pictures that belong together.

    Attributes:
        title: what they show, one line.
        pictures: square ones (n, n, 3) uint8, RGB, any n.
        captions: one line above each.
    """

    title: str
    pictures: Sequence[np.ndarray]
    captions: Sequence[str]


def draw_mesh(
    view: View | None,
    faces: np.ndarray,
    crop: np.ndarray | None,
    size: int,
    colour: ArrayLike = PREDICTED,
    vertex_colours: np.ndarray | None = None,
) -> np.ndarray:
    """Draw a mesh over a crop, or over paper.

    Args:
        view: of a crop of ``size`` pixels; None draws no mesh.
        faces: (F, 3) vertices of each face.
        crop: (size, size, 3) uint8 RGB; None is paper.
        size: side of the crop in pixels.
        colour: (3,) of the mesh, 0 to 255.
        vertex_colours: (V, 3), instead.

    Returns:
        (SIDE, SIDE, 3) uint8: the mesh is drawn at this size, however small the crop is.
    """
    background = np.full((SIDE, SIDE, 3), PAPER, np.uint8) if crop is None else resized(crop)
    if view is None:
        return background
    view = view.enlarged(size, SIDE)
    return render(
        view.points, faces, view.K, (SIDE, SIDE), colour, background, vertex_colours=vertex_colours
    )


def resized(crop: np.ndarray) -> np.ndarray:
    """A square picture (n, n, 3) at the size (SIDE, SIDE, 3)."""
    how = cv2.INTER_AREA if len(crop) > SIDE else cv2.INTER_CUBIC
    return cv2.resize(crop, (SIDE, SIDE), interpolation=how)


def draw_rows(rows: Sequence[Row], heading: Sequence[str] = ()) -> Figure:
    """Lay rows of pictures out below each other.

    Args:
        rows: at least one.
        heading: lines above all.
    """
    top = HEADING + HEADING_LINE * len(heading) if heading else 0
    columns = max(len(row.pictures) for row in rows)
    row_height = 2 * CAPTION + SIDE + MARGIN
    width = max(MARGIN + columns * (SIDE + MARGIN), LEAST_WIDTH)
    figure = new_figure(width, top + len(rows) * row_height)
    whole_width = width - 2 * MARGIN
    for number, line in enumerate(heading):
        y = MARGIN + (number + 0.5) * HEADING_LINE
        write_within(figure, MARGIN, y, whole_width, line, size=1.25 * FONT_SIZE)
    for number, row in enumerate(rows):
        y = top + number * row_height
        title_y = y + CAPTION / 2 + 4
        write_within(figure, MARGIN, title_y, whole_width, row.title, size=1.1 * FONT_SIZE)
        for column, (picture, caption) in enumerate(zip(row.pictures, row.captions, strict=True)):
            x = MARGIN + column * (SIDE + MARGIN)
            write_within(figure, x, y + 1.5 * CAPTION, SIDE, caption)
            axes = add_axes(figure, x, y + 2 * CAPTION, SIDE, SIDE)
            axes.imshow(picture, interpolation="nearest")
    return figure

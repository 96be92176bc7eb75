"""Views of meshes: METRO's camera as a perspective one, from the side, over a picture of people.

V vertices, F faces; pixels are counted from 0 and are where their centres are. Camera axes are x
right, y down, z forward; points are in metres on them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike

from dropkey_core.engine import UserError
from projects.drawing import PICTURE_SIDES
from projects.metro.geometry import project
from projects.metro.pictures.rasteriser import render

# METRO predicts a weak-perspective camera, which has no focal length. For its pictures the official
# code assumes one of 1,000 pixels for a crop of 224.
FOCAL_LENGTH = 1000 / 224  # in longer sides of the picture

# Of Okabe and Ito's palette, whose colours stay apart for every kind of colour vision.
PREDICTED, TRUE = (230, 159, 0), (86, 180, 233)
COLOURS = (PREDICTED, TRUE, (0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0))
SIDE = 320  # of a crop as it is drawn, in pixels

# Turns what is seen from the front to how it is seen from the picture's right.
QUARTER_TURN = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]])


@dataclass(frozen=True)
class View:
    """A mesh and the camera that shows it on a picture."""

    points: np.ndarray  # (V, 3) metres on the camera's axes
    K: np.ndarray  # (3, 3) from them to pixels

    def shown(self, points: ArrayLike) -> np.ndarray:
        """Pixels (..., 2) of other points (..., 3) on the same axes."""
        return project(points, self.K)


def perspective(size: Sequence[int]) -> np.ndarray:
    """K (3, 3) of the camera before which meshes are put on a picture of a height and width."""
    height, width = size
    focal = FOCAL_LENGTH * max(height, width)
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def predicted_view(
    vertices: ArrayLike, camera: ArrayLike, square: ArrayLike, size: Sequence[int]
) -> View | None:
    """Put a mesh where one perspective camera for the whole picture shows it as METRO's does.

    METRO's weak-perspective camera is of a square cut out of the picture. It takes x to s (x + tx),
    where the square's edges are -1 and 1, as if all points were equally far away. So far away the
    mesh's origin is put: f / z = s side / 2. What is nearer to the camera then comes out larger,
    which the network did not know of.

    Args:
        vertices: (V, 3) as the network gives them.
        camera: (3,) s, tx, ty.
        square: (3,) x and y of the upper left corner and the side, in pixels of the picture.
        size: height and width of the picture in pixels.

    Returns:
        the view, or None if s is not positive: no camera sees the mesh so.
    """
    scale, *shift = np.asarray(camera, dtype=np.float64)
    x, y, side = np.asarray(square, dtype=np.float64)
    if not scale > 0:
        return None
    height, width = size
    K = perspective(size)
    from_middle = np.array([x + (side - width) / 2, y + (side - height) / 2])  # pixels
    per_pixel = 2 / (scale * side)  # metres
    place = np.array([*(np.array(shift) + per_pixel * from_middle), K[0, 0] * per_pixel])
    return View(np.asarray(vertices, dtype=np.float64) + place, K)


def side_view(view: View) -> View:
    """The mesh turned by 90 degrees about the vertical, in the middle of SIDE pixels' width.

    It is seen from the picture's right: what was far away is on the right. The axis goes through
    the middle of the mesh's bounding box, so that the mesh stays as large as it was.
    """
    middle = (view.points.min(axis=0) + view.points.max(axis=0)) / 2
    turned = (view.points - middle) @ QUARTER_TURN.T + middle
    to_middle = (SIDE - 1) / 2 - view.shown(middle)[0]  # pixels
    turned[:, 0] += to_middle * middle[2] / view.K[0, 0]
    return View(turned, view.K)


# ---- drawing -------------------------------------------------------------------------------------
def draw_people(
    picture: np.ndarray, people: Mapping[int, np.ndarray], faces: np.ndarray
) -> np.ndarray:
    """Draw meshes over a picture, the nearer before the farther.

    Args:
        picture: (H, W, 3) uint8 RGB.
        people: points (V, 3) of their ``predicted_view`` by number; each has a colour of its own.
        faces: (F, 3) of each.

    Returns:
        (h, w, 3) uint8; a small picture is enlarged, a large one reduced, see ``PICTURE_SIDES``.

    Raises:
        UserError: a mesh that is not finite.
    """
    background = resized(picture, min(max(*picture.shape[:2], PICTURE_SIDES[0]), PICTURE_SIDES[1]))
    if not people:
        return background
    points = np.concatenate(list(people.values()))
    if not np.isfinite(points).all():
        raise UserError("a mesh is not finite: the training has diverged")
    count = len(next(iter(people.values())))
    every_face = np.concatenate([faces + place * count for place in range(len(people))])
    colours = np.repeat([colour_of(n) for n in people], count, axis=0)
    size = background.shape[:2]
    return render(points, every_face, perspective(size), size, colours, background)


def colour_of(person: int) -> tuple[int, int, int]:
    """RGB, 0 to 255; after the last colour they begin again."""
    return COLOURS[person % len(COLOURS)]


def resized(picture: np.ndarray, longer: int) -> np.ndarray:
    """A picture (H, W, 3) uint8 whose longer side has so many pixels."""
    zoom = longer / max(picture.shape[:2])
    size = [max(1, round(zoom * side)) for side in picture.shape[1::-1]]
    how = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    return cv2.resize(picture, size, interpolation=how)

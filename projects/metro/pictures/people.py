"""Several meshes before one camera, and a picture of all of them.

V vertices, F faces; pixels are counted from 0 and are where their centres are. Camera axes are x
right, y down, z forward; points are in metres on them.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from dropkey_core.engine import UserError
from projects.metro.pictures.rasteriser import render
from projects.metro.pictures.view import FOCAL_LENGTH, PREDICTED, TRUE

# One after the other, all of Okabe and Ito's palette.
COLOURS = (PREDICTED, TRUE, (0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0))
SIDES = (800, 1600)  # least and greatest longer side of a picture, in pixels


def colour_of(person: int) -> tuple[int, int, int]:
    """RGB, 0 to 255; after the last colour they begin again."""
    return COLOURS[person % len(COLOURS)]


def in_one_camera(
    vertices: np.ndarray, camera: np.ndarray, square: np.ndarray, size: Sequence[int]
) -> np.ndarray | None:
    """Put a mesh where one perspective camera for the whole picture shows it as METRO's does.

    METRO's weak-perspective camera is of a square cut out of the picture, as if all points were
    equally far away. So far away the mesh's origin is put: f / z = s side / 2; see
    ``predicted_view``, of which this is the same for a square that is the picture.

    Args:
        vertices: (V, 3) as the network gives them.
        camera: (3,) s, tx, ty.
        square: (3,) x and y of the upper left corner and the side, in pixels of the picture.
        size: height and width of the picture in pixels.

    Returns:
        (V, 3), or None if s is not positive: no camera sees the mesh so.
    """
    scale, *shift = np.asarray(camera, dtype=np.float64)
    x, y, side = np.asarray(square, dtype=np.float64)
    if not scale > 0:
        return None
    height, width = size
    from_middle = np.array([x + (side - width) / 2, y + (side - height) / 2])  # pixels
    per_pixel = 2 / (scale * side)  # metres
    depth = FOCAL_LENGTH * max(height, width) * per_pixel
    place = np.array([*(np.array(shift) + per_pixel * from_middle), depth])
    return np.asarray(vertices, dtype=np.float64) + place


def draw_people(
    picture: np.ndarray, people: Mapping[int, np.ndarray], faces: np.ndarray
) -> np.ndarray:
    """Draw meshes over a picture, the nearer before the farther.

    Args:
        picture: (H, W, 3) uint8 RGB.
        people: vertices (V, 3) by number, see ``in_one_camera``; each has a colour of its own.
        faces: (F, 3) of each.

    Returns:
        (h, w, 3) uint8; a small picture is enlarged, a large one reduced, see ``SIDES``.

    Raises:
        UserError: a mesh that is not finite.
    """
    longer = max(picture.shape[:2])
    zoom = min(max(longer, SIDES[0]), SIDES[1]) / longer
    height, width = (max(1, round(zoom * side)) for side in picture.shape[:2])
    how = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    background = cv2.resize(picture, (width, height), interpolation=how)
    if not people:
        return background
    points = np.concatenate(list(people.values()))
    if not np.isfinite(points).all():
        raise UserError("a mesh is not finite: the training has diverged")
    count = len(next(iter(people.values())))
    every_face = np.concatenate([faces + place * count for place in range(len(people))])
    colours = np.repeat([colour_of(n) for n in people], count, axis=0)
    focal = FOCAL_LENGTH * max(height, width)
    K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    return render(points, every_face, K, (height, width), colours, background)

"""Views of a mesh: from METRO's camera, the true one, and from the side.

V vertices; S, the side of the crop in pixels, whose centres are counted from 0. Camera axes are x
right, y down, z forward; points are in metres on them.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike

from projects.metro.geometry import camera_after, crop_map, project
from projects.metro.pictures.rasteriser import render

# METRO predicts a weak-perspective camera, which has no focal length. For its pictures the official
# code assumes one of 1,000 pixels for a crop of 224.
FOCAL_LENGTH = 1000 / 224  # in sides of the crop

# Of Okabe and Ito's palette, whose colours stay apart for every kind of colour vision.
PREDICTED, TRUE = (230, 159, 0), (86, 180, 233)
PAPER = 245  # grey level behind a mesh without image
SIDE = 320  # of a picture in pixels

# Turns what is seen from the front to how it is seen from the picture's right.
QUARTER_TURN = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]])


@dataclass(frozen=True)
class View:
    """A mesh and the camera that shows it on the crop."""

    points: np.ndarray  # (V, 3) metres on the camera's axes
    K: np.ndarray  # (3, 3) from them to pixels of the crop

    def enlarged(self, size: int, new_size: int) -> "View":
        """The same view on a crop of ``new_size`` instead of ``size`` pixels."""
        middle = (size - 1) / 2
        to_new = crop_map((middle, middle), size, new_size)
        return View(self.points, camera_after(self.K, to_new, np.eye(3)))

    def shown(self, points: ArrayLike) -> np.ndarray:
        """Pixels (..., 2) of other points (..., 3) on the same axes."""
        return project(points, self.K)


def predicted_view(vertices: ArrayLike, camera: ArrayLike, size: int) -> View | None:
    """Put a predicted mesh where a perspective camera shows it as METRO's camera does.

    The weak-perspective camera takes x to s (x + tx), where the crop's edges are -1 and 1, as if
    all points were equally far away. So far away the mesh's origin is put: f / z = s S / 2. What
    is nearer to the camera then comes out larger, which the network did not know of.

    Args:
        vertices: (V, 3) as the network gives them.
        camera: (3,) s, tx, ty.
        size: S.

    Returns:
        the view, or None if s is not positive: no camera sees the mesh so.
    """
    scale, *shift = np.asarray(camera, dtype=np.float64)
    if not scale > 0:
        return None
    focal, middle = FOCAL_LENGTH * size, (size - 1) / 2
    K = np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]])
    place = np.array([*shift, 2 * focal / (scale * size)])
    return View(np.asarray(vertices) + place, K)


def side_view(view: View, size: int) -> View:
    """The mesh turned by 90 degrees about the vertical, and moved to the middle of the width.

    It is seen from the picture's right: what was far away is on the right. The axis goes through
    the middle of the mesh's bounding box, so that the mesh stays as large as it was.
    """
    middle = (view.points.min(axis=0) + view.points.max(axis=0)) / 2
    turned = (view.points - middle) @ QUARTER_TURN.T + middle
    to_middle = (size - 1) / 2 - view.shown(middle)[0]  # pixels
    turned[:, 0] += to_middle * middle[2] / view.K[0, 0]
    return View(turned, view.K)


def draw_mesh(
    view: View | None,
    faces: np.ndarray,
    size: int,
    crop: np.ndarray | None = None,
    colour: ArrayLike = PREDICTED,
) -> np.ndarray:
    """Draw a mesh over a crop, or over paper.

    Args:
        view: of a crop of ``size`` pixels; None draws no mesh.
        faces: (F, 3) vertices of each face.
        size: S.
        crop: (S, S, 3) uint8 RGB; None is paper.
        colour: (3,) of the mesh or (V, 3) of its vertices, 0 to 255.

    Returns:
        (SIDE, SIDE, 3) uint8: the mesh is drawn at this size, however small the crop is.
    """
    background = np.full((SIDE, SIDE, 3), PAPER, np.uint8) if crop is None else resized(crop)
    if view is None:
        return background
    view = view.enlarged(size, SIDE)
    return render(view.points, faces, view.K, (SIDE, SIDE), colour, background)


def resized(crop: np.ndarray) -> np.ndarray:
    """A square picture (n, n, 3) at the size (SIDE, SIDE, 3)."""
    how = cv2.INTER_AREA if len(crop) > SIDE else cv2.INTER_CUBIC
    return cv2.resize(crop, (SIDE, SIDE), interpolation=how)

"""Cameras, crops and mirrors: how pixels, points and poses move together.

Pixels are counted from 0 and are where their centres are: the first one's is (0, 0), and an image
of width w reaches from -0.5 to w - 0.5. Camera axes are x right, y down, z forward. Angles are in
degrees and positive counter-clockwise as one sees the picture. Everything is numpy, float64.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from projects.metro.body.skeleton import SMPL_MIRROR

Array = NDArray[np.float64]

# A left becomes a right: x turns its sign, and so does every rotation about y and z.
MIRROR = np.diag([-1.0, 1.0, 1.0])


def in_camera(points: ArrayLike, R: ArrayLike, C: ArrayLike) -> Array:
    """World points (..., 3) on the axes of a camera: R (X - C)."""
    return (np.asarray(points) - C) @ np.asarray(R).T


def project(points: ArrayLike, K: ArrayLike) -> Array:
    """Pixels (..., 2) of points (..., 3) on camera axes, which should lie ahead of it (z > 0)."""
    pixels = np.asarray(points) @ np.asarray(K).T
    return pixels[..., :2] / pixels[..., 2:]


def square_around(points: ArrayLike, factor: float) -> tuple[Array, float]:
    """The square box around points (n, 2), ``factor`` times as wide as it need be.

    Returns:
        Its centre (2,), that of the points' own box, and its side.
    """
    columns = np.asarray(points).T  # one by one: several times as fast as both along axis 0
    low, high = (np.array([end(column) for column in columns]) for end in (np.min, np.max))
    return (low + high) / 2, factor * float(np.max(high - low))


def crop_map(
    centre: ArrayLike, side: float, size: int, degrees: float = 0.0, mirrored: bool = False
) -> Array:
    """The map (3, 3) from pixels of an image to those of a crop of ``size`` x ``size`` pixels.

    Args:
        centre: (2,) the box's centre, in pixels of the image.
        side: the box's, in pixels of the image.
        size: the crop's, in pixels; the box's edges come to -0.5 and size - 0.5.
        degrees: the picture is turned about the box's centre, after it is scaled.
        mirrored: whether it is then mirrored left to right.
    """
    x, y = np.asarray(centre, dtype=np.float64)
    middle = (size - 1) / 2
    to_origin = np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]])
    scaled = np.diag([size / side, size / side, 1])
    to_middle = np.array([[1, 0, middle], [0, 1, middle], [0, 0, 1]])
    return to_middle @ motion(degrees, mirrored) @ scaled @ to_origin


def motion(degrees: float, mirrored: bool) -> Array:
    """What a turn in the plane and then a mirror do to points on camera axes: (3, 3).

    The turn is counter-clockwise on the picture, where y points down.
    """
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    rotation = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    return MIRROR @ rotation if mirrored else rotation


def camera_after(K: ArrayLike, pixel_map: ArrayLike, points_motion: ArrayLike) -> Array:
    """The K (3, 3) that shows moved points on the moved picture.

    With x' = M x and p' = A p, and p = K x up to scale: p' = A K M^-1 x'. Where M turns in the
    plane as A does, about any centre, and the pixels are square, the result is an ordinary camera:
    it only gets other focal lengths and another principal point.

    Args:
        K: (3, 3) of the picture as it was.
        pixel_map: A, (3, 3), from its pixels to those of the new one.
        points_motion: M, (3, 3), orthogonal.
    """
    return np.asarray(pixel_map) @ K @ np.asarray(points_motion).T


def relative_positions(pixels: ArrayLike, size: int) -> Array:
    """Pixels (..., 2) of a square picture as positions in [-1, 1], its edges being -1 and 1."""
    return 2 * (np.asarray(pixels) + 0.5) / size - 1


def mirrored_pose(pose: ArrayLike) -> Array:
    """The pose (..., 72) of the mirrored person: sides swapped, rotations mirrored.

    A rotation by the axis-angle (x, y, z) is by (x, -y, -z) in the mirror, left and right being
    along x. The root's is mirrored, too: the mirrored person stands in the mirrored world.
    """
    pose = np.asarray(pose, dtype=np.float64)
    joints = pose.reshape(*pose.shape[:-1], len(SMPL_MIRROR), 3)[..., list(SMPL_MIRROR), :]
    return (joints * [1, -1, -1]).reshape(pose.shape)

"""Software rasteriser in numpy: z-buffer and soft shading of a mesh.

Pixels are counted from 0 and are where their centres are: the first one's is (0, 0). Camera axes
are x right, y down, z forward; points are in metres on them. V vertices, F faces, N samples along
each side of a pixel.

A sample (x, y) is on a face with corners q0, q1, q2 (homogeneous samples: z x, z y, z) if the
numbers (x, y, 1) . (q1 x q2), (x, y, 1) . (q2 x q0) and (x, y, 1) . (q0 x q1) have the sign of the
face's volume q0 . (q1 x q2). They are also the weights of the corners, true to perspective, and
their sum is the volume over the depth (Olano and Greer, "Triangle Scan Conversion using 2D
Homogeneous Coordinates", 1997, section 3). Neighbours leave no gap: their common edge has the same
numbers up to the sign.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import ArrayLike

NEAR = 0.01  # metres; a face with a corner nearer to the camera's plane is not seen
SAMPLES_AT_ONCE = 1_000_000  # bounds the memory where large faces overlap

# From the mesh to the light, on camera axes: above, to the left, from the camera's side.
TO_LIGHT = np.array([-0.35, -0.6, -1.0]) / np.linalg.norm([-0.35, -0.6, -1.0])
AMBIENT = 0.35  # the part of the light that comes from everywhere
COLOUR = (190, 200, 215)


def rasterise(
    points: ArrayLike, faces: np.ndarray, K: ArrayLike, size: tuple[int, int], samples: int = 2
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the samples that show a mesh, and the nearest face at each.

    Faces are seen from both sides. A sample on an edge is on the faces on both sides of it.

    Args:
        points: (V, 3) metres on camera axes.
        faces: (F, 3) integers, the vertices of each face.
        K: (3, 3) from camera axes to pixels; its last row is 0, 0, 1.
        size: height and width of the picture in pixels.
        samples: N; a pixel has N x N samples, each in the middle of its part of the pixel.

    Returns:
        numbers (n,) int64 of those samples, counted row by row; the face of each, (n,) int32; and
        the point as a mean of the face's corners, (n, 3) float64: weights in space, not on the
        picture, which sum to 1.

    Raises:
        ValueError: points that are not finite.
    """
    corners = homogeneous_samples(points, K, samples)[faces]  # (F, 3 corners, 3)
    height, width = size[0] * samples, size[1] * samples
    # For each corner the cross product of the next two, (F, 3, 3).
    edges = np.cross(np.roll(corners, -1, axis=1), np.roll(corners, -2, axis=1))
    volume = (corners[:, 0] * edges[:, 0]).sum(axis=1)  # (F,); 0: seen along its plane
    seen = (corners[..., 2] >= NEAR).all(axis=1) & (volume != 0)
    inside = edges * np.sign(volume)[:, None, None]
    inverse_depth = edges.sum(axis=1) / np.where(volume == 0, 1, volume)[:, None]  # (F, 3)

    nearest = np.zeros(height * width)  # 1 / depth
    face_at = np.full(height * width, -1, np.int32)
    for face, x, y in samples_around(corners, np.flatnonzero(seen), height, width):
        for edge in range(3):
            within = plane_values(inside[face, edge], x, y) >= 0
            face, x, y = face[within], x[within], y[within]
        found = plane_values(inverse_depth[face], x, y)
        place = y * width + x
        np.maximum.at(nearest, place, found)
        wins = found == nearest[place]
        face_at[place[wins]] = face[wins]

    place = np.flatnonzero(face_at >= 0)
    face = face_at[place]
    y, x = np.divmod(place, width)
    weights = np.stack([plane_values(edges[face, i], x, y) for i in range(3)], axis=1)
    return place, face, weights / weights.sum(axis=1, keepdims=True)


def homogeneous_samples(points: ArrayLike, K: ArrayLike, samples: int) -> np.ndarray:
    """Points (V, 3) as z x, z y, z (V, 3), where (x, y) counts samples, the first being (0, 0)."""
    points = np.asarray(points, dtype=np.float64)
    if not np.isfinite(points).all():
        raise ValueError("cannot draw a mesh with vertices that are not finite")
    middle = (samples - 1) / 2  # of a pixel, in samples
    to_samples = np.array([[samples, 0, middle], [0, samples, middle], [0, 0, 1]])
    return points @ (to_samples @ K).T


def samples_around(
    corners: np.ndarray, faces: np.ndarray, height: int, width: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All samples in the bounding boxes of faces (G,), of which ``corners`` (F, 3, 3) lie ahead.

    Yields:
        face, column and row of about ``SAMPLES_AT_ONCE`` samples, int64.
    """
    pixels = corners[faces, :, :2] / corners[faces, :, 2:]
    low = np.ceil(pixels.min(axis=1)).clip(0, [width, height]).astype(np.int64)
    high = np.floor(pixels.max(axis=1)).clip(-1, [width - 1, height - 1]).astype(np.int64)
    counts = (high - low + 1).clip(0).prod(axis=1)
    starts = np.flatnonzero(np.diff(np.cumsum(counts) // SAMPLES_AT_ONCE)) + 1
    for group in np.split(np.arange(len(faces)), starts):
        number, y = ranges(low[group, 1], high[group, 1])
        number = group[number]
        again, x = ranges(low[number, 0], high[number, 0])
        yield faces[number[again]], x, y[again]


def ranges(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The integers from each ``first`` to its ``last``, with the range's number before them."""
    lengths = np.maximum(last - first + 1, 0)
    number = np.repeat(np.arange(len(lengths)), lengths)
    steps = np.arange(len(number)) - (np.cumsum(lengths) - lengths)[number]
    return number, first[number] + steps


def plane_values(planes: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """a x + b y + c of planes (n, 3) at (x, y): (n,)."""
    return planes[:, 0] * x + planes[:, 1] * y + planes[:, 2]


# ---- shading -------------------------------------------------------------------------------------
def render(
    points: ArrayLike,
    faces: np.ndarray,
    K: ArrayLike,
    size: tuple[int, int],
    colour: ArrayLike = COLOUR,
    background: np.ndarray | None = None,
    samples: int = 2,
) -> np.ndarray:
    """Draw a mesh in a soft light from above, antialiased.

    Args:
        points: (V, 3) metres on camera axes.
        faces: (F, 3) integers, counter-clockwise seen from outside or all the other way round.
        K: (3, 3) from camera axes to pixels; its last row is 0, 0, 1.
        size: height and width of the picture in pixels.
        colour: (3,) of the mesh or (V, 3) of its vertices, 0 to 255; the order of the channels is
            the caller's.
        background: (height, width, 3) uint8 picture to draw on; None: white.
        samples: along each side of a pixel, which is their mean.

    Returns:
        (height, width, 3) uint8.

    Raises:
        ValueError: points that are not finite, or a background of another size.
    """
    height, width = size
    if background is None:
        background = np.full((height, width, 3), 255, np.uint8)
    place, face, weights = rasterise(points, faces, K, size, samples)
    points = np.asarray(points, dtype=np.float64)
    colours = np.broadcast_to(np.asarray(colour, dtype=np.float64), points.shape)
    corners = faces[face]  # (n, 3)
    normals = face_normals(points, faces)
    # The camera may see the side of a face where its corners go clockwise.
    side = np.where((normals * points[faces[:, 0]]).sum(axis=1) > 0, -1, 1)[face, None]
    towards = (vertex_normals(normals, faces, len(points)) @ TO_LIGHT)[corners]  # (n, 3) cosines
    light = AMBIENT + (1 - AMBIENT) * (side * towards).clip(0)
    shown = np.einsum("nk,nkc->nc", weights, light[..., None] * colours[corners])
    picture = background.astype(np.float64).repeat(samples, axis=0).repeat(samples, axis=1)
    picture.reshape(-1, 3)[place] = shown
    return np.rint(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)).astype(
        np.uint8
    )


def face_normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Outward normals (F, 3), as long as twice the face's area."""
    a, b, c = np.moveaxis(points[faces], 1, 0)
    return np.cross(b - a, c - a)


def vertex_normals(normals: np.ndarray, faces: np.ndarray, num_vertices: int) -> np.ndarray:
    """Unit normals (V, 3), means of those of the faces around weighted by area; 0 without any."""
    sums = np.zeros((num_vertices, 3))
    np.add.at(sums, faces.ravel(), np.repeat(normals, 3, axis=0))
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    return sums / np.where(length == 0, 1, length)

"""What a camera sees of a mesh: a z-buffer and soft shading, in numpy alone.

Pixels are counted from 0 and are where their centres are: the first one's is (0, 0). Camera axes
are x right, y down, z forward; points are in metres on them. V vertices, F faces, N samples along
each side of a pixel.

A sample (x, y) is on a face with corners q0, q1, q2 (homogeneous samples: z x, z y, z) if the
numbers (x, y, 1) . (q1 x q2), (x, y, 1) . (q2 x q0) and (x, y, 1) . (q0 x q1) have the sign of the
face's volume q0 . (q1 x q2). They are also the weights of the corners, true to perspective, and
their sum is the volume over the depth (Olano and Greer, "Triangle Scan Conversion using 2D
Homogeneous Coordinates", 1997, section 3). So no face is cut where it passes the camera, and
neighbours leave no gap: their common edge has the same numbers up to the sign.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

NEAR = 0.01  # metres; what is nearer to the camera's plane is not seen
SAMPLES_AT_ONCE = 1_000_000  # bounds the memory where large faces overlap

# From the mesh to the light, on camera axes: above, to the left, from the camera's side.
TO_LIGHT = np.array([-0.35, -0.6, -1.0]) / np.linalg.norm([-0.35, -0.6, -1.0])
AMBIENT = 0.35  # the part of the light that comes from everywhere
COLOUR = (190, 200, 215)


@dataclass(frozen=True)
class Raster:
    """Which samples of a picture show a mesh, and what of it.

    Attributes:
        shape: rows and columns of all samples, N times the picture's.
        place: (n,) int64, numbers of the n samples that show something, counted row by row.
        face: (n,) int32, the nearest face at each.
        depth: (n,) float64, metres along z.
        barycentric: (n, 3) float64, the point as a mean of the face's corners: weights in space,
            not on the picture; each row sums to 1.
    """

    shape: tuple[int, int]
    place: np.ndarray
    face: np.ndarray
    depth: np.ndarray
    barycentric: np.ndarray

    def spread(self, values: np.ndarray, elsewhere: float) -> np.ndarray:
        """Lay values (n, ...) out as (rows, columns, ...), with ``elsewhere`` between them."""
        laid_out = np.full((self.shape[0] * self.shape[1], *values.shape[1:]), elsewhere)
        laid_out[self.place] = values
        return laid_out.reshape(*self.shape, *values.shape[1:])


def rasterise(
    points: ArrayLike, faces: np.ndarray, K: ArrayLike, size: tuple[int, int], samples: int = 2
) -> Raster:
    """Find the nearest face at each sample.

    Faces are seen from both sides. A sample on an edge is on the faces on both sides of it.

    Args:
        points: (V, 3) metres on camera axes.
        faces: (F, 3) integers, the vertices of each face.
        K: (3, 3) from camera axes to pixels; its last row is 0, 0, 1.
        size: height and width of the picture in pixels.
        samples: N; a pixel has N x N samples, each in the middle of its part of the pixel.

    Raises:
        ValueError: points that are not finite.
    """
    corners = homogeneous_samples(points, K, samples)[faces]  # (F, 3 corners, 3)
    height, width = size[0] * samples, size[1] * samples
    edges = edge_functions(corners)
    volume = (corners[:, 0] * edges[:, 0]).sum(axis=1)  # (F,)
    boxes = bounding_boxes(corners, height, width)
    boxes[volume == 0] = NOWHERE  # seen along its plane
    inside = edges * np.sign(volume)[:, None, None]
    inverse_depth = edges.sum(axis=1) / np.where(volume == 0, 1, volume)[:, None]  # (F, 3)

    nearest = np.zeros(height * width)  # 1 / depth
    face_at = np.full(height * width, -1, np.int32)
    for group in groups_of_faces(boxes):
        face, x, y = covered_samples(inside, boxes, group)
        found = plane_values(inverse_depth[face], x, y)
        place = y * width + x
        ahead = found <= 1 / NEAR
        face, place, found = face[ahead], place[ahead], found[ahead]
        np.maximum.at(nearest, place, found)
        wins = found == nearest[place]
        face_at[place[wins]] = face[wins]

    place = np.flatnonzero(face_at >= 0)
    face = face_at[place]
    y, x = np.divmod(place, width)
    weights = np.stack([plane_values(edges[face, i], x, y) for i in range(3)], axis=1)
    weights /= weights.sum(axis=1, keepdims=True)
    return Raster((height, width), place, face, 1 / nearest[place], weights)


def homogeneous_samples(points: ArrayLike, K: ArrayLike, samples: int) -> np.ndarray:
    """Points (V, 3) as z x, z y, z (V, 3), where (x, y) counts samples, the first being (0, 0)."""
    points = np.asarray(points, dtype=np.float64)
    if not np.isfinite(points).all():
        raise ValueError("cannot draw a mesh with vertices that are not finite")
    middle = (samples - 1) / 2  # of a pixel, in samples
    to_samples = np.array([[samples, 0, middle], [0, samples, middle], [0, 0, 1]])
    return points @ (to_samples @ K).T


def edge_functions(corners: np.ndarray) -> np.ndarray:
    """For each corner of faces (F, 3, 3) the cross product of the next two: (F, 3, 3)."""
    x, y, z = np.moveaxis(corners, 2, 0)  # (F, 3) each
    (x1, y1, z1), (x2, y2, z2) = ([np.roll(a, -n, axis=1) for a in (x, y, z)] for n in (1, 2))
    return np.stack([y1 * z2 - z1 * y2, z1 * x2 - x1 * z2, x1 * y2 - y1 * x2], axis=2)


# ---- which samples a face covers -----------------------------------------------------------------
NOWHERE = (0, -1, 0, -1)


def bounding_boxes(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    """First and last column and row of samples (F, 4) int64 that faces (F, 3, 3) may cover.

    The last is before the first where they cover none. A face with a corner that is nearer than
    ``NEAR`` may reach anywhere.
    """
    z = corners[..., 2]
    ahead = z >= NEAR
    pixels = corners[..., :2] / np.where(ahead, z, 1)[..., None]
    limit = max(height, width)  # beyond it nothing is seen, and integers could overflow
    low = np.ceil(pixels.min(axis=1)).clip(0, limit)
    high = np.floor(pixels.max(axis=1)).clip(-1, [width - 1, height - 1])
    boxes = np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1).astype(np.int64)
    boxes[~ahead.all(axis=1)] = (0, width - 1, 0, height - 1)
    boxes[~ahead.any(axis=1)] = NOWHERE
    return boxes


def groups_of_faces(boxes: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of the faces that cover something, in groups of about ``SAMPLES_AT_ONCE`` samples."""
    columns = boxes[:, 1] - boxes[:, 0] + 1
    rows = boxes[:, 3] - boxes[:, 2] + 1
    seen = np.flatnonzero((columns > 0) & (rows > 0))
    group = np.cumsum(columns[seen] * rows[seen]) // SAMPLES_AT_ONCE
    starts = np.flatnonzero(np.diff(group)) + 1
    return iter(np.split(seen, starts))


def covered_samples(
    inside: np.ndarray, boxes: np.ndarray, group: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All samples that some faces cover, row by row.

    Args:
        inside: (F, 3, 3) edge functions, at least 0 on the inner side.
        boxes: (F, 4) from ``bounding_boxes``.
        group: (G,) the faces to look at.

    Returns:
        face, column and row of each sample, int64.
    """
    number, y = ranges(boxes[group, 2], boxes[group, 3])
    face = group[number]
    first = boxes[face, 0].astype(np.float64)
    last = boxes[face, 1].astype(np.float64)
    for edge in range(3):
        slope, b, c = inside[face, edge].T
        rest = b * y + c
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = -rest / slope
        np.fmax(first, np.ceil(crossing), out=first, where=slope > 0)
        np.fmin(last, np.floor(crossing), out=last, where=slope < 0)
        last[(slope == 0) & (rest < 0)] = -1
    number, x = ranges(first.astype(np.int64), last.astype(np.int64))
    return face[number], x, y[number]


def ranges(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The integers from each ``first`` to its ``last``, one range after the other.

    Returns:
        the number of the range and the integer, both int64; a range may be empty.
    """
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
    vertex_colours: ArrayLike | None = None,
    samples: int = 2,
) -> np.ndarray:
    """Draw a mesh in a soft light from above, antialiased.

    Args:
        points: (V, 3) metres on camera axes.
        faces: (F, 3) integers, counter-clockwise seen from outside or all the other way round.
        K: (3, 3) from camera axes to pixels; its last row is 0, 0, 1.
        size: height and width of the picture in pixels.
        colour: (3,) of the mesh, 0 to 255; the order of the channels is the caller's.
        background: (height, width, 3) uint8 picture to draw on; None: white.
        vertex_colours: (V, 3) 0 to 255, instead of ``colour``.
        samples: along each side of a pixel, which is their mean.

    Returns:
        (height, width, 3) uint8.

    Raises:
        ValueError: points that are not finite, or a background of another size.
    """
    height, width = size
    if background is None:
        background = np.full((height, width, 3), 255, np.uint8)
    if background.shape != (height, width, 3):
        raise ValueError(
            f"a picture of {height} x {width} pixels needs a background of "
            f"{(height, width, 3)}, got {background.shape}"
        )
    raster = rasterise(points, faces, K, size, samples)
    points = np.asarray(points, dtype=np.float64)
    colours = np.asarray(colour if vertex_colours is None else vertex_colours, dtype=np.float64)
    shades = lambert(points, faces)[..., None] * colours  # (2 sides, V, 3)
    corners = faces[raster.face] + len(points) * seen_from_behind(points, faces)[raster.face, None]
    shown = np.einsum("nk,nkc->nc", raster.barycentric, shades.reshape(-1, 3)[corners])
    return blend(background, shown, raster, samples)


def seen_from_behind(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Whether the camera sees the side of a face where its corners go clockwise: (F,) bool."""
    return (face_normals(points, faces) * points[faces[:, 0]]).sum(axis=1) > 0


def face_normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Outward normals (F, 3), as long as twice the face's area."""
    a, b, c = np.moveaxis(points[faces], 1, 0)
    return np.cross(b - a, c - a)


def vertex_normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals (V, 3), means of those of the faces around weighted by area; 0 without any."""
    by_corner = np.repeat(face_normals(points, faces), 3, axis=0)
    normals = np.stack(
        [np.bincount(faces.ravel(), axis, minlength=len(points)) for axis in by_corner.T], axis=1
    )
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return normals / np.where(length == 0, 1, length)


def lambert(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """How bright each vertex is, in [AMBIENT, 1]: (2, V), from the front and from behind."""
    towards = vertex_normals(points, faces) @ TO_LIGHT
    return AMBIENT + (1 - AMBIENT) * np.stack([towards, -towards]).clip(0)


def blend(background: np.ndarray, shown: np.ndarray, raster: Raster, samples: int) -> np.ndarray:
    """Each pixel as the mean of its samples: what they show (n, 3), else the background."""
    height, width = background.shape[:2]
    y, x = np.divmod(raster.place, raster.shape[1])
    pixel, number = np.unique(y // samples * width + x // samples, return_inverse=True)
    count = np.bincount(number)[:, None]
    sums = np.stack([np.bincount(number, channel) for channel in shown.T], axis=1)
    picture = background.reshape(-1, 3).copy()
    sums += (samples**2 - count) * picture[pixel]
    picture[pixel] = np.rint(sums / samples**2)
    return picture.reshape(height, width, 3)

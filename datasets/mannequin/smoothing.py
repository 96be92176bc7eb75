"""Mesh smoothing: edges flipped, vertices moved along the surface."""

from collections.abc import Callable

import numpy as np
from scipy.sparse import coo_array

from mannequin.signed_distance import ImplicitSolid, gradient, project

SHARPEST_FLIP = np.cos(np.radians(50))  # two faces that meet at more than this keep their edge


def flip_edges(points: np.ndarray, faces: np.ndarray, passes: int = 20) -> np.ndarray:
    """Flip the edges whose two opposite angles are more than 180 degrees together (Delaunay).

    Args:
        points: (V, 3).
        faces: (F, 3) of a closed mesh.
        passes: a pass flips at most one edge of each face; passes end where none is left.

    Returns:
        (F, 3) in the dtype of ``faces``.
    """
    faces = faces.copy()
    for _ in range(passes):
        if not flip_once(points, faces):
            break
    return faces


def flip_once(points: np.ndarray, faces: np.ndarray) -> int:
    """One pass of ``flip_edges``, in place; returns the number of edges flipped."""
    a, b, c, d, first, second = wings(faces)
    excess = angle(points, c, a, b) + angle(points, d, a, b) - np.pi
    order = np.argsort(-excess, kind="stable")
    order = order[excess[order] > 1e-6]
    normals = face_normals(points, faces)
    cosine = (normals[first] * normals[second]).sum(axis=1)
    after = [face_normals(points, np.stack(f, axis=1)) for f in ((c, d, b), (d, c, a))]
    fits = (after[0] * normals[first]).sum(axis=1) > SHARPEST_FLIP
    fits &= (after[1] * normals[second]).sum(axis=1) > SHARPEST_FLIP
    fits &= (cosine > SHARPEST_FLIP) & ((after[0] * after[1]).sum(axis=1) > SHARPEST_FLIP)
    edges = set(zip(np.minimum(a, b).tolist(), np.maximum(a, b).tolist(), strict=True))
    touched: set[int] = set()
    flipped = 0
    for edge in order[fits[order]].tolist():
        opposite = (int(min(c[edge], d[edge])), int(max(c[edge], d[edge])))
        pair = {int(first[edge]), int(second[edge])}
        if opposite in edges or pair & touched:
            continue
        faces[first[edge]] = c[edge], d[edge], b[edge]
        faces[second[edge]] = d[edge], c[edge], a[edge]
        edges.add(opposite)
        touched |= pair
        flipped += 1
    return flipped


def wings(faces: np.ndarray) -> tuple[np.ndarray, ...]:
    """Every edge once, with what is beside it.

    Returns:
        six arrays (E,): the edge's ends a, b; c, which makes the face (a, b, c); d, which makes the
        face (b, a, d); the numbers of these two faces.
    """
    starts, ends = faces[:, [0, 1, 2]].ravel(), faces[:, [1, 2, 0]].ravel()
    apex = faces[:, [2, 0, 1]].ravel()
    number = np.repeat(np.arange(len(faces)), 3)
    there = np.lexsort((ends, starts))
    back = np.lexsort((starts, ends))  # in a closed mesh each edge is there once in each direction
    once = starts[there] < ends[there]
    there, back = there[once], back[once]
    return starts[there], ends[there], apex[there], apex[back], number[there], number[back]


def angle(points: np.ndarray, at: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angles (E,) in radians at vertices between the directions to two others."""
    u, v = points[a] - points[at], points[b] - points[at]
    return np.arctan2(np.linalg.norm(np.cross(u, v), axis=1), (u * v).sum(axis=1))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, 3) of length 1, or 0 where there is no direction."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)


def face_normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals (F, 3)."""
    a, b, c = points[faces].transpose(1, 0, 2)
    return unit(np.cross(b - a, c - a))


def relax(
    solid: ImplicitSolid,
    points: np.ndarray,
    faces: np.ndarray,
    fineness: Callable[[np.ndarray], np.ndarray],
    rounds: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Even out a mesh on a solid's surface: move vertices along it, flip edges, again and again.

    A vertex moves towards the middle of its faces, of which large ones (for the ``fineness`` there)
    count more.

    Returns:
        points (V, 3) on the surface, and faces (F, 3).
    """
    for _ in range(rounds):
        faces = flip_edges(points, faces)
        corners = points[faces]
        middles = corners.mean(axis=1)
        sides = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        weights = np.linalg.norm(sides, axis=1) / fineness(middles) ** 2
        rows, columns = faces.ravel(), np.repeat(np.arange(len(faces)), 3)
        share = coo_array((weights[columns], (rows, columns)), (len(points), len(faces))).tocsr()
        moves = (share @ middles) / share.sum(axis=1)[:, None] - points
        normals = unit(gradient(solid, points))
        moves -= (moves * normals).sum(axis=1, keepdims=True) * normals
        points = project(solid, points + 0.8 * moves, steps=2)
    return points, flip_edges(points, faces)

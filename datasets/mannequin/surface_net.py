"""Naive surface nets: a closed triangle mesh of an implicit surface.

Every cell of a grid that the surface passes through gets one vertex, and every grid edge that it
crosses joins the vertices of its four cells (S. Gibson, "Constrained elastic surface nets", 1998).
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from mannequin.signed_distance import ImplicitSolid, project

MARGIN = 2  # cells around the solid


def surface_net(solid: ImplicitSolid, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) on a solid's surface, and outward faces (F, 3) int64.

    Args:
        solid: what to mesh; parts of it should be thicker, and further apart, than two cells.
        cell: metres along each edge of the grid.
    """
    origin, inside = sample(solid, cell)
    number, corners = crossed_cells(inside)
    faces = np.concatenate([quads(inside, number, axis) for axis in range(3)])
    vertices = project(solid, origin + cell * (corners + 0.5), steps=4)
    return vertices, split(vertices, faces)


def sample(solid: ImplicitSolid, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """A grid's first point (3,) and which of its points are inside, (nx, ny, nz) bool."""
    low, high = solid.bounds
    # Symmetric in x, and no point of the grid on the plane between left and right.
    half = np.ceil(high[0] / cell) + MARGIN + 0.5
    origin = np.array([-half * cell, low[1] - MARGIN * cell, low[2] - MARGIN * cell])
    counts = np.ceil((high + MARGIN * cell - origin) / cell).astype(int) + 1
    counts[0] = int(2 * half) + 1
    axes = [origin[i] + cell * np.arange(counts[i]) for i in range(3)]
    inside = np.empty(counts, bool)
    for number in range(counts[0]):  # slice by slice, for the memory's sake
        points = np.stack(np.meshgrid(axes[0][number], *axes[1:], indexing="ij"), axis=-1)
        inside[number] = (solid.distance(points.reshape(-1, 3)) < 0).reshape(counts[1:])
    return origin, inside


def crossed_cells(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the cells that the surface crosses, else -1; first corners (V, 3) of these."""
    corners = sliding_window_view(inside, (2, 2, 2))
    crossed = corners.any(axis=(3, 4, 5)) & ~corners.all(axis=(3, 4, 5))
    number = np.full(crossed.shape, -1)
    number[crossed] = np.arange(crossed.sum())
    return number, np.argwhere(crossed)


def quads(inside: np.ndarray, number: np.ndarray, axis: int) -> np.ndarray:
    """Outward quads (n, 4) around the grid's edges along one axis that the surface crosses."""
    inside, number = (np.moveaxis(array, axis, 0) for array in (inside, number))
    # After moving the axis the other two keep their order, which for y is not that of a rotation.
    start, end = inside[:-1, 1:-1, 1:-1], inside[1:, 1:-1, 1:-1]
    around = np.stack(
        [number[:, :-1, :-1], number[:, 1:, :-1], number[:, 1:, 1:], number[:, :-1, 1:]], axis=-1
    )
    leaving, entering = around[start & ~end], around[~start & end]
    if axis == 1:
        leaving, entering = entering, leaving
    return np.concatenate([leaving, entering[:, ::-1]])


def split(vertices: np.ndarray, quads: np.ndarray) -> np.ndarray:
    """Triangles (2 n, 3) of quads (n, 4), cut along their shorter diagonal."""
    a, b, c, d = quads.T
    shorter = np.linalg.norm(vertices[a] - vertices[c], axis=1) <= np.linalg.norm(
        vertices[b] - vertices[d], axis=1
    )
    first = np.where(shorter[:, None], np.stack([a, b, c], 1), np.stack([a, b, d], 1))
    second = np.where(shorter[:, None], np.stack([a, c, d], 1), np.stack([b, c, d], 1))
    return np.concatenate([first, second])

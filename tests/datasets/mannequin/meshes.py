"""What tests ask of meshes, and a ball to try things on."""

import numpy as np
from mannequin.signed_distance import ellipsoid

RADIUS = 0.1
BALL = ellipsoid((0, 0, 0), (RADIUS, RADIUS, RADIUS))


def assert_closed(faces, num_vertices):
    """Every edge once in each direction, all vertices used, in one piece and without a hole."""
    assert faces.shape == (2 * num_vertices - 4, 3)
    assert sorted(set(faces.ravel().tolist())) == list(range(num_vertices))
    there = faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    edges = set(map(tuple, there.tolist()))
    assert len(edges) == len(there)
    assert all((b, a) in edges for a, b in edges)
    reached, border = {0}, [0]
    neighbours = {}
    for a, b in edges:
        neighbours.setdefault(a, set()).add(b)
    while border:
        new = neighbours[border.pop()] - reached
        reached |= new
        border += new
    assert len(reached) == num_vertices  # with the number of faces: of genus 0


def volume(points, faces):
    """The enclosed volume; negative where faces point inwards."""
    a, b, c = points[faces].transpose(1, 0, 2)
    return (a * np.cross(b, c)).sum() / 6


def angles(points, faces):
    """The angles (F, 3) of triangles in degrees."""
    sides = points[faces[:, [1, 2, 0]]] - points[faces]
    lengths = np.linalg.norm(sides, axis=2)
    cosines = -(sides * sides[:, [2, 0, 1]]).sum(axis=2) / (lengths * lengths[:, [2, 0, 1]])
    return np.degrees(np.arccos(np.clip(cosines, -1, 1)))

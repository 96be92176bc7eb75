"""What tests ask of meshes, and a ball to try things on."""

import numpy as np
import trimesh
from mannequin.signed_distance import ellipsoid

RADIUS = 0.1
BALL = ellipsoid((0, 0, 0), (RADIUS, RADIUS, RADIUS))


def assert_closed(faces, num_vertices):
    """Every edge once in each direction, all vertices used, in one piece and without a hole."""
    mesh = trimesh.Trimesh(np.zeros((num_vertices, 3)), faces, process=False)
    assert faces.shape == (2 * num_vertices - 4, 3)
    assert np.array_equal(np.unique(faces), np.arange(num_vertices))
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert len(np.unique(mesh.edges, axis=0)) == len(mesh.edges)
    assert mesh.body_count == 1  # with the number of faces: of genus 0


def volume(points, faces):
    """The enclosed volume; negative where faces point inwards."""
    return trimesh.Trimesh(points, faces, process=False).volume


def angles(points, faces):
    """The angles (F, 3) of triangles in degrees."""
    return np.degrees(trimesh.triangles.angles(points[faces]))

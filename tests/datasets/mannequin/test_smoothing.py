import numpy as np
from mannequin.decimation import decimate
from mannequin.smoothing import flip_edges, relax
from mannequin.surface_net import surface_net

from tests.datasets.mannequin.meshes import BALL, RADIUS, angles, assert_closed


def test_the_longer_diagonal_of_a_flat_kite_is_flipped():
    # A kite that is flat above and closed below by a pyramid.
    points = np.array([[-2, 0, 0], [2, 0, 0], [0, 0, 1], [0, 0, -1], [0, -3.0, 0]])
    top = [[0, 2, 1], [0, 1, 3]]  # along the long diagonal 0-1
    below = [[4, 2, 0], [4, 1, 2], [4, 3, 1], [4, 0, 3]]
    flipped = flip_edges(points, np.array(top + below))
    assert_closed(flipped, 5)
    found = {frozenset(face) for face in flipped.tolist()}
    assert {frozenset((0, 2, 3)), frozenset((1, 2, 3))} <= found
    assert {frozenset(face) for face in below} <= found  # these meet at sharp edges


def test_what_is_even_is_left_alone():
    points = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1.0]])
    faces = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
    np.testing.assert_array_equal(flip_edges(points, faces), faces)


def test_triangles_become_even_and_stay_on_the_surface():
    points, faces = surface_net(BALL, 0.012)
    kept, faces = decimate(points, faces, points / RADIUS, np.ones(len(points)), 200)
    before = angles(points[kept], faces).min()
    points, faces = relax(BALL, points[kept], faces, lambda p: np.ones(len(p)), rounds=10)
    assert_closed(faces, 200)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), RADIUS, rtol=1e-5)
    assert angles(points, faces).min() > 30 > before

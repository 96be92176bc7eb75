import numpy as np
from mannequin.signed_distance import cone, smooth_union
from mannequin.surface_net import surface_net

from tests.datasets.mannequin.meshes import BALL, RADIUS, assert_closed, volume


def test_a_ball_is_closed_round_and_faces_outwards():
    points, faces = surface_net(BALL, 0.01)
    assert_closed(faces, len(points))
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), RADIUS, rtol=1e-6)
    np.testing.assert_allclose(volume(points, faces), 4 / 3 * np.pi * RADIUS**3, rtol=0.01)


def test_a_ring_has_a_hole():
    corners = [(0.1, 0, 0.1), (-0.1, 0, 0.1), (-0.1, 0, -0.1), (0.1, 0, -0.1)]
    ring = smooth_union(
        [cone(corners[n - 1], corners[n], (0.03, 0.03)) for n in range(4)], blend=0.005
    )
    points, faces = surface_net(ring, 0.012)
    assert len(faces) == 2 * len(points)  # Euler's formula for a torus
    assert volume(points, faces) > 0

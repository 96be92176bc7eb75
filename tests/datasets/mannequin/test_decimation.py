import numpy as np
import pytest
from mannequin.decimation import Decimation, decimate
from mannequin.surface_net import surface_net

from tests.datasets.mannequin.meshes import BALL, RADIUS, assert_closed, volume


@pytest.fixture(scope="module")
def ball():
    return surface_net(BALL, 0.012)


@pytest.mark.parametrize("count", [301, 100, 40])
def test_a_ball_keeps_its_shape_and_its_vertices(ball, count):
    points, faces = ball
    kept, fewer = decimate(points, faces, points / RADIUS, np.ones(len(points)), count)
    assert len(kept) == count and (np.diff(kept) > 0).all()
    assert_closed(fewer, count)
    full = 4 / 3 * np.pi * RADIUS**3
    assert 0.35 * full < volume(points[kept], fewer) < full


def test_edges_are_longer_where_less_fine(ball):
    points, faces = ball
    fineness = np.where(points[:, 1] > 0, 1.0, 2.0)
    kept, _ = decimate(points, faces, points / RADIUS, fineness, 200)
    above = (points[kept, 1] > 0).sum()
    assert 2.5 < above / (200 - above) < 5.5  # four times as many per area


def test_the_last_four_vertices_stay():
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1.0]])
    faces = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
    with pytest.raises(ValueError, match="below 4 vertices"):
        decimate(corners, faces, corners / 3**0.5, np.ones(4), 3)


def test_an_edge_of_a_triangle_that_is_no_face_stays(monkeypatch):
    """Two pyramids on both sides of a triangle, whose edges' ends have three common neighbours."""
    points = np.array([[1, 0, 0], [-0.5, 0, 0.87], [-0.5, 0, -0.87], [0, 1, 0], [0, -2, 0]])
    faces = np.array([[3, 1, 0], [3, 2, 1], [3, 0, 2], [4, 0, 1], [4, 1, 2], [4, 2, 0]])
    monkeypatch.setattr(Decimation, "outcome", lambda *_: 1.0)
    mesh = Decimation(points, faces, points, np.ones(5))
    mesh.heap = [(0.0, 0, 1), (0.0, 0, 2), (0.0, 1, 2)]
    with pytest.raises(ValueError, match="below 5 vertices"):
        mesh.collapse_down_to(4)
    mesh.heap = [(0.0, 0, 3)]
    mesh.collapse_down_to(4)
    assert len(mesh.alive) == 4

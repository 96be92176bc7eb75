import numpy as np
import pytest

from dropkey_core.engine import UserError
from projects.metro.pictures.people import draw_people, in_one_camera
from projects.metro.pictures.view import FOCAL_LENGTH, predicted_view

CAMERA = np.array([0.8, 0.1, -0.2])
SIZE = (60, 100)  # height and width


def shown(points):
    """Pixels (n, 2) of points before the camera of the whole picture."""
    middle = np.array([(SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2])
    return FOCAL_LENGTH * max(SIZE) * points[:, :2] / points[:, 2:] + middle


def test_a_mesh_is_seen_where_its_square_says():
    """The weak-perspective camera takes (x, y) to s (x + tx, y + ty), the square's edges -1, 1."""
    flat = np.array([[0.0, 0, 0], [0.5, -0.3, 0], [-0.2, 0.4, 0]])  # all equally far away
    square = np.array([70.0, -5, 20])
    relative = CAMERA[0] * (flat[:, :2] + CAMERA[1:])
    expected = square[:2] - 0.5 + square[2] * (relative + 1) / 2
    np.testing.assert_allclose(shown(in_one_camera(flat, CAMERA, square, SIZE)), expected)


def test_for_a_square_that_is_the_picture_it_is_the_view_of_the_crop(toy_body):
    vertices = toy_body.template_pose()
    view = predicted_view(vertices, CAMERA, 64)
    whole = in_one_camera(vertices, CAMERA, np.array([0.0, 0, 64]), (64, 64))
    np.testing.assert_allclose(whole, view.points)


def test_who_is_larger_on_the_picture_is_nearer():
    origin = np.zeros((1, 3))
    depths = [
        in_one_camera(origin, CAMERA, np.array([0.0, 0, side]), SIZE)[0, 2] for side in (20, 40)
    ]
    assert depths[0] == pytest.approx(2 * depths[1])


def test_camera_that_sees_nothing():
    assert (
        in_one_camera(np.zeros((1, 3)), np.array([-0.1, 0, 0]), np.array([0, 0, 9]), SIZE) is None
    )


def test_the_nearer_hides_the_farther(toy_body):
    picture = np.full((800, 800, 3), 90, np.uint8)
    vertices = toy_body.template_pose()
    vertices = vertices - (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    near, far = (vertices + np.array([0, 0, depth]) for depth in (9, 12))
    for order in ({0: near, 1: far}, {0: far, 1: near}):
        drawn = draw_people(picture, order, toy_body.faces).astype(int)
        red, _, blue = drawn[370:430, 390:410].reshape(-1, 3).mean(axis=0)  # within both
        assert (red > blue) == (order[0] is near)  # the first is orange, the second blue
    assert (drawn[:50] == 90).all()


def test_mesh_that_is_not_finite_is_told(toy_body):
    with pytest.raises(UserError, match="is not finite"):
        draw_people(np.zeros((8, 8, 3), np.uint8), {0: np.full((60, 3), np.nan)}, toy_body.faces)

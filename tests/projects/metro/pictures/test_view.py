import numpy as np
import pytest
from numpy.testing import assert_allclose

from dropkey_core.engine import UserError
from projects.metro.geometry import relative_positions
from projects.metro.pictures.view import (
    FOCAL_LENGTH,
    SIDE,
    View,
    draw_people,
    predicted_view,
    resized,
    side_view,
)

K = np.array([[300.0, 0, 40], [0, 300, 25], [0, 0, 1]])


def crop_view(vertices, camera, size):
    """The view of a square picture, all of which the network has seen."""
    return predicted_view(vertices, camera, (0, 0, size), (size, size))


@pytest.mark.parametrize("size", [64, 224])
def test_points_level_with_the_origin_are_where_metros_camera_puts_them(size):
    vertices = np.array([[0.0, 0, 0], [0.3, -0.8, 0], [-0.5, 0.7, 0]])
    scale, shift = 0.9, np.array([0.1, -0.2])
    view = crop_view(vertices, [scale, *shift], size)
    on_crop = relative_positions(view.shown(view.points), size)
    assert_allclose(on_crop, scale * (vertices[:, :2] + shift), atol=1e-12)


def test_a_mesh_is_seen_where_its_square_of_the_picture_says():
    """The weak-perspective camera takes (x, y) to s (x + tx, y + ty), the square's edges -1, 1."""
    flat = np.array([[0.0, 0, 0], [0.5, -0.3, 0], [-0.2, 0.4, 0]])  # all equally far away
    camera, square = np.array([0.8, 0.1, -0.2]), np.array([70.0, -5, 20])
    view = predicted_view(flat, camera, square, (60, 100))
    relative = camera[0] * (flat[:, :2] + camera[1:])
    assert_allclose(view.shown(view.points), square[:2] - 0.5 + square[2] * (relative + 1) / 2)


def test_what_is_nearer_is_larger_by_the_ratio_of_the_depths():
    view = crop_view([[0.5, 0, 0], [0.5, 0, -0.4]], [0.8, 0, 0], 224)
    away = view.shown(view.points)[:, 0] - 223 / 2
    depth = 2 * FOCAL_LENGTH / 0.8  # of the origin, whatever the crop's size
    assert_allclose(away[1] / away[0], depth / (depth - 0.4))


def test_who_is_larger_on_the_picture_is_nearer():
    near, far = (
        predicted_view(np.zeros((1, 3)), [0.8, 0, 0], (0, 0, side), (60, 100)).points[0, 2]
        for side in (40, 20)
    )
    assert far == pytest.approx(2 * near)


@pytest.mark.parametrize("scale", [0, -0.3, np.nan])
def test_camera_that_would_turn_the_picture_over_sees_nothing(scale):
    assert crop_view(np.zeros((4, 3)), [scale, 0, 0], 224) is None


def test_side_view_is_from_the_right_of_the_picture_and_in_its_middle():
    # Head, feet, something to the left and something behind.
    points = np.array([[0.5, -0.8, 3.0], [0.5, 0.8, 3.0], [0.3, 0, 3.0], [0.7, 0, 3.6]])
    view = View(points, K)
    beside = side_view(view)
    low, high = points.min(axis=0), points.max(axis=0)
    x = beside.shown(beside.points)[:, 0]
    assert x[3] > x[0]  # what was behind is on the right
    assert beside.points[2, 2] > beside.points[3, 2]  # what was on the left is farther away
    extent = beside.points.max(axis=0) - beside.points.min(axis=0)
    assert_allclose(extent, (high - low)[[2, 1, 0]])
    middle = (beside.points.min(axis=0) + beside.points.max(axis=0)) / 2
    assert_allclose(view.shown(middle)[0], (SIDE - 1) / 2)
    assert_allclose(middle[1:], ((low + high) / 2)[1:])


# ---- pictures ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("size", "longer", "expected"),
    [((7, 7), SIDE, (SIDE, SIDE)), ((500, 250), 100, (100, 50)), ((1, 300), 100, (1, 100))],
)
def test_pictures_are_resized_by_their_longer_side(size, longer, expected):
    assert (resized(np.full((*size, 3), 77, np.uint8), longer) == np.full((*expected, 3), 77)).all()


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

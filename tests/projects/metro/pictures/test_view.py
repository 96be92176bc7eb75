import numpy as np
import pytest
from numpy.testing import assert_allclose

from projects.metro.geometry import relative_positions
from projects.metro.pictures.view import FOCAL_LENGTH, View, predicted_view, side_view

SIZE = 64
K = np.array([[300.0, 0, 40], [0, 300, 25], [0, 0, 1]])


@pytest.mark.parametrize("size", [64, 224])
def test_points_level_with_the_origin_are_where_metros_camera_puts_them(size):
    vertices = np.array([[0.0, 0, 0], [0.3, -0.8, 0], [-0.5, 0.7, 0]])
    scale, shift = 0.9, np.array([0.1, -0.2])
    view = predicted_view(vertices, [scale, *shift], size)
    on_crop = relative_positions(view.shown(view.points), size)
    assert_allclose(on_crop, scale * (vertices[:, :2] + shift), atol=1e-12)


def test_what_is_nearer_is_larger_by_the_ratio_of_the_depths():
    view = predicted_view([[0.5, 0, 0], [0.5, 0, -0.4]], [0.8, 0, 0], 224)
    away = view.shown(view.points)[:, 0] - 223 / 2
    depth = 2 * FOCAL_LENGTH / 0.8  # of the origin, whatever the crop's size
    assert_allclose(away[1] / away[0], depth / (depth - 0.4))


@pytest.mark.parametrize("scale", [0, -0.3, np.nan])
def test_camera_that_would_turn_the_picture_over_sees_nothing(scale):
    assert predicted_view(np.zeros((4, 3)), [scale, 0, 0], 224) is None


def test_enlarged_view_shows_the_same_place_of_the_crop():
    points = np.array([[0.1, 0.2, 3.0], [-0.3, 0.1, 2.0]])
    view = View(points, K)
    larger = view.enlarged(SIZE, 5 * SIZE)
    assert_allclose(larger.shown(points) + 0.5, 5 * (view.shown(points) + 0.5))


def test_side_view_is_from_the_right_of_the_picture_and_in_its_middle():
    # Head, feet, something to the left and something behind.
    points = np.array([[0.5, -0.8, 3.0], [0.5, 0.8, 3.0], [0.3, 0, 3.0], [0.7, 0, 3.6]])
    view = View(points, K)
    beside = side_view(view, SIZE)
    low, high = points.min(axis=0), points.max(axis=0)
    x = beside.shown(beside.points)[:, 0]
    assert x[3] > x[0]  # what was behind is on the right
    assert beside.points[2, 2] > beside.points[3, 2]  # what was on the left is farther away
    extent = beside.points.max(axis=0) - beside.points.min(axis=0)
    assert_allclose(extent, (high - low)[[2, 1, 0]])
    middle = (beside.points.min(axis=0) + beside.points.max(axis=0)) / 2
    assert_allclose(view.shown(middle)[0], (SIZE - 1) / 2)
    assert_allclose(middle[1:], ((low + high) / 2)[1:])

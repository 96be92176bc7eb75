import numpy as np
import pytest
from numpy.testing import assert_allclose

from projects.metro.geometry import relative_positions
from projects.metro.pictures.view import (
    FOCAL_LENGTH,
    PAPER,
    PREDICTED,
    SIDE,
    View,
    draw_mesh,
    predicted_view,
    resized,
    side_view,
)

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


# ---- pictures ------------------------------------------------------------------------------------
# A square that covers the middle half of the crop, in both directions.
CORNERS = np.array([[-1.0, -1, 4], [1, -1, 4], [1, 1, 4], [-1, 1, 4]])
FACES = np.array([[0, 3, 2], [0, 2, 1]])
MIDDLE = (SIZE - 1) / 2
VIEW = View(CORNERS, np.array([[SIZE, 0, MIDDLE], [0, SIZE, MIDDLE], [0, 0, 1.0]]))


def grey(level):
    return np.full((SIZE, SIZE, 3), level, np.uint8)


def test_mesh_lies_on_its_place_of_the_crop():
    drawn = draw_mesh(VIEW, FACES, SIZE, grey(90))
    quarter = SIDE // 4
    inside = drawn[quarter : 3 * quarter, quarter : 3 * quarter]
    assert drawn.shape == (SIDE, SIDE, 3)
    assert (inside == inside[0, 0]).all()
    red, green, blue = inside[0, 0] / 255
    assert red > 0.5 and blue == 0
    assert_allclose(green / red, PREDICTED[1] / PREDICTED[0], atol=0.01)
    outside = np.ones((SIDE, SIDE), bool)
    outside[quarter : 3 * quarter, quarter : 3 * quarter] = False
    assert (drawn[outside] == 90).all()


def test_mesh_may_have_colours_of_its_vertices():
    colours = np.array([[255, 0, 0], [255, 0, 0], [0, 0, 255], [0, 0, 255]])
    drawn = draw_mesh(VIEW, FACES, SIZE, None, colours)
    top, bottom = drawn[SIDE // 4 + 3, SIDE // 2], drawn[3 * SIDE // 4 - 3, SIDE // 2]
    assert top[0] > 150 and bottom[2] > 150
    assert (drawn[0, 0] == PAPER).all()


def test_without_view_there_is_only_the_crop():
    crop = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    np.testing.assert_array_equal(draw_mesh(None, FACES, SIZE, crop), resized(crop))


def test_small_and_large_crops_get_the_same_size():
    for size in (7, SIDE, 500):
        same = np.full((size, size, 3), 77, np.uint8)
        assert (resized(same) == np.full((SIDE, SIDE, 3), 77)).all()

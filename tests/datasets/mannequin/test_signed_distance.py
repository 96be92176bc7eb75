import numpy as np
import pytest
from mannequin.signed_distance import (
    FAR,
    above_floor,
    cone,
    ellipsoid,
    gradient,
    loft,
    mirrored,
    project,
    smooth_union,
)


def ball(x=0.0, radius=0.1):
    return ellipsoid((x, 0, 0), (radius, radius, radius))


def test_an_ellipsoids_surface_has_distance_0():
    # Wider to the left, deeper at the back, longer below.
    solid = loft(1, [(0.5, 1, 2, 0.3, 0.2, 0.1, 0.15)], (0.4, 0.25))
    points = np.array([1, 0.5, 2]) + np.array(
        [[0.3, 0, 0], [-0.2, 0, 0], [0, 0.25, 0], [0, -0.4, 0], [0, 0, 0.1], [0, 0, -0.15]]
    )
    np.testing.assert_allclose(solid.distance(points), 0, atol=1e-8)
    assert solid.distance(np.array([[1, 0.5, 2]])) < -0.09
    np.testing.assert_allclose(solid.distance(np.array([[2, 0.5, 2]])), 0.7)
    np.testing.assert_allclose(solid.bounds, [[0.8, 0.1, 1.85], [1.3, 0.75, 2.1]])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_loft_passes_through_its_ovals(axis):
    rows = [(0.0, 0, 0, 0.1, 0.1, 0.2, 0.2), (1.0, 0.5, -0.5, 0.3, 0.3, 0.1, 0.1)]
    solid = loft(axis, rows, (0.1, 0.1))
    others = [other for other in range(3) if other != axis]
    for at, u, v in ((0, 0.1, 0), (0, 0, -0.2), (1, 0.8, -0.5), (1, 0.5, -0.4)):
        point = np.zeros((1, 3))
        point[0, axis], point[0, others[0]], point[0, others[1]] = at, u, v
        np.testing.assert_allclose(solid.distance(point), 0, atol=1e-8)


def test_a_cone_is_round_and_tapers():
    rod = cone((0, 0, 0), (1, 0, 0), (0.2, 0.1))
    points = np.array([[0, 0.2, 0], [0.5, 0, 0.25], [1.1, 0, 0], [-0.3, 0, 0]])
    np.testing.assert_allclose(rod.distance(points), [0, 0.1, 0, 0.1], atol=1e-12)


def test_what_melts_is_larger_where_both_are_near():
    left, right = ball(-0.1), ball(0.1)
    union = smooth_union([left, right], blend=0.02)
    middle = np.zeros((1, 3))
    np.testing.assert_allclose(
        union.distance(middle), left.distance(middle) - 0.02 * np.log(2), atol=1e-12
    )
    far_side = np.array([[-0.2, 0, 0]])
    np.testing.assert_allclose(union.distance(far_side), 0, atol=1e-4)
    assert union.distance(np.array([[5.0, 0, 0]])) == FAR


def test_mirrored_is_on_the_other_side():
    points = np.random.default_rng(0).normal(size=(20, 3))
    left = loft(1, [(0, 0.4, 0, 0.3, 0.1, 0.2, 0.1)], (0.1, 0.2))
    np.testing.assert_array_equal(
        mirrored(left).distance(points), left.distance(points * [-1, 1, 1])
    )
    np.testing.assert_allclose(mirrored(left).bounds, [[-0.7, -0.1, -0.1], [-0.3, 0.2, 0.2]])


def test_nothing_is_left_below_the_floor():
    cut = above_floor(ball(), floor=-0.05, rounding=0.002)
    assert cut.distance(np.array([[0, -0.07, 0]])) > 0.019
    assert abs(cut.distance(np.array([[0, -0.05, 0]]))) < 1e-3
    np.testing.assert_allclose(cut.distance(np.array([[0, 0.1, 0]])), 0, atol=1e-6)


def test_points_are_projected_along_the_gradient():
    points = np.random.default_rng(0).normal(size=(50, 3))
    points *= 0.12 / np.linalg.norm(points, axis=1, keepdims=True)
    np.testing.assert_allclose(gradient(ball(), points), points / 0.12, atol=1e-6)
    np.testing.assert_allclose(project(ball(), points), points * (0.1 / 0.12), atol=1e-7)

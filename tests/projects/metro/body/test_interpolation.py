import numpy as np
import pytest

from projects.metro.body.interpolation import interpolation_weights

CORNERS = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [9, 9, 9]])


def test_the_middle_of_a_square_is_the_mean_of_its_corners():
    weights = interpolation_weights(np.array([[0.5, 0.5, 0]]), CORNERS, num_sources=4)
    np.testing.assert_allclose(weights, [[0.25, 0.25, 0.25, 0.25, 0]], atol=1e-9)


def test_a_source_is_itself():
    weights = interpolation_weights(CORNERS[:1], CORNERS, num_sources=3)
    np.testing.assert_allclose(weights, [[1, 0, 0, 0, 0]], atol=0.01)
    assert (weights[0, 3:] == 0).all()


def test_points_follow_what_is_done_to_all_sources():
    generator = np.random.default_rng(0)
    sources = generator.normal(size=(200, 3))
    points = 0.5 * generator.normal(size=(50, 3))
    weights = interpolation_weights(points, sources)
    assert (np.count_nonzero(weights, axis=1) == 6).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-12)
    motion = generator.normal(size=(3, 3))
    moved = weights @ (sources @ motion + [1, 2, 3])
    assert np.abs(moved - (points @ motion + [1, 2, 3])).max() < 0.1


@pytest.mark.parametrize("count", [1, 2])
def test_few_sources_are_enough(count):
    weights = interpolation_weights(np.array([[0.2, 0, 0]]), CORNERS[:count])
    assert weights.shape == (1, count)
    assert weights.sum() == pytest.approx(1)

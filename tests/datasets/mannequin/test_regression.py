import numpy as np
import pytest
from mannequin.anatomy import h36m_places, smpl_places
from mannequin.regression import even_weights, regressor

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "places"), [("joint_regressor", smpl_places), ("h36m_regressor", h36m_places)]
)
def test_joints_are_where_they_were_put(small_mannequin, name, places):
    found = getattr(small_mannequin, name)
    assert (found >= 0).all()
    assert ((found > 0).sum(axis=1) <= 27).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(found @ small_mannequin.template, places(), atol=1e-9)


def test_weights_are_equal_where_that_is_enough():
    square = np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0.0]])
    np.testing.assert_allclose(even_weights(square), 0.25)
    # Moved along x by a half: 1/4 + x/4 each side keeps the mean, worked out by hand.
    np.testing.assert_allclose(even_weights(square - [0.5, 0, 0]), [0.5, 0.25, 0, 0.25], atol=1e-12)


def test_a_joint_outside_is_refused():
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
    np.testing.assert_allclose(
        regressor(corners, np.array([[0.5, 0.5, 0.5]])), np.full((1, 8), 1 / 8)
    )
    with pytest.raises(ValueError, match=r"\[1\.5, 0\.5, 0\.5\] is not within the mesh"):
        regressor(corners, np.array([[1.5, 0.5, 0.5]]))

import numpy as np
import pytest
from mannequin.anatomy import smpl_places
from mannequin.shapes import SHAPES, shape_directions

from projects.metro.body.skeleton import SMPL_JOINTS, SMPL_MIRROR

pytestmark = pytest.mark.slow

NAMES = [shape.__name__ for shape in SHAPES]


def shaped(body, **betas):
    values = np.zeros(10)
    for name, value in betas.items():
        values[NAMES.index(name)] = value
    return body.template + body.shape_directions @ values


def test_there_are_ten_and_all_do_something_small(small_mannequin):
    lengths = np.linalg.norm(small_mannequin.shape_directions, axis=1).max(axis=0)
    assert lengths.shape == (10,)
    assert (lengths > 0.004).all() and (lengths < 0.03).all()


@pytest.mark.parametrize("beta", [-2.5, 2.5])
def test_people_stay_people(small_mannequin, beta):
    tall = np.ptp(shaped(small_mannequin, height=beta, leg_length=beta)[:, 1])
    assert 1.5 < tall < 1.95
    assert (tall > 1.72) == (beta > 0)
    joints = small_mannequin.joint_regressor @ shaped(small_mannequin, arm_length=beta)
    wrist, shoulder = (joints[SMPL_JOINTS.index(name), 0] for name in ("L_Wrist", "L_Shoulder"))
    np.testing.assert_allclose(wrist - shoulder, 0.505 + 0.018 * beta, atol=0.004)


def test_both_sides_are_alike(small_mannequin):
    points, weights = small_mannequin.template, small_mannequin.skin_weights
    flip = np.array([-1, 1, 1])
    left = shape_directions(points, smpl_places(), weights)
    right = shape_directions(points * flip, smpl_places(), weights[:, SMPL_MIRROR])
    np.testing.assert_allclose(right, left * flip[:, None], atol=1e-12)


def test_girth_adds_to_waist_and_limbs_but_not_to_height(small_mannequin):
    thin, stout = (shaped(small_mannequin, girth=beta) for beta in (-2, 2))
    waist = np.abs(small_mannequin.template[:, 1] + 0.1) < 0.04
    waist &= np.abs(small_mannequin.template[:, 0]) < 0.2
    assert np.ptp(stout[waist, 0]) > 1.15 * np.ptp(thin[waist, 0])
    assert abs(np.ptp(stout[:, 1]) - np.ptp(thin[:, 1])) < 0.03

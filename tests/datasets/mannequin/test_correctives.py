import numpy as np
import pytest
from mannequin.anatomy import smpl_places
from mannequin.correctives import pose_directions

from projects.metro.body.skeleton import SMPL_JOINTS, SMPL_MIRROR

pytestmark = pytest.mark.slow

ELBOW, SHOULDER = SMPL_JOINTS.index("L_Elbow"), SMPL_JOINTS.index("L_Shoulder")


def about_y(angle):
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])


def moved(directions, joint, rotation):
    """Displacements (V, 3) for one joint's rotation."""
    entries = np.zeros((23, 9))
    entries[joint - 1] = (rotation - np.eye(3)).ravel()
    return directions @ entries.ravel()


def ring():
    """Points around the left elbow, at 4 cm, half of each with the two bones."""
    elbow = smpl_places()[ELBOW]
    points = elbow + 0.04 * np.array([[0, 0, 1], [0, 0, -1], [0, 1, 0], [0, -1, 0.0]])
    weights = np.zeros((4, 24))
    weights[:, [SHOULDER, ELBOW]] = 0.5
    return points, weights


def test_a_bent_elbow_grows_most_on_its_outer_side():
    points, weights = ring()
    directions = pose_directions(points, smpl_places(), weights)
    bent = moved(directions, ELBOW, about_y(-np.pi / 2))  # the left hand comes to the front
    outwards = ((points - smpl_places()[ELBOW]) / 0.04 * bent).sum(axis=1)
    front, back, up, down = outwards
    assert back > 0.008 > 0.004 > max(up, down) > 0.001
    assert back > 2 * front
    np.testing.assert_allclose(moved(directions, ELBOW, np.eye(3)), 0)
    half = moved(directions, ELBOW, about_y(-np.pi / 4))
    assert (np.linalg.norm(half, axis=1) < np.linalg.norm(bent, axis=1)).all()


def test_left_and_right_mirror_each_other():
    points, weights = ring()
    flip = np.array([-1, 1, 1])
    left = pose_directions(points, smpl_places(), weights)
    right = pose_directions(points * flip, smpl_places(), weights[:, SMPL_MIRROR])
    mirrored = flip[:, None] * about_y(-1.2) * flip
    expected = moved(left, ELBOW, about_y(-1.2)) * flip
    np.testing.assert_allclose(moved(right, SMPL_MIRROR[ELBOW], mirrored), expected, atol=1e-12)
    assert np.abs(expected).max() > 0.002


def test_they_are_small_and_every_joint_has_some(small_mannequin):
    directions = small_mannequin.pose_directions
    assert np.abs(directions).max() < 0.03
    assert (np.abs(directions).reshape(-1, 23, 9).max(axis=(0, 2)) > 1e-5).all()

import numpy as np
import pytest
from mannequin.anatomy import smpl_places
from mannequin.skinning import bones, few, laplacian, nearest_on_bones

from projects.metro.body.skeleton import SMPL_JOINTS

pytestmark = pytest.mark.slow


def test_every_joint_moves_a_bone_and_sides_mirror_each_other():
    owners, start, end = bones(smpl_places())
    assert set(owners) == set(range(24))
    stretches = {tuple(np.round(np.r_[s, e], 9)) for s, e in zip(start, end, strict=True)}
    mirrored = {(-a, b, c, -d, e, f) for a, b, c, d, e, f in stretches}
    assert {tuple(x + 0.0 for x in m) for m in mirrored} == stretches


def test_the_nearest_point_of_a_bone_is_on_it_or_at_its_end():
    points = np.array([[0.5, 1, 0], [-3, 4, 0]])
    found = nearest_on_bones(points, np.zeros((1, 3)), np.array([[1.0, 0, 0]]))
    np.testing.assert_allclose(found[:, 0], [[0.5, 0, 0], [0, 0, 0]])


def test_at_most_four_weights_stay():
    found = few(np.array([[0.3, 0.25, 0.2, 0.1, 0.1, 0.05], [1, 0, 0, 0, 0, 0]]))
    np.testing.assert_allclose(
        found, [[0.2 / 0.45, 0.15 / 0.45, 0.1 / 0.45, 0, 0, 0], [1] + 5 * [0]]
    )


def test_the_laplacian_of_a_linear_function_is_0_in_the_plane():
    points = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.4, 0.5, 0]])
    faces = np.array([[4, 0, 1], [4, 1, 2], [4, 2, 3], [4, 3, 0]])
    stiffness, areas = laplacian(points, faces)
    np.testing.assert_allclose((stiffness @ points)[4], 0, atol=1e-12)
    np.testing.assert_allclose(areas.sum(), 1)


def test_vertices_move_with_the_bone_they_are_around(small_mannequin):
    weights, points = small_mannequin.skin_weights, small_mannequin.template
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert ((weights > 0).sum(axis=1) <= 4).all()
    for place, joint in {
        (0.57, 0.21, -0.025): "L_Elbow",
        (-0.57, 0.21, -0.025): "R_Elbow",
        (0.11, -0.9, -0.01): "L_Knee",
        (-0.1, -0.5, 0): "R_Hip",
        (0, 0.5, 0): "Head",
    }.items():
        nearest = np.linalg.norm(points - place, axis=1).argmin()
        assert weights[nearest, SMPL_JOINTS.index(joint)] > 0.8
    left_leg = points[:, 0] > 0.02
    right_knee = weights[:, SMPL_JOINTS.index("R_Knee")]
    assert (right_knee[left_leg] < 0.01).all()

import cv2
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation

from projects.metro.body.skeleton import SMPL_JOINTS
from projects.metro.geometry import (
    MIRROR,
    camera_after,
    crop_map,
    in_camera,
    mirrored_pose,
    motion,
    project,
    relative_positions,
    square_around,
)

K = np.array([[500.0, 0, 320], [0, 400, 240], [0, 0, 1]])


def apply(pixel_map, pixel):
    return (pixel_map @ [*pixel, 1])[:2]


def test_a_point_seen_by_a_turned_camera():
    R = [[0, 0, -1], [0, 1, 0], [1, 0, 0]]  # looks along the world's x axis
    point = in_camera([[5, 3, 4]], R, C=[1, 2, 3])
    assert_allclose(point, [[-1, 1, 4]])  # one to the left, one down, four ahead
    assert_allclose(project(point, K), [[320 - 500 / 4, 240 + 400 / 4]])


def test_square_box_around_points():
    centre, side = square_around([[10, 20], [30, 80], [20, 40]], 1.2)
    assert centre.tolist() == [20, 50]
    assert side == pytest.approx(1.2 * 60)


def test_edges_of_the_box_are_edges_of_the_crop():
    pixel_map = crop_map([100, 60], side=50, size=10)
    assert_allclose(apply(pixel_map, [75, 35]), [-0.5, -0.5])
    assert_allclose(apply(pixel_map, [125, 85]), [9.5, 9.5])
    assert_allclose(apply(pixel_map, [100, 60]), [4.5, 4.5])


def test_a_quarter_turn_is_counter_clockwise():
    pixel_map = crop_map([100, 60], side=10, size=10, degrees=90)
    assert_allclose(apply(pixel_map, [103, 60]), [4.5, 4.5 - 3])  # from the right to the top
    assert_allclose(motion(90, mirrored=False) @ [1, 0, 5], [0, -1, 5], atol=1e-12)


def test_the_mirror_comes_after_the_turn():
    pixel_map = crop_map([100, 60], side=10, size=10, degrees=90, mirrored=True)
    assert_allclose(apply(pixel_map, [103, 60]), [4.5, 1.5])
    assert_allclose(apply(pixel_map, [100, 58]), [4.5 + 2, 4.5])  # top, turned left, mirrored right
    assert_allclose(motion(90, mirrored=True) @ [0, -1, 5], [1, 0, 5], atol=1e-12)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 30, -57.3])
def test_the_camera_follows_picture_and_points(degrees, mirrored):
    points = np.random.default_rng(0).normal(loc=(0, 0, 8), size=(9, 3))
    pixel_map = crop_map([310, 250], 180, 64, degrees, mirrored)
    move = motion(degrees, mirrored)
    expected = [apply(pixel_map, pixel) for pixel in project(points, K)]
    camera = camera_after(K, pixel_map, move)
    assert_allclose(project(points @ move.T, camera), expected, atol=1e-9)


def test_positions_reach_one_at_the_edges():
    assert_allclose(relative_positions([[-0.5, 9.5], [4.5, 0]], 10), [[-1, 1], [0, -0.9]])


def test_the_mirrored_pose_has_mirrored_rotations_on_the_other_side():
    pose = np.random.default_rng(0).normal(size=(2, 24, 3))
    mirrored = mirrored_pose(pose.reshape(2, 72)).reshape(2, 24, 3)
    for joint, name in enumerate(SMPL_JOINTS):
        other = {"L": "R", "R": "L"}.get(name[0], "") + name[1:] if name[1] == "_" else name
        source = Rotation.from_rotvec(pose[1, SMPL_JOINTS.index(other)]).as_matrix()
        found = Rotation.from_rotvec(mirrored[1, joint]).as_matrix()
        assert_allclose(found, MIRROR @ source @ MIRROR, atol=1e-12)
    assert_allclose(mirrored_pose(mirrored_pose(pose.reshape(2, 72))), pose.reshape(2, 72))


def test_the_turn_is_opencvs():
    """METRO turns pictures with OpenCV, whose angles are counter-clockwise."""
    matrix = cv2.getRotationMatrix2D((4.5, 4.5), 25, 1)
    assert_allclose(crop_map([4.5, 4.5], 10, 10, degrees=25)[:2], matrix, atol=1e-12)

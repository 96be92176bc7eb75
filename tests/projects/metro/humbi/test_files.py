import re

import numpy as np
import pytest

from dropkey_core.engine import UserError
from projects.metro.humbi.files import (
    Camera,
    body_folder,
    cameras_of,
    frames_of,
    image_file,
    read_cameras,
    read_fit,
    read_keypoints,
    read_projections,
    read_vertices,
    vertex_file,
    write_cameras,
    write_fit,
    write_vertices,
)

HEADER = "Numcam: 2\nnumframes: 1\nnumP: 2\n"
# Written by hand, with the blanks that HUMBI's reader joins.
INTRINSIC = HEADER + "0 3\n 900  0 320 \n0 800 240\n0 0 1\n" + "0 7\n1000 0 10\n0 1000 20\n0 0 1\n"
TURNED = "0 0 1\n0 1 0\n-1 0 0\n"  # the camera looks along the world's x axis
EXTRINSIC = HEADER + f"0 3\n1 2 3\n1 0 0\n0 1 0\n0 0 1\n0 7\n-4 0 0\n{TURNED}"


@pytest.fixture
def body(tmp_path):
    (tmp_path / "intrinsic.txt").write_text(INTRINSIC)
    (tmp_path / "extrinsic.txt").write_text(EXTRINSIC)
    return tmp_path


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_cameras_by_id(body):
    cameras, problems = read_cameras(body)
    assert list(cameras) == [3, 7]
    assert problems == []
    assert np.array_equal(cameras[3].K, [[900, 0, 320], [0, 800, 240], [0, 0, 1]])
    assert np.array_equal(cameras[3].C, [1, 2, 3])
    assert np.array_equal(cameras[7].R, [[0, 0, 1], [0, 1, 0], [-1, 0, 0]])


def test_projection_of_a_point_worked_out_by_hand(body):
    # From camera 3's centre two to the right, one down and four ahead.
    pixel = read_cameras(body)[0][3].projection() @ [3, 3, 7, 1]
    assert pixel.tolist() == [900 * 2 + 320 * 4, 800 * 1 + 240 * 4, 4]


def test_cameras_are_read_back_to_the_last_bit(tmp_path):
    generator = np.random.default_rng(0)
    R, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    R *= np.sign(np.linalg.det(R))
    K = np.array([[900.1, 0.3, 320 / 7], [0, 801.2, 240 / 7], [0, 0, 1]])
    cameras = {5: Camera(K, R, generator.normal(size=3))}
    write_cameras(tmp_path / "new", cameras, num_frames=4)
    found, _ = read_cameras(tmp_path / "new")
    assert list(found) == [5]
    for name in "KRC":
        assert np.array_equal(getattr(found[5], name), getattr(cameras[5], name))
    projections = read_projections(tmp_path / "new" / "project.txt")
    assert np.array_equal(projections[5], cameras[5].projection())
    assert (tmp_path / "new" / "intrinsic.txt").read_text().startswith("Numcam: 1\nnumframes: 4\n")


def test_a_camera_of_zeros_is_one_that_is_not_there(body):
    edit(body / "intrinsic.txt", "900  0 320 \n0 800 240\n0 0 1", "0 0 0\n0 0 0\n0 0 0")
    cameras, problems = read_cameras(body)
    assert (list(cameras), problems) == ([7], [])


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("intrinsic.txt", HEADER, "", "intrinsic.txt has 8 lines, not 3 and 4 for each"),
        ("intrinsic.txt", "0 800 240\n", "", "intrinsic.txt has 10 lines, not 3 and 4 for each"),
        ("extrinsic.txt", "0 7\n", "0 3\n", "extrinsic.txt, line 9: camera 3 is there twice"),
        ("extrinsic.txt", "0 7\n", "0 107\n", "line 9 is '0 107', but .* an id of 0 to 106"),
        ("extrinsic.txt", "0 7\n", "1 7\n", "line 9 is '1 7', but a camera begins with '0 <id>'"),
        ("intrinsic.txt", "0 800 240", "0 x 240", "line 6 is '0 x 240', not 3 numbers"),
        ("intrinsic.txt", "0 800 240", "0 800", "intrinsic.txt, line 6 is '0 800', not 3 numbers"),
    ],
)
def test_what_is_wrong_with_the_cameras_is_named(body, name, old, new, message):
    edit(body / name, old, new)
    with pytest.raises(UserError, match=message):
        read_cameras(body)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("intrinsic.txt", "0 800 240", "0 nan 240", "camera 3 has a K that is not finite"),
        ("extrinsic.txt", "1 2 3", "1 2 inf", "camera 3 has a C that is not finite"),
        ("intrinsic.txt", "0 800 240", "0 -8 240", r"camera 3 has K \[\[900.*which is not"),
        ("extrinsic.txt", "-1 0 0", "-1 0.5 0", r"camera 7 has an R that is no rotation .* 0.5"),
        ("extrinsic.txt", "-1 0 0", "1 0 0", "camera 7 has an R that is no rotation"),
        ("extrinsic.txt", "0 7\n", "0 8\n", "camera 7 is not in both intrinsic"),
    ],
)
def test_cameras_that_cannot_be_used_are_told(body, name, old, new, message):
    edit(body / name, old, new)
    cameras, problems = read_cameras(body)
    assert re.match(f"{body}: {message}", problems[0])
    assert list(cameras) == [7 if message.startswith("camera 3") else 3]  # the sound one is kept


def test_a_file_far_too_large_is_not_read(body):
    with (body / "extrinsic.txt").open("ab") as file:
        file.truncate(2**32)
    with pytest.raises(UserError, match=r"extrinsic.txt has 4,294,967,296 bytes, 16,777,216 are"):
        read_cameras(body)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}/intrinsic.txt cannot be read: No such file"):
        read_cameras(tmp_path)


def read_three(path):
    return read_vertices(path, num_vertices=3)


def test_vertices_are_read_back(tmp_path):
    vertices = np.random.default_rng(0).normal(size=(6890, 3)).astype(np.float32)
    path = vertex_file(body_folder(tmp_path / "Body_1_8", 5), 12)
    assert path == tmp_path / "Body_1_8/subject_5/body/00000012/reconstruction/smpl_vertex.txt"
    write_vertices(path, vertices)
    assert np.array_equal(read_vertices(path).astype(np.float32), vertices)


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_vertices, "1 2 3\n4 5 6\n", "has 2 rows, not 6890"),
        (read_three, "1 2 3\n4 5 6\n7 8 nan\n", r"line 3 is \[7\.0, 8\.0, nan\], which is not fin"),
        (read_three, "1 2 3\n4 -inf 6\n7 8 9\n", r"line 2 is \[4\.0, -inf, 6\.0\], which is not"),
        (read_three, "1 2 3\n4 5\n7 8 9\n", "line 2 is '4 5', not 3 numbers"),
        (read_three, "1 2 3\n\n7 8 9\n", "line 2 is '', not 3 numbers"),
        (read_three, "1 2\n4 5\n7 8\n", "line 1 is '1 2', not 3 numbers"),
        (read_three, "1 2 3\n4 5 six\n7 8 9\n", "line 2 is '4 5 six', not 3 numbers"),
        (read_three, "1 2 3\n4 5 # 6\n7 8 9\n", "line 2 is '4 5 # 6', not 3 numbers"),
        (read_three, "", "has 0 rows"),
        (read_fit, "1\n" * 85, "has 85 rows, not 86"),
        (read_fit, "1\n" * 85 + "nan", r"line 86 is \[nan\], which is not finite"),
        (read_fit, "0\n" + "1\n" * 85, "line 1: the scale is 0, it must be above 0"),
        (read_fit, "1 1\n" * 86, "line 1 is '1 1', not 1 numbers"),
        (read_keypoints, "1 2 3\n" * 24, "has 24 rows"),
        (read_keypoints, "1 2\n" + "1 2 3\n" * 24, "line 1 is '1 2', not 3 numbers"),
    ],
)
def test_what_is_wrong_with_numbers_is_named(tmp_path, read, text, message):
    path = tmp_path / "numbers.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=f"^{path}.*{message}"):
        read(path)


def test_fit_has_scale_translation_pose_and_shape(tmp_path):
    path = tmp_path / "smpl_parameter.txt"
    path.write_text("".join(f"{value / 3!r}\n" for value in range(1, 87)))
    fit = read_fit(path)
    assert fit.scale == 1 / 3
    assert np.array_equal(fit.translation, np.arange(2, 5) / 3)
    assert np.array_equal(fit.pose, np.arange(5, 77) / 3)
    assert np.array_equal(fit.betas, np.arange(77, 87) / 3)
    write_fit(tmp_path / "again.txt", fit)
    assert (tmp_path / "again.txt").read_text() == path.read_text()


def test_keypoints_may_be_missing_and_have_more_columns(tmp_path):
    path = tmp_path / "keypoints.txt"
    path.write_text("  1 2   3 0.9\n" + "nan nan nan 0\n" + "4 5 6\n" * 23)
    keypoints = read_keypoints(path)
    assert keypoints.shape == (25, 3)
    assert keypoints[0].tolist() == [1, 2, 3]
    assert np.isnan(keypoints[1]).all()
    write_vertices(tmp_path / "again.txt", keypoints)
    assert np.array_equal(read_keypoints(tmp_path / "again.txt"), keypoints, equal_nan=True)


def test_frames_and_pictures_that_are_there(tmp_path):
    for frame, camera in [(1, 0), (1, 12), (31, 7)]:
        image_file(tmp_path, frame, camera).parent.mkdir(parents=True, exist_ok=True)
        image_file(tmp_path, frame, camera).touch()
    (tmp_path / "00000001" / "image" / "image0000003.jpg.part").touch()
    (tmp_path / "0000002").mkdir()
    assert frames_of(tmp_path) == [1, 31]
    assert cameras_of(tmp_path, 1) == [0, 12]
    assert cameras_of(tmp_path, 2) == []
    assert image_file(tmp_path, 31, 7) == tmp_path / "00000031/image/image0000007.jpg"

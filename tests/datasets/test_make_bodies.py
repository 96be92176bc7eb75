import json

import cv2
import numpy as np
import pytest
import torch

from dropkey_core.engine import UserError
from projects.metro import MetroMapper, load_humbi
from projects.metro.body.model import BodyModel, read_body
from projects.metro.geometry import in_camera, project
from projects.metro.humbi.files import (
    frames_of,
    read_cameras,
    read_fit,
    read_keypoints,
    read_vertices,
)
from tests.datasets.test_generated_set import digest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def make_bodies(load_script):
    return load_script("datasets/make_bodies")


@pytest.fixture(scope="module")
def body(small_mannequin):
    return small_mannequin


@pytest.fixture(scope="module")
def settings(make_bodies):
    return make_bodies.PeopleSettings(
        num_train=2, num_val=1, num_frames=3, num_cameras=2, image_size=64, seed=5
    )


@pytest.fixture(scope="module")
def bodies(make_bodies, body, settings, tmp_path_factory):
    output = tmp_path_factory.mktemp("bodies")
    assert make_bodies.make_bodies(output, settings, body)
    return output


def sessions(folder):
    return sorted(folder.glob("Body_1_3/subject_*/body"))


def test_every_view_is_in_the_index_and_nothing_was_left_out(bodies):
    assert (bodies / "left_out.txt").read_text() == ""
    train = load_humbi(bodies / "index.npz", bodies / "train_subjects.txt")
    test = load_humbi(bodies / "index.npz", bodies / "test_subjects.txt")
    assert [record["subject"] for record in train] == [1] * 6 + [2] * 6
    assert [record["subject"] for record in test] == [3] * 6
    assert [(record["frame"], record["camera"]) for record in test[:4]] == [
        (1, 0), (1, 7), (2, 0), (2, 7)
    ]  # fmt: skip
    for record in test:
        assert cv2.imread(record["file_name"]).shape == (64, 85, 3)


def test_parameters_give_the_vertices_and_feet_are_on_the_floor(bodies, body):
    model = BodyModel(read_body(bodies / "body.npz"))
    for session in sessions(bodies):
        for frame in frames_of(session):
            folder = session / f"{frame:08d}" / "reconstruction"
            vertices = read_vertices(folder / "smpl_vertex.txt", len(body.template))
            fit = read_fit(folder / "smpl_parameter.txt")
            posed = model(float32(fit.pose), float32(fit.betas))[0].numpy()
            np.testing.assert_allclose(
                fit.scale * posed + fit.translation, vertices, rtol=0, atol=1e-5
            )
            assert vertices[:, 1].max() == pytest.approx(0, abs=1e-6)
            assert vertices[:, 1].min() < -1.2  # the head: y points down


def float32(values):
    return torch.tensor(values, dtype=torch.float32)[None]


def test_people_are_where_their_parameters_say(bodies):
    """A person's colours are vivid, the background's are dull: where the mesh is, they are seen."""
    mapper = MetroMapper(bodies / "body.npz", training=False, image_size=64)
    for record in load_humbi(bodies / "index.npz", bodies / "train_subjects.txt"):
        sample = mapper(record)
        pixels = project((sample["vertices"] + sample["pelvis"]).numpy(), sample["K"].numpy())
        assert pixels.min() > 0 and pixels.max() < 63
        image = sample["image"].permute(1, 2, 0).numpy().astype(int)
        vividness = image.max(axis=2) - image.min(axis=2)
        on_person = np.zeros((64, 64), bool)
        on_person[tuple(np.rint(pixels).astype(int).T[::-1])] = True
        far = cv2.dilate(on_person.astype(np.uint8), np.ones((9, 9))) == 0
        assert np.median(vividness[on_person]) > np.median(vividness[far]) + 15


def test_keypoints_are_the_bodys(bodies, body):
    """BODY_25: the neck is above the middle of the hips, the left wrist on the left arm."""
    session = sessions(bodies)[0]
    folder = session / "00000001" / "reconstruction"
    keypoints = read_keypoints(folder / "keypoints.txt")
    vertices = read_vertices(folder / "smpl_vertex.txt", len(body.template))
    joints = body.h36m_joints(vertices)  # 11 to 13 left arm, 14 to 16 right arm, 6 left ankle
    nearest = np.linalg.norm(keypoints[:, None] - joints, axis=2)
    assert nearest[7].argmin() == 13 and nearest[4].argmin() == 16
    assert nearest[14].argmin() == 6 and nearest[11].argmin() == 3
    assert keypoints[1, 1] < keypoints[8, 1] - 0.3  # y points down


def test_cameras_look_at_the_people(bodies, body):
    for session in sessions(bodies):
        vertices = read_vertices(
            session / "00000001" / "reconstruction" / "smpl_vertex.txt", len(body.template)
        )
        cameras, _ = read_cameras(session)
        assert list(cameras) == [0, 7]
        for camera in cameras.values():
            seen = in_camera(vertices, camera.R, camera.C)
            assert seen[:, 2].min() > 2
            head, foot = seen[vertices[:, 1].argmin()], seen[vertices[:, 1].argmax()]
            assert head[1] < foot[1]  # upright


def test_clothes_tell_left_from_right(make_bodies, body):
    colours = make_bodies.draw_clothes(np.random.default_rng(0), body)
    assert colours.min() >= 0 and colours.max() <= 255
    part = body.skin_weights.argmax(axis=1)
    left, right = colours[part == 16][0], colours[part == 17][0]
    assert (colours[part == 16] == left).all() and (colours[part == 17] == right).all()
    assert np.abs(left - right).max() > 50


def test_the_same_settings_give_the_same_files_and_others_do_not(
    make_bodies, body, settings, bodies, tmp_path
):
    assert make_bodies.make_bodies(tmp_path / "again", settings, body)
    assert digest(tmp_path / "again") == digest(bodies)
    other = make_bodies.PeopleSettings(**{**vars(settings), "seed": 6})
    assert make_bodies.make_bodies(tmp_path / "other", other, body)
    same = digest(tmp_path / "other").items() & digest(bodies).items()
    assert {name for name, _ in same} == {
        "left_out.txt", "train_subjects.txt", "test_subjects.txt"
    }  # fmt: skip


def test_a_set_that_is_there_is_left_alone(make_bodies, bodies, settings, capsys):
    before = digest(bodies)
    assert not make_bodies.make_bodies(bodies, settings)
    assert make_bodies.main(["--output", str(bodies)]) == 2
    assert f"error: {bodies} holds another set" in capsys.readouterr().err
    assert digest(bodies) == before


def test_an_unfinished_set_is_finished(make_bodies, body, settings, bodies, tmp_path):
    assert make_bodies.make_bodies(tmp_path, settings, body)
    (tmp_path / "index.npz").unlink()
    next(tmp_path.rglob("*.jpg")).unlink()
    other = make_bodies.PeopleSettings(**{**vars(settings), "seed": 6})
    with pytest.raises(UserError, match="holds another set"):
        make_bodies.make_bodies(tmp_path, other, body)
    assert make_bodies.make_bodies(tmp_path, settings, body)
    assert digest(tmp_path) == digest(bodies)
    assert json.loads((tmp_path / "made.json").read_text())["settings"]["seed"] == 5

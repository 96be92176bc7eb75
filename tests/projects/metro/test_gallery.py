import copy

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from dropkey_core.engine import UserError
from projects.metro.gallery import (
    choose_images,
    compared,
    judge,
    load_recoverer,
    mesh_row,
    name_of,
    plain_sample,
)
from projects.metro.pictures.rows import PREDICTED, SIDE, TRUE
from projects.metro.pictures.view import View
from tests.projects.metro.conftest import SMALL

SIZE = SMALL["image_size"]


@pytest.fixture
def config(toy_body_file):
    model = {"_target_": "projects.metro.build_model", "body": str(toy_body_file), **SMALL}
    model["pretrained_backbone"] = True  # which nobody needs who brings weights
    return OmegaConf.create({"model": model, "train": {"device": "cpu"}})


@pytest.fixture
def weights(small_metro, tmp_path):
    path = tmp_path / "metro.pth"
    torch.save({"model": small_metro().state_dict()}, path)
    return str(path)


def true_sample(body):
    """An image of the template, 5 m away, and what is known of it."""
    vertices = torch.tensor(body.template_pose())
    vertices -= body.h36m_joints(vertices)[0]
    joints = torch.cat([body.joints(vertices), torch.ones(14, 1)], dim=1)
    return {
        "image": torch.full((3, SIZE, SIZE), 90, dtype=torch.uint8),
        "subject": 3,
        "frame": 1,
        "camera": 7,
        "file_name": "x/image0000007.jpg",
        "vertices": vertices.float(),
        "joints_3d": joints.float(),
        "has_mesh": True,
        "has_joints_3d": True,
        "pelvis": torch.tensor([0.1, 0.2, 5.0]),
        "K": torch.tensor([[100.0, 0, 30], [0, 100, 30], [0, 0, 1]]),
    }


def found(body, vertices, camera=(0.8, 0.1, 0.2)):
    vertices = vertices.float()
    joints = body.joints(vertices)
    return {"vertices": vertices, "joints_3d": joints, "camera": torch.tensor(camera)}


# ---- models --------------------------------------------------------------------------------------
def test_weights_are_loaded_and_the_model_evaluates(config, weights, small_metro, capsys):
    recoverer = load_recoverer(config, weights)
    assert not recoverer.model.training
    torch.testing.assert_close(recoverer.model.state_dict(), small_metro().state_dict())
    assert weights in capsys.readouterr().out
    assert len(recoverer.body.template) == 60


def test_the_callers_config_stays_as_it_was(config, weights):
    before = copy.deepcopy(config)
    load_recoverer(config, weights)
    assert config == before


def test_weights_of_another_body_are_refused(config, weights, toy_body_file):
    state = torch.load(weights, weights_only=True)
    state["model"]["upsampling.steps.1.weight"] = torch.zeros(6890, 20)
    torch.save(state, weights)
    with pytest.raises(UserError, match=r"for a body of 6890 vertices, but .*toy\.npz has 60"):
        load_recoverer(config, weights)


def test_other_checkpoints_are_refused(config, tmp_path):
    torch.save({"model": {"class_embed.weight": torch.zeros(1)}}, tmp_path / "detr.pth")
    with pytest.raises(UserError, match=r"detr\.pth is no checkpoint of METRO: it has no upsamp"):
        load_recoverer(config, str(tmp_path / "detr.pth"))


def test_config_without_body_is_refused(config, weights):
    del config.model["body"]
    with pytest.raises(UserError, match=r"the config has no model\.body"):
        load_recoverer(config, weights)


# ---- images --------------------------------------------------------------------------------------
@pytest.fixture
def picture(tmp_path):
    """80 x 40 pixels, red at the left, blue at the right."""
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, :40, 2], image[:, 40:, 0] = 200, 200
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), image)
    return path


def test_whole_image_lies_in_the_middle_of_the_crop(picture):
    crop = plain_sample(picture, None, 16)["image"]
    assert crop.shape == (3, 16, 16)
    assert (crop[:, :3] == 0).all() and (crop[:, 13:] == 0).all()  # above and below
    assert (crop[0, 5:11, :7] == 200).all() and (crop[2, 5:11, 9:] == 200).all()


def test_box_is_what_is_cut_out(picture):
    crop = plain_sample(picture, (32, 8, 16), 16)["image"]
    assert (crop[0, :, :8] == 200).all() and (crop[2, :, :8] == 0).all()
    assert (crop[2, :, 8:] == 200).all() and (crop[0, :, 8:] == 0).all()


def test_box_may_reach_over_the_edge_but_not_lie_outside(picture):
    assert (plain_sample(picture, (-8, 0, 16), 16)["image"][:, :, :8] == 0).all()
    for box in ((80, 0, 10), (0, 40, 10), (-10, 0, 10), (0, -10, 10)):
        with pytest.raises(UserError, match=r"--box .* is outside of .*, which has 80 x 40 pix"):
            plain_sample(picture, box, 16)


def test_images_are_chosen_evenly_and_have_names_of_their_own(config, weights, picture):
    recoverer = load_recoverer(config, weights)
    other = picture.parent / "more"
    other.mkdir()
    (other / "picture.jpg").write_bytes(picture.read_bytes())
    chosen = choose_images(recoverer, [str(picture), str(other)], None, 16)
    assert chosen.heading == "2 of 2 images"
    assert [stem for stem, _ in chosen] == ["picture", "picture_2"]
    assert [sample["image"].shape for _, sample in chosen] == [(3, SIZE, SIZE)] * 2


def test_views_of_a_set_are_named_by_their_place_in_it():
    record = {"subject": 3, "frame": 12, "camera": 7, "file_name": "x/image0000007.jpg"}
    assert name_of(record) == "subject 3, frame 12, camera 7"
    assert name_of({"file_name": "x/a.jpg"}) == "a.jpg"


# ---- meshes --------------------------------------------------------------------------------------
def test_error_is_that_of_the_joints_seen_from_the_hips(toy_body):
    sample = true_sample(toy_body)
    moved = judge(toy_body, sample, found(toy_body, sample["vertices"] + 3))
    assert moved.title == "subject 3, frame 1, camera 7 · MPJPE 0.0 mm"
    larger = found(toy_body, 1.1 * sample["vertices"])
    joints = sample["joints_3d"][:, :3]
    away = joints - (joints[2] + joints[3]) / 2
    expected = 100 * away.norm(dim=1).mean().item()  # a tenth of it, in mm
    assert judge(toy_body, sample, larger).title.endswith(f"MPJPE {expected:.1f} mm")


def test_both_meshes_are_seen_by_their_cameras(toy_body):
    sample = true_sample(toy_body)
    recovered = judge(toy_body, sample, found(toy_body, sample["vertices"] + 3))
    shown = recovered.true_view.shown(recovered.true_view.points)
    expected = sample["vertices"].numpy() + np.array([0.1, 0.2, 5])
    np.testing.assert_allclose(shown, 100 * expected[:, :2] / expected[:, 2:] + 30, rtol=1e-5)
    np.testing.assert_allclose(recovered.vertices, sample["vertices"], atol=1e-5)
    depth = 2 * 1000 / 224 / 0.8
    np.testing.assert_allclose(
        recovered.view.points, sample["vertices"] + 3 + torch.tensor([0.1, 0.2, depth]), rtol=1e-5
    )


def test_camera_that_sees_nothing_is_told(toy_body):
    sample = true_sample(toy_body)
    recovered = judge(toy_body, sample, found(toy_body, sample["vertices"], (-0.25, 0, 0)))
    assert recovered.view is None
    assert "· not in view: the camera's scale is -0.25 ·" in recovered.title
    assert len(mesh_row(recovered, toy_body.faces).pictures) == 5


def test_mesh_that_is_not_finite_is_told(toy_body):
    sample = true_sample(toy_body)
    outputs = found(toy_body, sample["vertices"] * torch.nan)
    with pytest.raises(UserError, match="mesh of subject 3, frame 1, camera 7 is not finite"):
        judge(toy_body, sample, outputs)


def test_row_shows_both_meshes_in_their_colours_around_the_image(toy_body):
    sample = true_sample(toy_body)
    row = mesh_row(judge(toy_body, sample, found(toy_body, sample["vertices"])), toy_body.faces)
    assert row.captions == [
        "recovered mesh",
        "recovered mesh from the side",
        "image",
        "true mesh",
        "true mesh from the side",
    ]
    assert (row.pictures[2] == 90).all()
    colours = (PREDICTED, PREDICTED, None, TRUE, TRUE)
    for picture, colour in zip(row.pictures, colours, strict=True):
        on_mesh = picture[picture.std(axis=2) > 20]
        if colour is None:
            assert len(on_mesh) == 0
        else:
            red, _, blue = on_mesh.mean(axis=0)
            assert (red > blue) == (colour[0] > colour[2])


def test_images_without_truth_have_three_pictures(toy_body):
    sample = {**true_sample(toy_body), "has_mesh": False}
    row = mesh_row(judge(toy_body, sample, found(toy_body, sample["vertices"])), toy_body.faces)
    assert row.captions == ["recovered mesh", "recovered mesh from the side", "image"]
    assert row.title == "subject 3, frame 1, camera 7"
    assert all(picture.shape == (SIDE, SIDE, 3) for picture in row.pictures)


def test_colours_of_errors_go_from_violet_to_yellow(toy_body):
    true = toy_body.template
    vertices = true + np.linspace(0, 0.3, 60)[:, None] * [1, 0, 0]
    recovered, _ = compared(vertices, true, toy_body.faces)
    assert recovered.colours[0].tolist() == [68, 1, 84]
    beyond = recovered.colours[np.linspace(0, 0.3, 60) > 0.2]
    assert (beyond == [253, 231, 37]).all()


def test_view_is_of_the_crop_as_the_model_saw_it(toy_body):
    view = judge(toy_body, true_sample(toy_body), found(toy_body, torch.zeros(60, 3))).view
    assert isinstance(view, View)
    np.testing.assert_allclose(view.K[:2, 2], (SIZE - 1) / 2)

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from dropkey_core.engine import UserError
from projects.metro.predictor import BodyEstimator, cropped
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


# ---- models --------------------------------------------------------------------------------------
def test_weights_are_loaded_and_the_model_evaluates(config, weights, small_metro, capsys):
    estimator = BodyEstimator.load(config, weights)
    assert not estimator.model.training
    torch.testing.assert_close(estimator.model.state_dict(), small_metro().state_dict())
    assert weights in capsys.readouterr().out
    assert len(estimator.body.template) == 60


def test_weights_of_another_body_are_refused(config, weights, toy_body_file):
    state = torch.load(weights, weights_only=True)
    state["model"]["upsampling.steps.1.weight"] = torch.zeros(6890, 20)
    torch.save(state, weights)
    with pytest.raises(UserError, match=r"for a body of 6890 vertices, but .*toy\.npz has 60"):
        BodyEstimator.load(config, weights)


def test_config_without_body_is_refused(config, weights):
    del config.model["body"]
    with pytest.raises(UserError, match=r"the config has no model\.body"):
        BodyEstimator.load(config, weights)


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
    crop = cropped(picture, None, 16)["image"]
    assert crop.shape == (3, 16, 16)
    assert (crop[:, :3] == 0).all() and (crop[:, 13:] == 0).all()  # above and below
    assert (crop[0, 5:11, :7] == 200).all() and (crop[2, 5:11, 9:] == 200).all()


def test_box_is_what_is_cut_out(picture):
    crop = cropped(picture, (32, 8, 16), 16)["image"]
    assert (crop[0, :, :8] == 200).all() and (crop[2, :, :8] == 0).all()
    assert (crop[2, :, 8:] == 200).all() and (crop[0, :, 8:] == 0).all()


def test_box_may_reach_over_the_edge_but_not_lie_outside(picture):
    assert (cropped(picture, (-8, 0, 16), 16)["image"][:, :, :8] == 0).all()
    for box in ((80, 0, 10), (0, 40, 10), (-10, 0, 10), (0, -10, 10)):
        with pytest.raises(UserError, match=r"--box .* is outside of .*, which has 80 x 40 pix"):
            cropped(picture, box, 16)


def test_mesh_of_a_file_is_that_of_its_crop(config, weights, picture):
    estimator = BodyEstimator.load(config, weights)
    found = estimator.predict(str(picture), (32, 8, 16))
    sample = estimator.sample({"file_name": str(picture)}, (32, 8, 16))
    assert sample["image"].shape == (3, SIZE, SIZE) and not sample["has_mesh"]
    assert (sample["image"] == cropped(picture, (32, 8, 16), SIZE)["image"]).all()
    with torch.no_grad():
        torch.testing.assert_close(found, estimator.model([sample])[0])
    assert found["vertices"].shape == (60, 3)

import dataclasses
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from dropkey_core.engine import UserError
from dropkey_core.engine.files.inputs import Input, read_input
from dropkey_core.engine.predictor import Predictor
from projects.metro.predictor import BodyEstimator, cropped, whole
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


@pytest.fixture
def estimator(config, weights):
    return BodyEstimator.from_pretrained(weights, config=config, detector=None)


# ---- models --------------------------------------------------------------------------------------
def test_weights_are_loaded_and_the_model_evaluates(config, weights, small_metro, capsys):
    estimator = BodyEstimator.from_pretrained(weights, config=config)
    assert not estimator.model.training
    torch.testing.assert_close(estimator.model.state_dict(), small_metro().state_dict())
    assert weights in capsys.readouterr().out
    assert len(estimator.body.template) == 60


def test_weights_of_another_body_are_refused(config, weights, toy_body_file):
    state = torch.load(weights, weights_only=True)
    state["model"]["upsampling.steps.1.weight"] = torch.zeros(6890, 20)
    torch.save(state, weights)
    with pytest.raises(UserError, match=r"for a body of 6890 vertices, but .*toy\.npz has 60"):
        BodyEstimator.from_pretrained(weights, config=config)


def test_config_without_body_is_refused(config, weights):
    del config.model["body"]
    with pytest.raises(UserError, match=r"the config has no model\.body"):
        BodyEstimator.from_pretrained(weights, config=config)


# ---- images --------------------------------------------------------------------------------------
@pytest.fixture
def picture(tmp_path):
    """80 x 40 pixels, red at the left, blue at the right."""
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, :40, 2], image[:, 40:, 0] = 200, 200
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), image)
    return read_input(path)


def test_whole_image_lies_in_the_middle_of_the_crop(picture):
    crop = cropped(picture, whole(picture), 16)["image"]
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
        with pytest.raises(UserError, match=r"the square .* is outside of .*, which has 80 x 40 p"):
            cropped(picture, box, 16)


# ---- people --------------------------------------------------------------------------------------
def test_mesh_of_a_picture_is_that_of_its_crop(estimator, picture):
    found = estimator(picture, squares=[(32, 8, 16)])
    with torch.no_grad():
        (expected,) = estimator.model([cropped(picture, (32, 8, 16), SIZE)])
    torch.testing.assert_close(found.vertices[0], expected["vertices"])
    torch.testing.assert_close(found.joints_3d[0], expected["joints_3d"])
    torch.testing.assert_close(found.cameras[0], expected["camera"])
    assert found.squares.tolist() == [[32, 8, 16]] and found.vertices.shape == (1, 60, 3)
    sample = estimator.sample(vars(picture))
    assert (sample["image"] == cropped(picture, (0, -20, 80), SIZE)["image"]).all()
    assert not sample["has_mesh"]
    plain = found.to_dict()
    assert len(plain["vertices"][0]) == 60 and "faces" not in plain


class PersonDetector(Predictor):
    """Finds two persons and a dog on pictures that are not black, and nothing on others."""

    names = ("person", "dog")
    score_threshold = 0.5

    @classmethod
    def from_trained(cls, trained):
        return cls()

    def predict(self, inputs, score_threshold=0.5):
        boxes = torch.tensor([[0.0, 0, 30, 40], [50, 0, 100, 40], [10, 10, 20, 20]])
        found = [(["person", "person", "dog"], boxes), ([], boxes[:0])]
        if score_threshold > 0.7:  # the second is less sure
            found[0] = (["person", "dog"], boxes[::2])
        return [
            SimpleNamespace(image=each.image, names=names, boxes_xyxy=corners)
            for each in inputs
            for names, corners in [found[int(not each.image.any())]]
        ]


@pytest.fixture
def crowd(estimator):
    """An estimator that sees two people, one nearer and lower than the other."""
    torch.nn.init.zeros_(estimator.model.camera_head.output.weight)
    bias = estimator.model.camera_head.output.bias
    bias.data = torch.tensor([0.5, 0.0, 0.1])
    return dataclasses.replace(estimator, detector=PersonDetector())


def test_two_people_give_two_meshes(crowd, picture):
    black = torch.zeros_like(picture.image)
    two, none, again = crowd([picture, black, picture.image], batch_size=3)
    # A fifth wider than the longer side of the box, which ends where the picture does.
    assert two.squares.tolist() == pytest.approx(np.array([[-9, -4, 48], [41, -4, 48]]))
    assert two.vertices.shape == (2, 60, 3)
    assert none.vertices.shape == (0, 60, 3) and none.joints_3d.shape == (0, 14, 3)
    torch.testing.assert_close(again.vertices, two.vertices)
    alone = crowd(picture, squares=[(41, -4, 48)])
    torch.testing.assert_close(two.vertices[1:], alone.vertices, rtol=1e-4, atol=1e-5)


def test_an_official_detr_finds_people_unless_told_otherwise(config, weights, picture, monkeypatch):
    asked = []
    monkeypatch.setattr("projects.predictors.load_predictor", asked.append)
    estimator = BodyEstimator.from_pretrained(weights, config=config)
    assert asked == []  # nothing is fetched before it is needed
    monkeypatch.setattr(
        "projects.predictors.load_predictor",
        lambda *a, **k: asked.append((a, k)) or PersonDetector(),
    )
    assert [len(estimator(picture)), len(estimator(picture))] == [2, 2]
    assert asked == [(("detr-r50",), {"device": "cpu"})]  # the estimator's own
    alone = BodyEstimator.from_pretrained(weights, config=config, detector="none")
    assert alone(picture).squares.tolist() == [[0, -20, 80]]

    def fails(name, device):
        raise UserError("out of reach")

    monkeypatch.setattr("projects.predictors.load_predictor", fails)
    with pytest.raises(UserError, match=r"out of reach; .*--detector none"):
        BodyEstimator.from_pretrained(weights, config=config)(picture)


def test_the_least_score_is_the_detectors(crowd, estimator, picture):
    assert (crowd.score_threshold, estimator.score_threshold) == (0.5, None)
    assert len(crowd(picture, score_threshold=0.8)) == 1
    for other, more in ((estimator, {}), (crowd, {"squares": [(0, 0, 9)]})):
        with pytest.raises(UserError, match=r"score_threshold is for .* none is used"):
            other(picture, score_threshold=0.8, **more)


def test_people_that_no_camera_sees_are_told(crowd, picture, capsys):
    crowd.model.camera_head.output.bias.data[0] = -1
    found = crowd(picture)
    capsys.readouterr()
    for _ in range(2):  # told once
        found.draw()
    told = f"2 of 2 people on {picture.file_name} are not drawn: their cameras see nothing"
    assert capsys.readouterr().out == f"warning: {told}\n"


def test_people_are_drawn_in_their_own_colours_where_they_are(crowd, picture):
    picture = Input(picture.image * 0 + 1)
    drawn = np.asarray(crowd(picture).draw()).astype(int)
    assert drawn.shape == (400, 800, 3)
    red, _, blue = drawn.transpose(2, 0, 1)
    first, second = (np.argwhere(mask) for mask in (red > blue + 60, blue > red + 60))
    assert len(first) > 100 and len(second) > 100
    # The square's middle, and the mesh's own: it is a random network's.
    apart = second.mean(axis=0) - first.mean(axis=0)
    assert apart[1] == pytest.approx(500, abs=60) and abs(apart[0]) < 60


def test_all_people_are_in_one_file(crowd, picture, tmp_path):
    trimesh = pytest.importorskip("trimesh", reason="it writes the files")
    found = crowd(picture)
    found.save(tmp_path / "people.glb")
    scene = trimesh.load_scene(tmp_path / "people.glb", process=False)
    meshes = [scene.geometry[name] for name in ("person 1", "person 2")]
    placed = list(found.placed.values())
    for mesh, vertices in zip(meshes, placed, strict=True):
        moved = (mesh.vertices - meshes[0].vertices[0]) * [1, -1, -1]
        np.testing.assert_allclose(moved, vertices - placed[0][0], atol=1e-5)
        np.testing.assert_array_equal(mesh.faces, found.faces)
    colour = meshes[0].visual.vertex_attributes["color"][0, :3]
    assert colour.tolist() == [202, 88, 0]  # linear: of (230, 159, 0) as on a screen
    found.save(tmp_path / "new" / "people.ply")
    assert len(trimesh.load(tmp_path / "new/people.ply", process=False).vertices) == 120
    found.save(tmp_path / "people.html")
    assert "person 2" not in (tmp_path / "people.html").read_text()  # within its scene
    found.save(tmp_path / "people.png")
    with pytest.raises(UserError, match=r"of 0 people on .* none is before"):
        crowd(torch.zeros_like(picture.image)).save(tmp_path / "nobody.glb")


def test_detector_that_knows_no_persons_is_refused(config, weights, picture):
    class Cats(PersonDetector):
        names = ("cat",)

    estimator = BodyEstimator.from_pretrained(weights, config=config, detector=Cats())
    with pytest.raises(UserError, match=r"knows no class 'person'; .*--detector none"):
        estimator(picture)

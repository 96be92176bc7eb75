import numpy as np
import pytest
import torch

from dropkey_core.engine import UserError
from projects.metro.pictures.mesh_files import ColouredMesh
from projects.metro.pictures.rows import (
    compared,
    draw_mesh,
    mesh_row,
    name_of,
    title_of,
    views,
    write_mesh_file,
)
from projects.metro.pictures.view import PREDICTED, SIDE, TRUE, View
from tests.projects.metro.conftest import SMALL

SIZE = SMALL["image_size"]


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


def test_views_of_a_set_are_named_by_their_place_in_it():
    record = {"subject": 3, "frame": 12, "camera": 7, "file_name": "x/image0000007.jpg"}
    assert name_of(record) == "subject 3, frame 12, camera 7"
    assert name_of({"file_name": "x/a.jpg"}) == "a.jpg"


# ---- meshes --------------------------------------------------------------------------------------
def test_error_is_that_of_the_joints_seen_from_the_hips(toy_body):
    sample = true_sample(toy_body)
    moved = found(toy_body, sample["vertices"] + 3)
    assert title_of(sample, moved) == "subject 3, frame 1, camera 7 · MPJPE 0.0 mm"
    larger = found(toy_body, 1.1 * sample["vertices"])
    joints = sample["joints_3d"][:, :3]
    away = joints - (joints[2] + joints[3]) / 2
    expected = 100 * away.norm(dim=1).mean().item()  # a tenth of it, in mm
    assert title_of(sample, larger).endswith(f"MPJPE {expected:.1f} mm")


def test_both_meshes_are_seen_by_their_cameras(toy_body):
    sample = true_sample(toy_body)
    recovered, true = views(sample, found(toy_body, sample["vertices"] + 3)).values()
    shown = true.shown(true.points)
    expected = sample["vertices"].numpy() + np.array([0.1, 0.2, 5])
    on_crop = 100 * expected[:, :2] / expected[:, 2:] + 30
    np.testing.assert_allclose((shown + 0.5) * SIZE / SIDE, on_crop + 0.5, rtol=1e-5)
    np.testing.assert_allclose(recovered.K[:2, 2], (SIDE - 1) / 2)
    depth = 2 * 1000 / 224 / 0.8
    np.testing.assert_allclose(
        recovered.points, sample["vertices"] + 3 + torch.tensor([0.1, 0.2, depth]), rtol=1e-5
    )


def test_camera_that_sees_nothing_is_told(toy_body):
    sample = true_sample(toy_body)
    outputs = found(toy_body, sample["vertices"], (-0.25, 0, 0))
    assert views(sample, outputs)["recovered"] is None
    row = mesh_row(toy_body, sample, outputs)
    assert "· not in view: the camera's scale is -0.25 ·" in row.title
    assert len(row.panels) == 5


def test_mesh_that_is_not_finite_is_told(toy_body):
    sample = true_sample(toy_body)
    outputs = found(toy_body, sample["vertices"] * torch.nan)
    with pytest.raises(UserError, match="mesh of subject 3, frame 1, camera 7 is not finite"):
        views(sample, outputs)


def test_row_shows_both_meshes_in_their_colours_around_the_image(toy_body):
    sample = true_sample(toy_body)
    row = mesh_row(toy_body, sample, found(toy_body, sample["vertices"]))
    assert [panel.caption for panel in row.panels] == [
        "recovered mesh",
        "recovered mesh from the side",
        "image",
        "true mesh",
        "true mesh from the side",
    ]
    pictures = [panel.pixels for panel in row.panels]
    assert (pictures[2] == 90).all()
    colours = (PREDICTED, PREDICTED, None, TRUE, TRUE)
    for picture, colour in zip(pictures, colours, strict=True):
        on_mesh = picture[picture.std(axis=2) > 20]
        if colour is None:
            assert len(on_mesh) == 0
        else:
            red, _, blue = on_mesh.mean(axis=0)
            assert (red > blue) == (colour[0] > colour[2])


def test_images_without_truth_have_three_pictures(toy_body):
    sample = {**true_sample(toy_body), "has_mesh": False}
    row = mesh_row(toy_body, sample, found(toy_body, sample["vertices"]))
    captions = ["recovered mesh", "recovered mesh from the side", "image"]
    assert [panel.caption for panel in row.panels] == captions
    assert row.title == "subject 3, frame 1, camera 7"
    assert all(panel.pixels.shape == (SIDE, SIDE, 3) for panel in row.panels)


def test_colours_of_errors_go_from_violet_to_yellow(toy_body):
    true = toy_body.template
    vertices = true + np.linspace(0, 0.3, 60)[:, None] * [1, 0, 0]
    mesh = ColouredMesh("recovered", vertices, toy_body.faces, PREDICTED)
    recovered, _ = compared(mesh, true)
    assert recovered.colours[0].tolist() == [68, 1, 84]
    beyond = recovered.colours[np.linspace(0, 0.3, 60) > 0.2]
    assert (beyond == [253, 231, 37]).all()


def test_file_has_the_recovered_mesh_around_its_pelvis(toy_body, tmp_path, capsys):
    trimesh = pytest.importorskip("trimesh", reason="it writes the files")
    sample = true_sample(toy_body)
    path = tmp_path / "mesh.ply"
    write_mesh_file(path, toy_body, sample, found(toy_body, sample["vertices"] + 3))
    vertices = trimesh.load(path, process=False).vertices
    np.testing.assert_allclose(vertices, sample["vertices"] * torch.tensor([1, -1, -1]), atol=1e-5)
    assert capsys.readouterr().out == f"{path}\n"


# ---- drawing -------------------------------------------------------------------------------------
# A square that covers the middle half of the crop, in both directions.
CORNERS = np.array([[-1.0, -1, 4], [1, -1, 4], [1, 1, 4], [-1, 1, 4]])
FACES = np.array([[0, 3, 2], [0, 2, 1]])
MIDDLE = (SIDE - 1) / 2
VIEW = View(CORNERS, np.array([[SIDE, 0, MIDDLE], [0, SIDE, MIDDLE], [0, 0, 1.0]]))


GREY = np.full((SIDE, SIDE, 3), 90, np.uint8)


def test_mesh_lies_on_its_place_of_the_crop():
    drawn = draw_mesh(VIEW, FACES, GREY, PREDICTED)
    quarter = SIDE // 4
    inside = drawn[quarter : 3 * quarter, quarter : 3 * quarter]
    assert (inside == inside[0, 0]).all()
    red, green, blue = inside[0, 0] / 255
    assert red > 0.5 and blue == 0
    np.testing.assert_allclose(green / red, PREDICTED[1] / PREDICTED[0], atol=0.01)
    outside = np.ones((SIDE, SIDE), bool)
    outside[quarter : 3 * quarter, quarter : 3 * quarter] = False
    assert (drawn[outside] == 90).all()


def test_mesh_may_have_colours_of_its_vertices():
    colours = np.array([[255, 0, 0], [255, 0, 0], [0, 0, 255], [0, 0, 255]])
    drawn = draw_mesh(VIEW, FACES, GREY, colours)
    top, bottom = drawn[SIDE // 4 + 3, SIDE // 2], drawn[3 * SIDE // 4 - 3, SIDE // 2]
    assert top[0] > 150 and bottom[2] > 150


def test_without_view_there_is_only_the_picture():
    assert draw_mesh(None, FACES, GREY, PREDICTED) is GREY

import sys

import numpy as np
import pytest
import torch

from dropkey_core.engine import UserError
from projects.metro.body.model import Body, BodyModel, read_body, read_origin, write_body
from projects.metro.body.skeleton import JOINTS_FROM_H36M
from tests.projects.metro import smpl_like


# ---- posing --------------------------------------------------------------------------------------
def poses(count):
    """Random poses (count, 72) and shapes (count, 10), the first at rest."""
    generator = torch.Generator().manual_seed(0)
    pose = torch.randn(count, 72, generator=generator)
    betas = torch.randn(count, 10, generator=generator)
    pose[0], betas[0] = 0, 0
    return pose, betas


@pytest.fixture(scope="module")
def model(toy_body):
    pytest.importorskip("smplx")
    return BodyModel(toy_body)


def test_poses_are_those_of_smplx_own_class():
    smplx = pytest.importorskip("smplx")
    body = smpl_like.body()
    reference = smplx.SMPL(
        "",
        data_struct=smplx.utils.Struct(
            v_template=body.template,
            shapedirs=body.shape_directions,
            posedirs=body.pose_directions,
            J_regressor=body.joint_regressor,
            weights=body.skin_weights,
            kintree_table=np.array([body.parents, range(24)]),
            f=body.faces,
        ),
        batch_size=2,
    )
    pose, betas = poses(2)
    expected = reference(betas=betas, global_orient=pose[:, :3], body_pose=pose[:, 3:]).vertices
    found = BodyModel(body)(pose, betas)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[0].numpy(), body.template, atol=1e-6)


def test_the_template_is_the_body_with_its_root_turned(toy_body, model):
    pose = torch.zeros(1, 72)
    pose[0, 0] = 3.1416
    posed = model(pose, torch.zeros(1, 10))[0]
    np.testing.assert_allclose(posed.numpy(), toy_body.template_pose(), atol=1e-6)


def test_without_smplx_the_extra_is_named(toy_body, monkeypatch):
    monkeypatch.setitem(sys.modules, "smplx.lbs", None)
    with pytest.raises(UserError, match=r"non-commercial.*pip install -e '\.\[mesh\]'"):
        BodyModel(toy_body)


# ---- joints --------------------------------------------------------------------------------------
def test_joints_are_weighted_sums_of_vertices(toy_body):
    vertices = np.random.default_rng(0).normal(size=(2, 5, 60, 3))
    h36m = toy_body.h36m_joints(vertices)
    expected = sum(toy_body.h36m_regressor[16, v] * vertices[1, 2, v] for v in range(60))
    np.testing.assert_allclose(h36m[1, 2, 16], expected)
    joints = toy_body.joints(vertices)
    assert joints.shape == (2, 5, 14, 3)
    for joint, source in enumerate(JOINTS_FROM_H36M):
        np.testing.assert_allclose(joints[:, :, joint], h36m[:, :, source])
    tensor = torch.from_numpy(vertices).float().requires_grad_()
    found = toy_body.joints(tensor)
    torch.testing.assert_close(found, torch.from_numpy(joints).float())
    assert found.requires_grad


# ---- file ----------------------------------------------------------------------------------------
def test_a_file_holds_the_body_that_was_written(toy_body, toy_body_file):
    found = vars(read_body(toy_body_file))
    for name, array in vars(toy_body).items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert found[name].dtype in (np.float64, np.int64)
    assert read_origin(toy_body_file) == ""


def test_paths_start_at_the_dataset_root(toy_body, tmp_path, monkeypatch):
    monkeypatch.setenv("DROPKEY_DATASETS", str(tmp_path))
    write_body("a/body.npz", toy_body, "made up")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["body.npz"]
    np.testing.assert_array_equal(read_body("a/body.npz").template, toy_body.template)
    assert read_origin("a/body.npz") == "made up"


def with_value(array, value):
    changed = array.copy()
    changed.ravel()[1] = value
    return changed


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("template", lambda a: with_value(a, np.nan), "template holds NaN or infinity"),
        ("skin_weights", lambda a: a[:59], r"skin_weights has shape \(59, 24\), not \(60, 24\)"),
        ("shape_directions", lambda a: a[..., :9], r"shape \(60, 3, 9\), not \(60, 3, 10\)"),
        ("joint_regressor", lambda a: 2 * a, "row 0 of joint_regressor sums to 2, not 1"),
        ("faces", lambda a: with_value(a, 60), "faces must be vertex indices of 0 to 59"),
        ("faces", lambda a: with_value(a, -1), "faces must be vertex indices of 0 to 59"),
        ("coarse_faces_2", lambda a: with_value(a, 8), "vertex indices of 0 to 7"),
        ("coarse_vertices_1", lambda a: with_value(a, a[0]), "names a vertex twice"),
        ("coarse_vertices_1", lambda a: a[1:], "coarse_vertices_2 keeps vertices that"),
        ("parents", lambda a: with_value(a, 3), "parents are .*, not SMPL's"),
    ],
)
def test_what_is_no_body_is_neither_written_nor_read(toy_body, tmp_path, name, change, message):
    arrays = dict(vars(toy_body))
    if name == "coarse_vertices_1" and "keeps" in message:
        missing = np.flatnonzero(arrays[name] == arrays["coarse_vertices_2"][0])
        arrays[name] = np.delete(arrays[name], missing)
        arrays["coarse_faces_1"] = arrays["coarse_faces_1"] % 19
    else:
        arrays[name] = change(arrays[name])
    np.savez(tmp_path / "body.npz", **arrays)
    with pytest.raises(UserError, match=rf"body.npz is not a body model of .*: .*{message}"):
        read_body(tmp_path / "body.npz")
    with pytest.raises(UserError, match=message):
        write_body(tmp_path / "other.npz", Body(**arrays))
    assert not (tmp_path / "other.npz").exists()


def test_a_missing_body_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setenv("DROPKEY_DATASETS", str(tmp_path))
    with pytest.raises(UserError, match=r"make_body_model\.py.*convert_body_model\.py"):
        read_body("body/none.npz")

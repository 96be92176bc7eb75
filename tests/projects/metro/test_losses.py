import pytest
import torch

from projects.metro.losses import (
    MeshLoss,
    joints_2d_loss,
    joints_3d_loss,
    vertices_loss,
    weak_perspective,
)

RIGHT_HIP, LEFT_HIP = 2, 3


def true_joints(batch, coordinates=3):
    """Joints at the origin, all of confidence 1."""
    joints = torch.zeros(batch, 14, coordinates + 1)
    joints[..., -1] = 1
    return joints


def all_of(batch):
    return torch.ones(batch, dtype=torch.bool)


def test_projection_adds_the_shift_before_it_scales():
    points = torch.tensor([[[1.0, 2.0, 7.0], [0.0, -1.0, 3.0]], [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]])
    camera = torch.tensor([[2.0, 0.5, -1.0], [1.0, 0.0, 0.25]])
    expected = [[[3.0, 2.0], [1.0, -4.0]], [[1.0, 1.25], [0.0, 0.25]]]
    assert weak_perspective(points, camera).tolist() == expected


def test_3d_joints_are_seen_from_the_mid_hip():
    predicted = torch.zeros(1, 14, 3)
    predicted[0, RIGHT_HIP, 0] = 2.0  # the mid-hip moves by 1: so do the 12 others, and both hips
    found = joints_3d_loss(predicted + 5, true_joints(1), all_of(1))
    torch.testing.assert_close(found, torch.tensor(14.0 / (14 * 3)))


def test_a_3d_joint_without_confidence_still_counts_in_the_mean():
    predicted, true = torch.zeros(1, 14, 3), true_joints(1)
    predicted[0, 5], predicted[0, 6] = torch.tensor([1.0, 2.0, 3.0]), 9.0
    true[0, 6, 3] = 0
    found = joints_3d_loss(predicted, true, all_of(1))
    torch.testing.assert_close(found, torch.tensor(14.0 / (14 * 3)))


def test_images_without_3d_do_not_count():
    predicted, true = torch.zeros(3, 14, 3), true_joints(3)
    predicted[0, 5], predicted[1, 5] = 1.0, 9.0
    true[1] = float("nan")
    found = joints_3d_loss(predicted, true, torch.tensor([True, False, True]))
    torch.testing.assert_close(found, torch.tensor(3.0 / (2 * 14 * 3)))


def test_2d_joints_worked_out():
    joints, true = torch.zeros(2, 14, 3), true_joints(2, coordinates=2)
    joints[0, 3] = torch.tensor([1.0, 2.0, 8.0])  # appears at (2 * 1.5, 2 * 2)
    true[0, 3, :2] = torch.tensor([1.0, 1.0])
    joints[1, 4] = 9.0
    true[1, 4, 2] = 0  # not seen
    camera = torch.tensor([[2.0, 0.5, 0.0], [1.0, 0.0, 0.0]])
    # The 13 joints at the origin of image 0 appear at (1, 0) instead of (0, 0).
    expected = (2.0**2 + 3.0**2 + 13) / (2 * 14 * 2)
    torch.testing.assert_close(joints_2d_loss(joints, camera, true), torch.tensor(expected))


def test_vertices_worked_out():
    vertices, true = torch.zeros(3, 5, 3), torch.zeros(3, 5, 3)
    vertices[0, 1] = torch.tensor([1.0, -2.0, 0.0])
    true[2, 0, 0] = 4.0
    true[1] = float("nan")
    found = vertices_loss(vertices, true, torch.tensor([True, False, True]))
    torch.testing.assert_close(found, torch.tensor(7.0 / (2 * 5 * 3)))


def test_of_nothing_a_zero_with_a_gradient():
    for loss, true in ((joints_3d_loss, true_joints(2)), (vertices_loss, torch.ones(2, 14, 3))):
        predicted = torch.ones(2, 14, 3, requires_grad=True)
        found = loss(predicted, true, ~all_of(2))
        assert found.shape == ()
        assert found == 0
        found.backward()
        assert torch.equal(predicted.grad, torch.zeros(2, 14, 3))


@pytest.fixture
def outputs():
    generator = torch.Generator().manual_seed(0)
    shapes = {"camera": (2, 3), "joint_tokens": (2, 14, 3), "mesh_joints": (2, 14, 3)}
    outputs = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {**outputs, "meshes": [torch.randn(2, n, 3, generator=generator) for n in (9, 6, 4)]}


@pytest.fixture
def targets():
    generator = torch.Generator().manual_seed(1)
    return {
        "joints_3d": torch.rand(2, 14, 4, generator=generator),
        "joints_2d": torch.rand(2, 14, 3, generator=generator),
        "meshes": [torch.randn(2, n, 3, generator=generator) for n in (9, 6, 4)],
        "has_joints_3d": torch.tensor([True, True]),
        "has_mesh": torch.tensor([False, True]),
    }


def test_every_term_with_its_weight(outputs, targets):
    found = MeshLoss()(outputs, targets)
    expected = {}
    for name, joints in (("joints", "joint_tokens"), ("mesh_joints", "mesh_joints")):
        in_space = joints_3d_loss(outputs[joints], targets["joints_3d"], all_of(2))
        in_picture = joints_2d_loss(outputs[joints], outputs["camera"], targets["joints_2d"])
        expected |= {f"loss_{name}_3d": 1000 * in_space, f"loss_{name}_2d": 100 * in_picture}
    names = ("loss_vertices", "loss_vertices_1", "loss_vertices_2")
    for name, mesh, true in zip(names, outputs["meshes"], targets["meshes"], strict=True):
        expected[name] = 33 * (mesh[1] - true[1]).abs().mean()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_the_weights_are_settings(outputs, targets):
    plain = MeshLoss()(outputs, targets)
    found = MeshLoss(2.0, 10.0, 4.0, [0.5, 0.0, 0.1])(outputs, targets)
    factors = {"loss_joints_3d": 0.002, "loss_mesh_joints_3d": 0.002}
    factors |= {"loss_joints_2d": 0.04, "loss_mesh_joints_2d": 0.04}
    factors |= {"loss_vertices": 5 / 33, "loss_vertices_1": 0.0, "loss_vertices_2": 1 / 33}
    for name, factor in factors.items():
        torch.testing.assert_close(found[name], factor * plain[name], msg=name)


def test_half_precision_is_judged_in_single(outputs, targets):
    halves = {name: value for name, value in outputs.items() if name != "meshes"}
    halves = {name: value.half() for name, value in halves.items()}
    found = MeshLoss()({**halves, "meshes": [m.half() for m in outputs["meshes"]]}, targets)
    assert {value.dtype for value in found.values()} == {torch.float32}

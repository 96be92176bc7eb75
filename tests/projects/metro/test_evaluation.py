import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from dropkey_core.engine import UserError
from projects.metro.body.model import write_body
from projects.metro.evaluation import ERRORS_FILE, MEAN_POSE, MeshEvaluator

ROOT = Path(__file__).resolve().parents[3]


def sample(image_id, vertices=None, joints=None, subject=1, camera=0):
    """A sample with the ground truth that is given."""
    return {
        "image_id": image_id,
        "file_name": f"/somewhere/{image_id}.jpg",
        "subject": subject,
        "frame": 8,
        "camera": camera,
        "has_mesh": vertices is not None,
        "vertices": vertices,
        "has_joints_3d": joints is not None,
        "joints_3d": joints,
    }


def with_confidence(joints):
    return torch.cat([joints, torch.zeros(14, 1)], dim=1)  # which does not matter


@pytest.fixture
def meshes(toy_body):
    """Different meshes of the toy body, (n, 60, 3) float32."""

    def make(count, seed=0):
        generator = np.random.default_rng(seed)
        turns = Rotation.random(count, random_state=seed).as_matrix()
        vertices = toy_body.template @ turns.transpose(0, 2, 1)
        vertices += generator.normal(scale=0.05, size=vertices.shape)
        return torch.tensor(vertices, dtype=torch.float32)

    return make


@pytest.fixture
def samples_of(toy_body):
    """Samples with all ground truth, three images a subject, cameras in turn."""

    def make(meshes):
        return [
            sample(
                image_id=10 + number,
                vertices=vertices,
                joints=with_confidence(toy_body.joints(vertices.double())),
                subject=5 + number // 3,
                camera=number % 2,
            )
            for number, vertices in enumerate(meshes)
        ]

    return make


def outputs_of(meshes):
    return [{"vertices": vertices, "joints_3d": torch.zeros(14, 3)} for vertices in meshes]


def results_of(body, samples, outputs, **options):
    evaluator = MeshEvaluator(body, **options)
    evaluator.process(samples, outputs)
    return evaluator.evaluate()["mesh"]


def plain_errors(body, pred, true):
    """MPVE, MPJPE and PA-MPJPE of one image in mm, as METRO's evaluation has them."""
    pred, true = pred.double().numpy(), true.double().numpy()
    order = [3, 2, 1, 4, 5, 6, 16, 15, 14, 11, 12, 13, 8, 10]

    def distance(a, b):
        return 1000 * np.sqrt(((a - b) ** 2).sum(-1)).mean()

    pred_joints, joints = body.h36m_regressor @ pred, body.h36m_regressor @ true
    pred, true = pred - pred_joints[0], true - joints[0]
    pred_joints, joints = pred_joints[order], joints[order]
    hips = distance(pred_joints - pred_joints[2:4].mean(0), joints - joints[2:4].mean(0))
    x, y = pred_joints - pred_joints.mean(0), joints - joints.mean(0)
    x = Rotation.align_vectors(y, x)[0].apply(x)
    return distance(pred, true), hips, distance((x * y).sum() / (x**2).sum() * x, y)


# --- worked out by hand


def test_single_vertices_moved(toy_body, tmp_path, meshes):
    """Where the 17 joints are the first vertices, what moving one of 60 does to each error."""
    body = replace(toy_body, h36m_regressor=np.eye(17, 60))
    write_body(tmp_path / "body.npz", body)
    (true,) = meshes(1)
    samples = [sample(0, true, with_confidence(body.joints(true)))]

    def errors(vertex, shift):
        pred = true + 3
        pred[vertex, 1] += shift
        return results_of(tmp_path / "body.npz", samples, outputs_of([pred]))

    free, pelvis, right_hip, neck = 59, 0, 1, 8
    for vertex, mpve, mpjpe in (
        (free, 1 / 60, 0),
        (pelvis, 59 / 60, 0),  # which all vertices but itself are seen from
        (neck, 1 / 60, 1 / 14),
        (right_hip, 1 / 60, 1 / 2),  # the mid-hip moves half as far, and all others with it
    ):
        results = errors(vertex, 0.06)
        assert results["MPVE"] == pytest.approx(60 * mpve, rel=1e-3)
        assert results["MPJPE"] == pytest.approx(60 * mpjpe, rel=1e-3, abs=1e-3)
    assert errors(free, 0.06)["PA-MPJPE"] == pytest.approx(0, abs=1e-3)


def test_mean_pose_of_three_skeletons(toy_body_file, meshes):
    """The mean neck is 42 mm up; two of the skeletons are 42 mm from it, and one 84 mm."""
    skeletons = torch.zeros(3, 14, 3)
    skeletons[2, 12, 0] = 0.126
    skeletons += torch.tensor([5.0, 7.0, 0.0]).reshape(3, 1, 1)  # where they stand does not matter
    samples = [sample(n, joints=with_confidence(skeletons[n])) for n in range(3)]
    results = results_of(toy_body_file, samples, outputs_of(meshes(3)))
    assert results[MEAN_POSE] == pytest.approx((42 + 42 + 84) / 3 / 14, rel=1e-5)


# --- averages


def test_images_without_ground_truth_do_not_count(
    toy_body, toy_body_file, meshes, samples_of, tmp_path
):
    true, pred = meshes(4), meshes(4, seed=3)
    samples = samples_of(true)
    samples[0] |= {"has_mesh": False}
    samples[1] |= {"has_joints_3d": False}
    samples[2] |= {"has_mesh": False, "has_joints_3d": False, "vertices": None, "joints_3d": None}
    results = results_of(toy_body_file, samples, outputs_of(pred), output_dir=tmp_path)
    each = [plain_errors(toy_body, *pair) for pair in zip(pred, true, strict=True)]
    assert results["MPVE"] == pytest.approx((each[1][0] + each[3][0]) / 2)
    assert results["MPJPE"] == pytest.approx((each[0][1] + each[3][1]) / 2)
    assert results["PA-MPJPE"] == pytest.approx((each[0][2] + each[3][2]) / 2)
    with (tmp_path / ERRORS_FILE).open(newline="") as file:
        assert [row["MPVE"] == "nan" for row in csv.DictReader(file)] == [1, 0, 1, 0]
    results = results_of(toy_body_file, samples[2:3], outputs_of(pred[2:3]))
    assert all(map(math.isnan, results.values()))


def test_half_precision_with_gradient_and_any_origin(toy_body_file, meshes, samples_of):
    pred = (meshes(1) + 2).bfloat16()
    expected = results_of(toy_body_file, samples_of(meshes(1)), outputs_of(pred.float()))
    outputs = outputs_of(pred.requires_grad_())
    assert results_of(toy_body_file, samples_of(meshes(1)), outputs) == expected


def test_averages_table_and_file(toy_body, toy_body_file, meshes, samples_of, tmp_path, capsys):
    true, pred = meshes(7), meshes(7, seed=3)
    folder = tmp_path / "deep" / "out"
    order = [4, 0, 6, 2, 1, 5, 3]
    samples, outputs = ([of[n] for n in order] for of in (samples_of(true), outputs_of(pred)))
    results = results_of(toy_body_file, samples, outputs, output_dir=folder)
    each = np.array([plain_errors(toy_body, *pair) for pair in zip(pred, true, strict=True)])
    means = each.mean(axis=0).tolist()
    assert [results[name] for name in ("MPVE", "MPJPE", "PA-MPJPE")] == pytest.approx(means, 1e-12)

    with (folder / ERRORS_FILE).open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image_id", "subject", "frame", "camera", "MPVE", "MPJPE", "PA-MPJPE"]
    assert [row[:4] for row in rows[1:4]] == [
        ["10", "5", "8", "0"],
        ["11", "5", "8", "1"],
        ["12", "5", "8", "0"],
    ]
    np.testing.assert_allclose(np.array(rows[1:])[:, 4:].astype(float), each, rtol=1e-12)

    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["mm,", "7", "images", "MPVE", "MPJPE", "PA-MPJPE"],
        ["all", *(f"{mean:.2f}" for mean in means)],
        ["mean", "pose", f"{results[MEAN_POSE]:.2f}"],
    ]


# --- bad input


def broken(place, value):
    """Puts a value at a place of a tensor."""

    def change(tensor):
        tensor = tensor.clone()
        tensor[place] = value
        return tensor

    return change


PRED, TRUE, JOINTS = ("output", "vertices"), ("sample", "vertices"), ("sample", "joints_3d")


@pytest.mark.parametrize(
    ("where", "change", "message"),
    [
        (PRED, lambda mesh: mesh[1:], r"the pred.* have shape \(59, 3\) .* \(60, 3\), as the body"),
        (PRED, broken((4, 2), math.nan), r"row 4 of the predicted vertices is \[.*, nan\]; there"),
        (TRUE, lambda mesh: mesh.repeat(2, 1), r"the true vertices have shape \(120, 3\) instead"),
        (TRUE, broken((59, 0), math.inf), r"row 59 of the true vertices is \[inf, "),
        (JOINTS, lambda joints: joints[:, :3], r"the true joints have shape \(14, 3\) instead of"),
        (JOINTS, broken((13, 1), math.nan), r"row 13 of the true joints is \[.*, nan, "),
    ],
)
def test_bad_points_are_named_with_their_image(
    toy_body_file, meshes, samples_of, where, change, message
):
    samples, outputs = samples_of(meshes(2)), outputs_of(meshes(2, seed=3))
    changed, key = {"output": outputs, "sample": samples}[where[0]][1], where[1]
    changed[key] = change(changed[key])
    evaluator = MeshEvaluator(toy_body_file)
    with pytest.raises(UserError, match=rf"image 11 \(/somewhere/11\.jpg\): {message}"):
        evaluator.process(samples, outputs)

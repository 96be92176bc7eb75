import importlib.util
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from projects.metro.body.skeleton import JOINTS
from projects.metro.metrics import mpjpe, mpve, pa_mpjpe, procrustes_align

METRO = os.environ.get("DROPKEY_METRO", "")  # a checkout of microsoft/MeshTransformer

SQUARE = [[1, 1, 0], [1, -1, 0], [-1, -1, 0], [-1, 1, 0]]
CROSS = [[3, 0, 0], [-3, 0, 0], [0, 2, 0], [0, -2, 0], [0, 0, 1], [0, 0, -1]]


def points(values):
    return torch.tensor(values, dtype=torch.float64)


def assert_same(actual, expected, atol=1e-12):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def random_sets(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def moved(sets, angles=(40, -70, 130), scale=0.3, translation=(2, -5, 7)):
    """The sets after one similarity transformation."""
    rotation = torch.from_numpy(Rotation.from_euler("xyz", angles, degrees=True).as_matrix())
    return scale * sets @ rotation.T + points(translation)


# --- errors, worked out by hand


def test_mpve_is_the_mean_distance():
    target = torch.zeros(2, 4, 3)
    pred = target.clone()
    pred[0, 1] = torch.tensor([3.0, 4.0, 0.0])
    pred[0, 2] = torch.tensor([0.0, 0.0, -1.0])
    errors = mpve(pred, target)
    assert errors.dtype == torch.float64
    assert errors.tolist() == [6 / 4, 0]


def test_mpjpe_is_seen_from_the_mid_hip():
    target = random_sets(4, 14, 3)
    pred = target.clone()
    pred[0] += 5
    pred[1, JOINTS.index("Neck"), 2] += 14
    pred[2, JOINTS.index("R_Hip"), 0] += 2  # the mid-hip moves by 1, thus this hip, too, is 1 off
    pred[3, JOINTS.index("L_Hip"), 1] -= 2
    assert_same(mpjpe(pred, target), points([0, 1, 1, 1]))


def test_pa_mpjpe_of_a_square_and_a_rectangle():
    """The scale is (4 * 2 + 4 * 1) / (4 * 2); every corner stays half a unit off both ways."""
    square = points(SQUARE)
    rectangle = square * points([2, 1, 1])
    assert_same(procrustes_align(square, rectangle), 1.5 * square)
    assert_same(pa_mpjpe(moved(square), rectangle), points(math.sqrt(0.5)))


# --- alignment


def test_undoes_rotation_scale_and_translation():
    target = random_sets(2, 3, 14, 3)
    assert_same(procrustes_align(moved(target), target), target)
    assert_same(procrustes_align(moved(target, scale=1e-9), target), target, atol=1e-5)


def test_never_mirrors():
    """The mirror image of a cross fits it best unturned, at (18 + 8 - 2) / 28 of its size."""
    cross = points(CROSS)
    mirrored = cross * points([1, 1, -1])
    assert_same(procrustes_align(mirrored, cross), 6 / 7 * mirrored)
    assert_same(procrustes_align(moved(mirrored), cross), 6 / 7 * mirrored)
    assert pa_mpjpe(mirrored, cross) > 0.2


def plainly_aligned(pred, target):
    """One set (N, 3), with scipy's rotation."""
    x, y = pred - pred.mean(0), target - target.mean(0)
    rotated = Rotation.align_vectors(y, x)[0].apply(x)
    return (rotated * y).sum() / (x**2).sum() * rotated + target.mean(0)


def noisy_pairs(count=200):
    """Sets and targets that resemble them, every third one mirrored."""
    target = random_sets(count, 14, 3)
    pred = moved(target) + 0.1 * random_sets(count, 14, 3, seed=1)
    pred[::3] *= points([1, 1, -1])
    return pred, target


def test_equals_scipys_rotations():
    pred, target = noisy_pairs()
    expected = [plainly_aligned(*pair) for pair in zip(pred.numpy(), target.numpy(), strict=True)]
    assert_same(procrustes_align(pred, target), torch.from_numpy(np.stack(expected)), atol=1e-10)


@pytest.mark.skipif(not METRO, reason="DROPKEY_METRO names no checkout of MeshTransformer")
def test_equals_the_official_alignment():
    path = Path(METRO) / "metro" / "utils" / "metric_pampjpe.py"
    spec = importlib.util.spec_from_file_location("metric_pampjpe", path)
    official = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(official)
    planar = random_sets(20, 14, 3) * points([1, 1, 0])
    for pred, target in (noisy_pairs(), (planar, planar.flip(0)), (planar + 1e-9, planar)):
        expected = official.compute_similarity_transform_batch(pred.numpy(), target.numpy())
        assert_same(procrustes_align(pred, target), torch.from_numpy(expected), atol=1e-10)
        errors = official.reconstruction_error(pred.numpy(), target.numpy(), reduction=None)
        assert_same(pa_mpjpe(pred, target), torch.from_numpy(errors), atol=1e-10)


# --- sets that do not span the space


def test_planar_sets_are_turned_over():
    """A mirror image within the plane is a half turn in space, so everything fits."""
    target = random_sets(5, 14, 3) * points([1, 1, 0])
    for pred in (target, target * points([-1, 1, 1])):
        assert_same(procrustes_align(moved(pred), target), target)


def test_points_on_a_line_follow_the_target():
    """x_i along the line come to x_i * sum(x_j y_j) / sum(x_j^2), seen from the means."""
    along = points([-1, 0, 3, -2])
    target = random_sets(4, 3)
    best = along @ target / 14
    aligned = procrustes_align(moved(along.unsqueeze(-1) * points([1, 2, -2])), target)
    assert_same(aligned, along.unsqueeze(-1) * best + target.mean(0))


def test_points_that_coincide_come_to_the_mean_of_the_target():
    target = random_sets(14, 3)
    for place in ([0.0, 0, 0], [0.1, 0.2, 0.7], [1e8 / 3, 1e-8, 7]):
        same = points([place] * 14)
        assert_same(procrustes_align(same, target), target.mean(0).expand(14, 3))
    assert_same(procrustes_align(target, same), same, atol=1e-7)


@pytest.mark.parametrize("num_points", [1, 2])
def test_one_or_two_points_fit_exactly(num_points):
    pred, target = random_sets(6, num_points, 3), random_sets(6, num_points, 3, seed=1)
    assert_same(procrustes_align(pred, target), target)


@pytest.mark.parametrize("shape", [(0, 14, 3), (2, 0, 3)])
def test_nothing_to_align(shape):
    assert procrustes_align(torch.zeros(shape), torch.zeros(shape)).shape == shape


# --- types, batches


@pytest.mark.parametrize("metric", [procrustes_align, pa_mpjpe])
def test_narrow_types_are_computed_in_double(metric):
    pred, target = (sets.float() for sets in noisy_pairs(4))
    assert torch.equal(metric(pred, target), metric(pred.double(), target.double()))


def test_carries_no_gradient_and_leaves_its_arguments_alone():
    pred, target = noisy_pairs(2)
    before = pred.clone(), target.clone()
    assert not procrustes_align(pred.requires_grad_(), target).requires_grad
    assert torch.equal(pred.detach(), before[0])
    assert torch.equal(target, before[1])


# --- bad input


def test_what_is_not_finite_is_refused():
    pred, target = noisy_pairs(2)
    target[1, 4, 2] = math.nan
    with pytest.raises(torch.linalg.LinAlgError, match="non-finite"):
        procrustes_align(pred, target)

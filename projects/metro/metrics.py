"""How far predicted meshes and joints are from the true ones; of each sample, in its own unit.

Shapes: N points of each set, V vertices, 14 joints in the order of ``skeleton.JOINTS``; ``...`` is
any number of batch dimensions, also none. All is computed in double precision, whatever comes in.
"""

import torch
from torch import Tensor

from projects.metro.body.skeleton import root_relative


def mpve(pred: Tensor, target: Tensor) -> Tensor:
    """Mean per-vertex error of each mesh: (..., V, 3) twice, with the same origin -> (...) float64.

    METRO's origin is the H36M pelvis of each mesh.
    """
    return mean_distance(pred.double(), target.double())


def mpjpe(pred: Tensor, target: Tensor) -> Tensor:
    """Mean per-joint position error of each skeleton: (..., 14, 3) twice -> (...) float64.

    Both are seen from the middle of their hips.
    """
    return mean_distance(root_relative(pred.double()), root_relative(target.double()))


def pa_mpjpe(pred: Tensor, target: Tensor) -> Tensor:
    """Mean per-joint position error after alignment: (..., N, 3) twice -> (...) float64.

    Raises:
        torch.linalg.LinAlgError: see ``procrustes_align``.
    """
    return mean_distance(procrustes_align(pred, target), target.double())


@torch.no_grad()
def procrustes_align(pred: Tensor, target: Tensor) -> Tensor:
    """Turn, scale and move each set of points so that it fits its target best.

    Best means least squares over all rotations (reflections are none), scales and translations:
    Umeyama, Least-squares estimation of transformation parameters between two point patterns,
    PAMI 1991, eqs. (38) to (43). Where several transformations are equally good, as for points on
    a line, any of them is taken. Points that all coincide come to lie on the target's mean. The
    result carries no gradient.

    Args:
        pred: (..., N, 3), any N.
        target: (..., N, 3), the same shape.

    Returns:
        (..., N, 3) float64, ``pred`` after alignment.

    Raises:
        torch.linalg.LinAlgError: for NaN and infinity, for which there is no best alignment.
    """
    pred, target = pred.double(), target.double()
    pred_mean, target_mean = (points.mean(-2, keepdim=True) for points in (pred, target))
    pred, target = pred - pred_mean, target - target_mean

    u, stretch, vt = torch.linalg.svd(pred.mT @ target)  # (..., 3, 3), (..., 3), (..., 3, 3)
    # Where a reflection would fit better, the best rotation gives in along the last direction, the
    # one that matters least.
    sign = torch.ones_like(stretch)
    sign[..., 2] = torch.linalg.det(u @ vt).sign()
    rotation = (u * sign.unsqueeze(-2)) @ vt
    spread = pred.square().sum((-2, -1))
    scale = torch.where(spread > 0, (stretch * sign).sum(-1) / spread, 0.0)
    return scale[..., None, None] * (pred @ rotation) + target_mean


def mean_distance(pred: Tensor, target: Tensor) -> Tensor:
    """Mean over the points of the distances, (..., N, 3) and (..., N, 3) to (...)."""
    return torch.linalg.vector_norm(pred - target, dim=-1).mean(-1)

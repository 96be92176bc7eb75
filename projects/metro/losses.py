"""METRO's losses: joints and vertices in space, joints in the picture.

Source: arXiv 2012.09760, with the weights and means of the official code.

Shapes: B images, J = 14 joints, V vertices of a mesh (the full one or a coarser one).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dropkey_core.engine import per_total, total_over_processes
from projects.metro.body.skeleton import root_relative


def weak_perspective(points: Tensor, camera: Tensor) -> Tensor:
    """Where points (B, J, 3) in metres appear to a weak-perspective camera (B, 3): s, tx, ty.

    Returns:
        (B, J, 2) in [-1, 1] of the crop: s (x + tx), s (y + ty).
    """
    return camera[:, None, :1] * (points[..., :2] + camera[:, None, 1:])


def mean_or_zero(errors: Tensor, images: Tensor | None = None) -> Tensor:
    """The mean over the batches of all processes, which may hold different numbers of errors.

    Of nothing it is a zero that still hangs on the graph, for all processes to step alike. The
    official code returns a constant of shape (1,) there, and takes the mean of each process for
    itself: an image counts more where fewer others have a mesh or joints.

    Args:
        errors: (b, ...) those of the b images that count.
        images: how many images count, a scalar, if another batch's are meant.
    """
    if images is None:
        images = total_over_processes(torch.tensor(float(len(errors)), device=errors.device))
    number = images * math.prod(errors.shape[1:])
    return per_total(errors.sum(), number.clamp(min=1))


def joints_3d_loss(
    joints: Tensor, true_joints: Tensor, has_joints_3d: Tensor, images: Tensor | None = None
) -> Tensor:
    """Mean squared distance per coordinate between joints, both relative to their mid-hip.

    It is a scalar, 0 where no image counts.

    Args:
        joints: (B, J, 3) in metres.
        true_joints: (B, J, 4): x, y, z and the confidence, by which a joint's error is multiplied.
            A joint of confidence 0 still counts in the mean, as in the official code.
        has_joints_3d: (B,) bool, True = the image counts.
        images: see ``mean_or_zero``.
    """
    joints, true_joints = joints[has_joints_3d], true_joints[has_joints_3d]
    true_joints, confidence = true_joints.split([3, 1], dim=-1)
    difference = root_relative(joints) - root_relative(true_joints)
    return mean_or_zero(confidence * difference.square(), images)


def joints_2d_loss(
    joints: Tensor, camera: Tensor, true_joints: Tensor, images: Tensor | None = None
) -> Tensor:
    """Mean squared distance per coordinate between joints in the picture, a scalar.

    All images count, whatever is known about them, as in the official code: only the confidence
    decides.

    Args:
        joints: (B, J, 3) in metres.
        camera: (B, 3), see ``weak_perspective``.
        true_joints: (B, J, 3): x, y in [-1, 1] of the crop, and the confidence.
        images: see ``mean_or_zero``; by default the mean is that of this process.
    """
    true_joints, confidence = true_joints.split([2, 1], dim=-1)
    errors = confidence * (weak_perspective(joints, camera) - true_joints).square()
    return errors.mean() if images is None else mean_or_zero(errors, images)


def vertices_loss(
    vertices: Tensor, true_vertices: Tensor, has_mesh: Tensor, images: Tensor | None = None
) -> Tensor:
    """Mean absolute distance per coordinate between meshes (B, V, 3), which are not aligned.

    It is a scalar, 0 where no image counts: ``has_mesh`` (B,) bool, True = it does. The origin of
    the true ones is their own pelvis. ``images``: see ``mean_or_zero``.
    """
    return mean_or_zero((vertices[has_mesh] - true_vertices[has_mesh]).abs(), images)


class MeshLoss(nn.Module):
    """The weighted losses of a batch, each under its own name.

    The official code multiplies the loss in the picture by the weight of the vertices; it is a
    weight of its own here, of the same value.

    Args:
        joints_weight: weight of the joints in space.
        vertices_weight: weight of the meshes.
        joints_2d_weight: weight of the joints in the picture.
        level_weights: of that of the full mesh and of the coarser ones, finest first.
    """

    def __init__(
        self,
        joints_weight: float = 1000.0,
        vertices_weight: float = 100.0,
        joints_2d_weight: float = 100.0,
        level_weights: Sequence[float] = (0.33, 0.33, 0.33),
    ) -> None:
        super().__init__()
        self.joints_weight = joints_weight
        self.vertices_weight = vertices_weight
        self.joints_2d_weight = joints_2d_weight
        self.level_weights = tuple(level_weights)

    def totals(self, has_mesh: Tensor, has_joints_3d: Tensor) -> dict[str, Tensor]:
        """Over how many images of a batch the means are, scalars; ``has_...`` (B,) bool."""
        known = {"images": torch.ones_like(has_mesh), "meshes": has_mesh, "joints": has_joints_3d}
        return {name: total_over_processes(count.sum().float()) for name, count in known.items()}

    def forward(
        self,
        outputs: Mapping[str, Any],
        targets: Mapping[str, Any],
        totals: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Judge joints, which come twice: as tokens, and regressed from the full mesh; and meshes.

        Args:
            outputs: ``camera`` (B, 3); ``joint_tokens`` and ``mesh_joints`` (B, J, 3);
                ``meshes``, a sequence of (B, V, 3): the full one, then the coarser, finest first.
            targets: ``meshes`` likewise, ``has_mesh`` (B,) bool; ``joints_3d`` (B, J, 4) and
                ``has_joints_3d`` (B,) bool; ``joints_2d`` (B, J, 3); see the functions above.
            totals: of the batch that these images are a part of; by default their own.

        Returns:
            Weighted scalars ``loss_joints_3d``, ``loss_joints_2d`` of the tokens,
            ``loss_mesh_joints_3d``, ``loss_mesh_joints_2d`` of the mesh, ``loss_vertices`` of the
            full mesh and ``loss_vertices_1``, ``loss_vertices_2`` of the coarser ones.
        """
        losses, totals = {}, totals or {}
        for name, joints in (
            ("joints", outputs["joint_tokens"].float()),
            ("mesh_joints", outputs["mesh_joints"].float()),
        ):
            losses[f"loss_{name}_3d"] = self.joints_weight * joints_3d_loss(
                joints, targets["joints_3d"], targets["has_joints_3d"], totals.get("joints")
            )
            losses[f"loss_{name}_2d"] = self.joints_2d_weight * joints_2d_loss(
                joints, outputs["camera"].float(), targets["joints_2d"], totals.get("images")
            )
        levels = zip(self.level_weights, outputs["meshes"], targets["meshes"], strict=True)
        for level, (weight, mesh, true_mesh) in enumerate(levels):
            name = f"loss_vertices_{level}" if level else "loss_vertices"
            losses[name] = (self.vertices_weight * weight) * vertices_loss(
                mesh.float(), true_mesh, targets["has_mesh"], totals.get("meshes")
            )
        return losses

"""Pose correctives: how bending a joint moves vertices beyond linear blend skinning.

Skinning alone makes limbs thin where they bend or twist. SMPL mends that with displacements that
are linear in the entries of R - I of every joint's rotation R. Of these, with b the direction of a
joint's bone in the rest pose,

    1 - b.Rb                    says how far it bends (0 to 2),
    1 - (trace R - b.Rb) / 2    how far it twists,
    c.Rb, c across b            to which side it bends.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mannequin.skinning import bones
from projects.metro.body.skeleton import SMPL_JOINTS, SMPL_PARENTS

LONGEST_OFFSET = 0.07  # metres from the bone; trunks are wider, but do not get that thin


@dataclass(frozen=True)
class Bend:
    """What a joint's bending does."""

    fill: float  # share of the distance from the bone that is added all round, at 90 degrees
    hinge: float = 0.0  # the same, on the outer side of a joint that bends to one side only
    side: tuple[float, float, float] = (0, 0, 0)  # where a hinge's bone turns to, left and right
    muscle: float = 0.0  # metres by which the middle of the bone above swells on the inner side


BENDS = {
    "Hip": Bend(fill=0.14),
    "Knee": Bend(fill=0.06, hinge=0.30, side=(0, 0, -1), muscle=0.004),
    "Ankle": Bend(fill=0.10),
    "Shoulder": Bend(fill=0.10),
    "Elbow": Bend(fill=0.06, hinge=0.30, side=(0, 0, 1), muscle=0.006),
    "Wrist": Bend(fill=0.12),
    "Neck": Bend(fill=0.10),
    "Head": Bend(fill=0.08),
    "Spine1": Bend(fill=0.06),
    "Spine2": Bend(fill=0.06),
    "Spine3": Bend(fill=0.06),
    "Collar": Bend(fill=0.05),
    "Foot": Bend(fill=0.05),
    "Hand": Bend(fill=0.05),
}


def pose_directions(points: np.ndarray, joints: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Displacements per entry of R - I.

    Args:
        points: (V, 3) vertices in the rest pose.
        joints: (24, 3).
        weights: (V, 24) skinning weights.

    Returns:
        (V, 3, 207) float64 metres; entry 9 (j - 1) + 3 a + c belongs to row a, column c of joint j.
    """
    found = np.zeros((len(points), 3, 23, 3, 3))
    owners, start, end = bones(joints)
    for joint in range(1, len(joints)):
        bone = int(np.flatnonzero(owners == joint)[0])
        along = end[bone] - start[bone]
        along = along / np.linalg.norm(along)
        terms = displacements(points, joints, weights, joint, along)
        for measure, displacement in terms:
            found[:, :, joint - 1] += displacement[:, :, None, None] * measure
    return found.reshape(len(points), 3, 207)


def displacements(
    points: np.ndarray, joints: np.ndarray, weights: np.ndarray, joint: int, along: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of a measure, (3, 3) factors of the entries of R - I, and what it moves (V, 3) by."""
    name, parent = SMPL_JOINTS[joint], SMPL_PARENTS[joint]
    bend = BENDS[name.split("_")[-1]]
    bent = -np.outer(along, along)
    twisted = -(np.eye(3) - np.outer(along, along)) / 2
    seam = 4 * weights[:, joint] * weights[:, parent]  # 1 where both move a vertex alike
    across = offsets_from(points, joints[joint], along)
    yield bent, bend.fill * seam[:, None] * across
    yield twisted, bend.fill * seam[:, None] * across
    if bend.hinge:
        side = np.array(bend.side)
        outer = np.clip(-(across @ side) / (np.linalg.norm(across, axis=1) + 1e-9), 0, 1) ** 2
        yield bent, bend.hinge * (seam * outer)[:, None] * across
        middle = (joints[joint] + joints[parent]) / 2
        belly = np.exp(-(((points - middle) / 0.07) ** 2).sum(axis=1)) * weights[:, parent]
        inner = np.clip((points - middle) @ side / 0.04, 0, 1)
        yield np.outer(side, along), bend.muscle * (belly * inner)[:, None] * side


def offsets_from(points: np.ndarray, joint: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Offsets (V, 3) of points from the line through a joint, long ones shortened."""
    across = points - joint
    across = across - np.outer(across @ along, along)
    length = np.linalg.norm(across, axis=1, keepdims=True) + 1e-9
    return across * (LONGEST_OFFSET * np.tanh(length / LONGEST_OFFSET) / length)

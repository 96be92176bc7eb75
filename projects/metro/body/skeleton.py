"""The joints of METRO: SMPL's 24, Human3.6M's 17, and the 14 of them that METRO predicts.

``R_`` and ``L_`` are the person's own right and left.
"""

from typing import TypeVar

import numpy as np
import torch

Array = TypeVar("Array", np.ndarray, torch.Tensor)

SMPL_JOINTS = (
    "Pelvis", "L_Hip", "R_Hip", "Spine1", "L_Knee", "R_Knee",
    "Spine2", "L_Ankle", "R_Ankle", "Spine3", "L_Foot", "R_Foot",
    "Neck", "L_Collar", "R_Collar", "Head", "L_Shoulder", "R_Shoulder",
    "L_Elbow", "R_Elbow", "L_Wrist", "R_Wrist", "L_Hand", "R_Hand",
)  # fmt: skip

# A joint's parent in SMPL's tree; a parent always comes before its children. -1: the root has none.
SMPL_PARENTS = (
    *(-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8),
    *(9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21),
)

H36M_JOINTS = (
    "Pelvis", "R_Hip", "R_Knee", "R_Ankle", "L_Hip", "L_Knee", "L_Ankle", "Torso", "Neck", "Nose",
    "Head", "L_Shoulder", "L_Elbow", "L_Wrist", "R_Shoulder", "R_Elbow", "R_Wrist",
)  # fmt: skip

H36M_PELVIS = H36M_JOINTS.index("Pelvis")

JOINTS_FROM_H36M = (3, 2, 1, 4, 5, 6, 16, 15, 14, 11, 12, 13, 8, 10)
JOINTS = tuple(H36M_JOINTS[joint] for joint in JOINTS_FROM_H36M)


def mirrored(names: tuple[str, ...]) -> tuple[int, ...]:
    """For every joint the index of the one that it becomes in a mirror."""
    other_side = {"L": "R", "R": "L"}
    return tuple(
        names.index(other_side[name[0]] + name[1:] if name[1] == "_" else name) for name in names
    )


SMPL_MIRROR = mirrored(SMPL_JOINTS)
JOINTS_MIRROR = mirrored(JOINTS)

RIGHT_HIP, LEFT_HIP = JOINTS.index("R_Hip"), JOINTS.index("L_Hip")


def root_relative(joints: Array) -> Array:
    """Joints (..., 14, 3) in the order of ``JOINTS`` seen from the point between the hips.

    METRO's joint loss and MPJPE compare such positions.
    """
    mid_hip = (joints[..., RIGHT_HIP, :] + joints[..., LEFT_HIP, :]) / 2
    return joints - mid_hip[..., None, :]

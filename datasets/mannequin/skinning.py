"""Skinning weights by heat diffusion: which bones a vertex moves with.

Every vertex is warmed by its nearest bone, the more the nearer it is, and heat flows along the
surface (I. Baran and J. Popović, "Automatic rigging and animation of 3D characters", 2007).
"""

import numpy as np
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import splu

from projects.metro.body.skeleton import SMPL_JOINTS, SMPL_PARENTS

MOST_BONES = 4  # per vertex

# Where the bones of joints without children end, relative to the joint; of left joints.
TIPS = {"Head": (0, 0.13, 0), "L_Hand": (0.08, 0, 0), "L_Foot": (0.01, -0.01, 0.06)}


def bones(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The stretches that joints move: from a joint to each of its children, or to its tip.

    Args:
        joints: (24, 3) places of SMPL's joints.

    Returns:
        the joint (n,) that moves each stretch, its start and its end (n, 3).
    """
    owners = [parent for parent in SMPL_PARENTS if parent >= 0]
    ends = [joints[child] for child, parent in enumerate(SMPL_PARENTS) if parent >= 0]
    for name, tip in TIPS.items():
        for side, name_there in ((1, name), (-1, name.replace("L_", "R_"))):
            joint = SMPL_JOINTS.index(name_there)
            if joint not in owners:
                owners.append(joint)
                ends.append(joints[joint] + np.array(tip) * [side, 1, 1])
    return np.array(owners), joints[owners], np.array(ends)


def nearest_on_bones(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The nearest point (V, n, 3) to each point (V, 3) on each stretch from start to end (n, 3)."""
    along = end - start
    share = ((points[:, None] - start) * along).sum(axis=2) / (along**2).sum(axis=1)
    return start + np.clip(share, 0, 1)[:, :, None] * along


def skin_weights(points: np.ndarray, faces: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """How much a vertex moves with each joint.

    Args:
        points: (V, 3).
        faces: (F, 3) of a closed mesh.
        joints: (24, 3).

    Returns:
        (V, 24) float64: non-negative, at most four per row are not 0, rows sum to 1.
    """
    owners, start, end = bones(joints)
    distances = np.linalg.norm(points[:, None] - nearest_on_bones(points, start, end), axis=2)
    nearest = distances.min(axis=1)
    # Two bones that meet in a joint are equally near to what surrounds it: they share.
    equally_near = (distances < nearest[:, None] + 1e-6).astype(np.float64)
    belongs = np.zeros((len(points), len(joints)))
    np.add.at(belongs.T, owners, equally_near.T)
    belongs = (belongs > 0) / (belongs > 0).sum(axis=1, keepdims=True)
    stiffness, areas = laplacian(points, faces)
    heating = areas / nearest**2
    weights = splu((stiffness + diags_array(heating)).tocsc()).solve(heating[:, None] * belongs)
    return few(weights)


def few(weights: np.ndarray) -> np.ndarray:
    """At most ``MOST_BONES`` weights per row, without a jump where the choice changes."""
    fifth = np.sort(weights, axis=1)[:, -MOST_BONES - 1, None]
    weights = np.maximum(weights - np.maximum(fifth, 0), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def laplacian(points: np.ndarray, faces: np.ndarray) -> tuple[coo_array, np.ndarray]:
    """The cotangent Laplacian (V, V), positive semi-definite, and the area (V,) of each vertex."""
    rows, columns, values = [], [], []
    for corner in range(3):
        at, a, b = faces[:, corner], faces[:, corner - 2], faces[:, corner - 1]
        u, v = points[a] - points[at], points[b] - points[at]
        twice_area = np.linalg.norm(np.cross(u, v), axis=1)
        half_cotangent = np.maximum((u * v).sum(axis=1) / twice_area, 0.01) / 2
        rows += [a, b, a, b]
        columns += [b, a, a, b]
        values += [-half_cotangent, -half_cotangent, half_cotangent, half_cotangent]
    shape = (len(points), len(points))
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    areas = np.bincount(faces.ravel(), np.repeat(twice_area / 6, 3), len(points))
    return coo_array(entries, shape), areas

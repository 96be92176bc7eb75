"""Joint regressors: joints as weighted means of the vertices around them."""

import numpy as np

# Seen from a joint: the sides, edges and corners of a cube.
DIRECTIONS = np.array(
    [[x, y, z] for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if x or y or z], float
)
DIRECTIONS /= np.linalg.norm(DIRECTIONS, axis=1, keepdims=True)


def regressor(points: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Weights by which vertices give joints.

    Args:
        points: (V, 3) vertices.
        joints: (J, 3) places inside the mesh, or on it.

    Returns:
        (J, V) float64, at most 27 weights per row, none negative; rows sum to 1, and
        ``regressor @ points`` is ``joints``, to rounding.

    Raises:
        ValueError: a joint is outside the mesh.
    """
    found = np.zeros((len(joints), len(points)))
    for row, joint in zip(found, joints, strict=True):
        around = vertices_around(points, joint)
        row[around] = even_weights(points[around] - joint)
        if np.abs(row @ points - joint).max() > 1e-9:
            raise ValueError(f"the joint at {joint.tolist()} is not within the mesh")
    return found


def vertices_around(points: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """Indices of the vertices that are nearest to a joint in each of the directions from it."""
    offsets = points - joint
    distances = np.linalg.norm(offsets, axis=1) + 1e-9
    cosines = (offsets / distances[:, None]) @ DIRECTIONS.T
    # What lies off the direction counts as further away.
    cost = distances[:, None] * (1 + 8 * (1 - cosines))
    return np.unique([distances.argmin(), *cost.argmin(axis=0)])


def even_weights(offsets: np.ndarray) -> np.ndarray:
    """Weights (n,), as equal as can be, whose sum is 1 and whose weighted mean offset is 0.

    None is negative. Where no such weights are found the sum or the mean is another.
    """
    count = len(offsets)
    constraints = np.vstack([offsets.T, np.ones(count)])  # (4, n)
    wanted = np.array([0, 0, 0, 1.0])
    used = np.ones(count, bool)
    # The smallest change of equal weights; what would be negative is left out.
    while True:
        missing = wanted - constraints @ (used / count)
        change = np.linalg.lstsq(constraints[:, used], missing, rcond=None)[0]
        weights = np.zeros(count)
        weights[used] = 1 / count + change
        if (weights >= 0).all():
            return weights
        used &= weights > 0

"""Points on a mesh as sums of vertices of a coarser one."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

NUM_SOURCES = 6
# Of the spread of the sources: how much near a tie of many solutions equal weights are preferred.
RIDGE = 1e-3


def interpolation_weights(
    points: NDArray[np.float64], sources: NDArray[np.float64], num_sources: int = NUM_SOURCES
) -> NDArray[np.float64]:
    """Weights that give points back from the sources nearest to each.

    The weights of a point sum to 1 and come as near to it as its sources allow, so that whatever
    moves, turns or scales all sources alike does the same to the point (the weights of locally
    linear embedding: Roweis and Saul, Science 290, 2000).

    Args:
        points: (P, 3).
        sources: (S, 3).
        num_sources: how many have a weight other than 0; at most S.

    Returns:
        (P, S); ``weights @ sources`` is almost ``points``.
    """
    num_sources = min(num_sources, len(sources))
    _, nearest = cKDTree(sources).query(points, k=np.arange(1, num_sources + 1))  # (P, K)
    offsets = sources[nearest] - points[:, None]  # (P, K, 3)
    products = offsets @ offsets.transpose(0, 2, 1)  # (P, K, K)
    spread = np.trace(products, axis1=1, axis2=2)[:, None, None]
    products += (RIDGE * spread + 1e-12) * np.eye(num_sources)
    solved = np.linalg.solve(products, np.ones((len(points), num_sources, 1)))[..., 0]
    weights = np.zeros((len(points), len(sources)))
    np.put_along_axis(weights, nearest, solved / solved.sum(axis=1, keepdims=True), axis=1)
    return weights

"""Signed distance functions: solids that know how far a point is from them, and their smooth union.

Distances are metres, negative inside, and exact enough near the surface to find it. Points are
(n, 3) float64: x to the person's left, y up, z to the front.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

FAR = 1.0  # what stands for the distance of a point that no solid is near to
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class ImplicitSolid:
    """Something with an inside."""

    bounds: np.ndarray  # lowest and highest corner (2, 3) of a box around it
    distance: Callable[[np.ndarray], np.ndarray]  # signed distances (n,) of points (n, 3)


def loft(axis: int, rows: Sequence[Sequence[float]], caps: tuple[float, float]) -> ImplicitSolid:
    """A solid through ovals across an axis, closed by half ellipsoids at its ends.

    Args:
        axis: 0, 1 or 2 for x, y, z; u and v are the two others in this order.
        rows: the ovals in increasing order of their place on the axis: that place, the centre's u
            and v, and the half-widths to +u, -u, +v, -v. A single row gives an ellipsoid.
        caps: how far the ends reach beyond the first and the last oval.
    """
    table = np.array(rows)
    place, u, v, *sides = table.T
    box = [
        [(u - sides[1]).min(), (u + sides[0]).max()],
        [(v - sides[3]).min(), (v + sides[2]).max()],
    ]
    box.insert(axis, [place[0] - caps[0], place[-1] + caps[1]])
    others = [other for other in range(3) if other != axis]
    between = PchipInterpolator(place, table[:, 1:]) if len(table) > 1 else None

    def distance(points: np.ndarray) -> np.ndarray:
        """Along the ray to the centre of the cross-section."""
        clipped = np.clip(points[:, axis], place[0], place[-1])
        sections = between(clipped) if between else np.repeat(table[:, 1:], len(points), axis=0)
        centre_u, centre_v, *radii_of = sections.T
        offsets = [
            points[:, others[0]] - centre_u,
            points[:, others[1]] - centre_v,
            points[:, axis] - clipped,
        ]
        radii = [
            np.where(offsets[0] > 0, radii_of[0], radii_of[1]),
            np.where(offsets[1] > 0, radii_of[2], radii_of[3]),
            np.where(offsets[2] > 0, caps[1], caps[0]),
        ]
        length = np.sqrt(sum(offset**2 for offset in offsets)) + 1e-9
        ratio = np.sqrt(sum((o / r) ** 2 for o, r in zip(offsets, radii, strict=True))) + 1e-9
        # On the axis itself there is no ray; inside, the nearer wall is about the smaller radius.
        return np.maximum(length - length / ratio, -np.minimum(radii[0], radii[1]))

    return ImplicitSolid(np.array(box).T, distance)


def ellipsoid(centre: Triple, radii: Triple) -> ImplicitSolid:
    """An ellipsoid along the axes."""
    (x, y, z), (width, height, depth) = centre, radii
    return loft(1, [(y, x, z, width, width, depth, depth)], (height, height))


def cone(start: Triple, end: Triple, radii: tuple[float, float]) -> ImplicitSolid:
    """A rod with round ends from ``start`` to ``end``, of radii that change evenly."""
    ends, along = np.array([start, end]), np.subtract(end, start)

    def distance(points: np.ndarray) -> np.ndarray:
        share = np.clip((points - ends[0]) @ along / (along @ along), 0, 1)
        radius = radii[0] + share * (radii[1] - radii[0])
        return np.linalg.norm(points - ends[0] - share[:, None] * along, axis=1) - radius

    bounds = np.stack([ends.min(axis=0) - max(radii), ends.max(axis=0) + max(radii)])
    return ImplicitSolid(bounds, distance)


def mirrored(solid: ImplicitSolid) -> ImplicitSolid:
    """A solid on the other side of the plane x = 0."""
    low, high = solid.bounds
    bounds = np.array([[-high[0], *low[1:]], [-low[0], *high[1:]]])
    return ImplicitSolid(bounds, lambda points: solid.distance(points * [-1, 1, 1]))


def both(*solids: ImplicitSolid) -> list[ImplicitSolid]:
    """Solids of the left side, and those of the right side after them."""
    return [*solids, *map(mirrored, solids)]


def smooth_union(solids: Sequence[ImplicitSolid], blend: float) -> ImplicitSolid:
    """Solids that melt into each other over ``blend`` metres.

    The distance is -blend * log(sum of exp(-distance / blend)), and ``FAR`` where no solid is near.
    """
    low, high = np.array([solid.bounds for solid in solids]).transpose(1, 0, 2)
    reach = 6 * blend  # what lies further off adds less than can be seen

    def distance(points: np.ndarray) -> np.ndarray:
        total = np.zeros(len(points))
        for solid in solids:
            near = (points > solid.bounds[0] - reach) & (points < solid.bounds[1] + reach)
            near = near.all(axis=1)
            total[near] += np.exp(-solid.distance(points[near]) / blend)
        found = total > 0
        distances = np.full(len(points), FAR)
        distances[found] = np.minimum(-blend * np.log(total[found]), FAR)
        return distances

    return ImplicitSolid(np.stack([low.min(axis=0) - blend, high.max(axis=0) + blend]), distance)


def above_floor(solid: ImplicitSolid, floor: float, rounding: float) -> ImplicitSolid:
    """What of a solid is above a height, with a rounded edge."""

    def distance(points: np.ndarray) -> np.ndarray:
        sides = [solid.distance(points), floor - points[:, 1]]
        return rounding * np.logaddexp(*(side / rounding for side in sides))

    return ImplicitSolid(solid.bounds, distance)


def gradient(solid: ImplicitSolid, points: np.ndarray, step: float = 1e-4) -> np.ndarray:
    """Gradients (n, 3) of a solid's distance at points (n, 3), by central differences."""
    found = []
    for offset in step * np.eye(3):
        found.append(solid.distance(points + offset) - solid.distance(points - offset))
    return np.stack(found, axis=1) / (2 * step)


def project(solid: ImplicitSolid, points: np.ndarray, steps: int = 3) -> np.ndarray:
    """Move points (n, 3) that are near a solid's surface onto it, by Newton's method."""
    for _ in range(steps):
        slope = gradient(solid, points)
        share = solid.distance(points) / np.maximum((slope**2).sum(axis=1), 1e-2)
        points = points - share[:, None] * slope
    return points

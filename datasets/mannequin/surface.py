"""Smooth implicit surfaces: solids that know how far a point is from them, and their union.

Distances are metres, negative inside, and exact enough near the surface to find it. Points are
(n, 3) float64: x to the person's left, y up, z to the front.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from scipy.interpolate import PchipInterpolator

FAR = 1.0  # what stands for the distance of a point that no solid is near to


class Solid(Protocol):
    """Something with an inside."""

    @property
    def bounds(self) -> np.ndarray:
        """Lowest and highest corner (2, 3) of a box around it."""

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Distances (n,) of points (n, 3)."""


@dataclass(frozen=True)
class Station:
    """One cross-section of a loft: an oval whose two halves may differ along each axis.

    Attributes:
        at: where, along the loft's axis.
        centre: along the two other axes, in the order x, y, z.
        widths: its half-widths on the positive and negative side of the first other axis.
        depths: the same for the second.
    """

    at: float
    centre: tuple[float, float]
    widths: tuple[float, float]
    depths: tuple[float, float]


@dataclass(frozen=True)
class Loft:
    """A solid through ovals along x, y or z, closed by half ellipsoids at its ends.

    Attributes:
        axis: 0, 1 or 2 for x, y, z.
        stations: in increasing order of ``at``; a single one gives an ellipsoid.
        caps: how far the ends reach beyond the first and the last station.
    """

    axis: int
    stations: Sequence[Station]
    caps: tuple[float, float]
    _table: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rows = [[s.at, *s.centre, *s.widths, *s.depths] for s in self.stations]
        object.__setattr__(self, "_table", np.array(rows))

    @property
    def bounds(self) -> np.ndarray:
        """Lowest and highest corner (2, 3) of a box around it."""
        at, u, v, *sides = self._table.T
        along = [at[0] - self.caps[0], at[-1] + self.caps[1]]
        box = [[(u - sides[1]).min(), (u + sides[0]).max()]]
        box.append([(v - sides[3]).min(), (v + sides[2]).max()])
        box.insert(self.axis, along)
        return np.array(box).T

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Distances (n,) of points (n, 3), along the ray to the centre of the cross-section."""
        at = points[:, self.axis]
        u, v = points[:, [axis for axis in range(3) if axis != self.axis]].T
        first, last = self._table[0, 0], self._table[-1, 0]
        centre_u, centre_v, *sides = self._sections(np.clip(at, first, last))
        offsets = [u - centre_u, v - centre_v, at - np.clip(at, first, last)]
        radii = [
            np.where(offsets[0] > 0, sides[0], sides[1]),
            np.where(offsets[1] > 0, sides[2], sides[3]),
            np.where(offsets[2] > 0, self.caps[1], self.caps[0]),
        ]
        length = np.sqrt(sum(offset**2 for offset in offsets)) + 1e-9
        ratio = np.sqrt(sum((o / r) ** 2 for o, r in zip(offsets, radii, strict=True))) + 1e-9
        # On the axis itself there is no ray; inside, the nearer wall is about the smaller radius.
        return np.maximum(length - length / ratio, -np.minimum(radii[0], radii[1]))

    def _sections(self, at: np.ndarray) -> np.ndarray:
        """Centres and radii (6, n) at places along the axis."""
        if len(self._table) == 1:
            return np.repeat(self._table[:1, 1:].T, len(at), axis=1)
        return PchipInterpolator(self._table[:, 0], self._table[:, 1:])(at).T


@dataclass(frozen=True)
class Cone:
    """A rod with round ends from ``start`` to ``end``, of radii that change evenly."""

    start: tuple[float, float, float]
    end: tuple[float, float, float]
    radii: tuple[float, float]

    @property
    def bounds(self) -> np.ndarray:
        """Lowest and highest corner (2, 3) of a box around it."""
        ends, radius = np.array([self.start, self.end]), max(self.radii)
        return np.stack([ends.min(axis=0) - radius, ends.max(axis=0) + radius])

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Distances (n,) of points (n, 3)."""
        start, along = np.array(self.start), np.subtract(self.end, self.start)
        share = np.clip((points - start) @ along / (along @ along), 0, 1)
        radius = self.radii[0] + share * (self.radii[1] - self.radii[0])
        return np.linalg.norm(points - start - share[:, None] * along, axis=1) - radius


@dataclass(frozen=True)
class Mirrored:
    """A solid on the other side of the plane x = 0."""

    solid: Solid

    @property
    def bounds(self) -> np.ndarray:
        """Lowest and highest corner (2, 3) of a box around it."""
        low, high = self.solid.bounds
        return np.array([[-high[0], *low[1:]], [-low[0], *high[1:]]])

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Distances (n,) of points (n, 3)."""
        return self.solid.distance(points * [-1, 1, 1])


@dataclass(frozen=True)
class Union:
    """Solids that melt into each other.

    Attributes:
        solids: the parts.
        blend: metres over which they melt: the distance is
            -blend * log(sum of exp(-distance / blend)).
    """

    solids: Sequence[Solid]
    blend: float

    @property
    def bounds(self) -> np.ndarray:
        """Lowest and highest corner (2, 3) of a box around it."""
        low, high = np.array([solid.bounds for solid in self.solids]).transpose(1, 0, 2)
        return np.stack([low.min(axis=0) - self.blend, high.max(axis=0) + self.blend])

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Distances (n,) of points (n, 3); ``FAR`` where no solid is near."""
        total = np.zeros(len(points))
        reach = 6 * self.blend  # what lies further off adds less than can be seen
        for solid in self.solids:
            low, high = solid.bounds
            near = ((points > low - reach) & (points < high + reach)).all(axis=1)
            total[near] += np.exp(-solid.distance(points[near]) / self.blend)
        found = total > 0
        distances = np.full(len(points), FAR)
        distances[found] = np.minimum(-self.blend * np.log(total[found]), FAR)
        return distances


@dataclass(frozen=True)
class AboveFloor:
    """What of a solid is above a height, with a rounded edge."""

    solid: Solid
    floor: float
    rounding: float

    @property
    def bounds(self) -> np.ndarray:
        """Lowest and highest corner (2, 3) of a box around it."""
        return self.solid.bounds

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Distances (n,) of points (n, 3)."""
        sides = [self.solid.distance(points), self.floor - points[:, 1]]
        return self.rounding * np.logaddexp(*(side / self.rounding for side in sides))


def gradient(solid: Solid, points: np.ndarray, step: float = 1e-4) -> np.ndarray:
    """Gradients (n, 3) of a solid's distance at points (n, 3), by central differences."""
    found = []
    for offset in step * np.eye(3):
        found.append(solid.distance(points + offset) - solid.distance(points - offset))
    return np.stack(found, axis=1) / (2 * step)


def project(solid: Solid, points: np.ndarray, steps: int = 3) -> np.ndarray:
    """Move points (n, 3) that are near a solid's surface onto it, by Newton's method."""
    for _ in range(steps):
        slope = gradient(solid, points)
        share = solid.distance(points) / np.maximum((slope**2).sum(axis=1), 1e-2)
        points = points - share[:, None] * slope
    return points

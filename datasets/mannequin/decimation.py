"""Mesh decimation: fewer vertices for a closed mesh, without moving those that stay.

An edge is collapsed onto one of its ends, the shortest one first. What is closed, without boundary
and of genus 0 stays so: an edge whose ends have more than the two common neighbours of its faces is
never collapsed (the link condition).
"""

import heapq

import numpy as np

Point = tuple[float, float, float]

MOST_NEIGHBOURS = 10
# A collapse must leave no face that is turned by more than about 70 degrees from what its corners
# face, or flatter than this share of an equilateral one.
LEAST_COSINE = 0.35
LEAST_SHAPE = 0.25


def decimate(
    points: np.ndarray,
    faces: np.ndarray,
    normals: np.ndarray,
    fineness: np.ndarray,
    count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose ``count`` vertices of a closed mesh and the faces between them.

    Args:
        points: (n, 3) float64.
        faces: (2 n - 4, 3) outward faces.
        normals: (n, 3) unit vectors, where the surface faces at the points.
        fineness: (n,) positive, how long edges should be at the points, relative to others.
        count: how many vertices to keep.

    Returns:
        indices (count,) of the vertices that stay, increasing, and faces (2 count - 4, 3) int32,
        indices into these.

    Raises:
        ValueError: no edge can be collapsed any more.
    """
    mesh = Decimation(points, faces, normals, fineness)
    mesh.collapse_down_to(count)
    kept = np.array(sorted(mesh.alive))
    remaining = np.array(sorted(mesh.faces.values()))
    return kept, np.searchsorted(kept, remaining).astype(np.int32)


class Decimation:
    """A triangle mesh that loses one vertex at a time; arguments as those of ``decimate``."""

    def __init__(
        self, points: np.ndarray, faces: np.ndarray, normals: np.ndarray, fineness: np.ndarray
    ):
        # Plain Python numbers: arrays of three are several times slower.
        self.points: list[Point] = [tuple(point) for point in points.tolist()]
        self.normals: list[Point] = [tuple(normal) for normal in normals.tolist()]
        self.fineness: list[float] = fineness.tolist()
        self.faces: dict[int, tuple[int, ...]] = dict(enumerate(map(tuple, faces.tolist())))
        self.alive = set(range(len(points)))
        self.faces_of: list[set[int]] = [set() for _ in points]
        for number, face in self.faces.items():
            for vertex in face:
                self.faces_of[vertex].add(number)
        edges = {
            (min(edge), max(edge))
            for a, b, c in self.faces.values()
            for edge in ((a, b), (b, c), (c, a))
        }
        self.heap = [(self.length(a, b), a, b) for a, b in edges]
        heapq.heapify(self.heap)

    def length(self, a: int, b: int) -> float:
        """An edge's length relative to what it should be."""
        wanted = (self.fineness[a] + self.fineness[b]) / 2
        along = minus(self.points[a], self.points[b])
        return dot(along, along) ** 0.5 / wanted

    def collapse_down_to(self, count: int) -> None:
        """Collapse edges until ``count`` vertices are left.

        Raises:
            ValueError: no edge can be collapsed any more.
        """
        while len(self.alive) > count:
            if not self.heap:
                raise ValueError(f"cannot take the mesh below {len(self.alive)} vertices")
            _, a, b = heapq.heappop(self.heap)
            if a not in self.alive or b not in self.alive:
                continue
            if len(self.neighbours(a) & self.neighbours(b)) != 2:
                continue
            of_a, of_b = self.outcome(a, b), self.outcome(b, a)
            if max(of_a, of_b) > 0:
                self.collapse(*((a, b) if of_a >= of_b else (b, a)))

    def neighbours(self, vertex: int) -> set[int]:
        """Vertices that share a face with one."""
        return {other for face in self.faces_of[vertex] for other in self.faces[face]} - {vertex}

    def outcome(self, gone: int, kept: int) -> float:
        """The worst shape of a face if ``gone`` moves onto ``kept``; 0 if that must not be."""
        changed = self.faces_of[gone] - self.faces_of[kept]
        if len(changed) + len(self.faces_of[kept]) - 2 > MOST_NEIGHBOURS:
            return 0.0
        worst = 1.0
        for number in changed:
            corners = [kept if vertex == gone else vertex for vertex in self.faces[number]]
            facing, size, shape = triangle(*(self.points[vertex] for vertex in corners))
            least = LEAST_COSINE * size
            if shape < LEAST_SHAPE or any(
                dot(facing, self.normals[vertex]) < least for vertex in corners
            ):
                return 0.0
            worst = min(worst, shape)
        return worst

    def collapse(self, gone: int, kept: int) -> None:
        """Move a vertex onto its neighbour; the two faces between them vanish."""
        for number in self.faces_of[gone] & self.faces_of[kept]:
            for vertex in self.faces.pop(number):
                self.faces_of[vertex].discard(number)
        for number in self.faces_of[gone]:
            self.faces[number] = tuple(kept if v == gone else v for v in self.faces[number])
        self.faces_of[kept] |= self.faces_of[gone]
        self.faces_of[gone] = set()
        self.alive.discard(gone)
        for other in sorted(self.neighbours(kept)):
            entry = (self.length(kept, other), min(kept, other), max(kept, other))
            heapq.heappush(self.heap, entry)


def minus(first: Point, second: Point) -> Point:
    """Difference."""
    return first[0] - second[0], first[1] - second[1], first[2] - second[2]


def dot(first: Point, second: Point) -> float:
    """Scalar product."""
    return first[0] * second[0] + first[1] * second[1] + first[2] * second[2]


def triangle(a: Point, b: Point, c: Point) -> tuple[Point, float, float]:
    """A triangle's normal, twice its area long; twice its area; and its shape.

    The shape is 1 for an equilateral triangle and 0 for one without area.
    """
    u, v, w = minus(b, a), minus(c, a), minus(c, b)
    facing = (u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0])
    twice_area = dot(facing, facing) ** 0.5
    squares = dot(u, u) + dot(w, w) + dot(v, v)
    return facing, twice_area, 2 * 3**0.5 * twice_area / squares if squares else 0.0

"""Fewer vertices for a closed triangle mesh, without moving those that stay.

An edge is collapsed onto one of its ends, the shortest one first. What is closed, without boundary
and of genus 0 stays so: an edge whose ends have more than the two common neighbours of its faces is
never collapsed (the link condition).
"""

import heapq

import numpy as np

Point = tuple[float, float, float]

MOST_NEIGHBOURS = 10
# A collapse must leave no face that is turned by more than about 70 degrees from what its corners
# face, or flatter than this share of an equilateral one. Where no such edge is left, the demands
# are halved.
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
    strictness = 1.0
    while mesh.num_vertices > count:
        if not mesh.collapse_down_to(count, strictness):
            strictness /= 2
            if strictness < 0.01:
                raise ValueError(f"cannot take the mesh below {mesh.num_vertices} vertices")
    kept = np.array(sorted(mesh.alive))
    number = np.full(len(points), -1)
    number[kept] = np.arange(count)
    remaining = np.array(sorted(mesh.faces.values()))
    return kept, number[remaining].astype(np.int32)


class Decimation:
    """A triangle mesh that loses one vertex at a time.

    Args:
        points: (n, 3).
        faces: (m, 3).
        normals: (n, 3), what faces are compared with.
        fineness: (n,) what an edge's length is divided by before edges are compared.
    """

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
        edges = np.unique(
            np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1), axis=0
        )
        self.heap = [(self.length(a, b), a, b) for a, b in edges.tolist()]
        heapq.heapify(self.heap)

    @property
    def num_vertices(self) -> int:
        """How many vertices are left."""
        return len(self.alive)

    def length(self, a: int, b: int) -> float:
        """An edge's length relative to what it should be."""
        wanted = (self.fineness[a] + self.fineness[b]) / 2
        return (
            sum((p - q) ** 2 for p, q in zip(self.points[a], self.points[b], strict=True)) ** (0.5)
            / wanted
        )

    def collapse_down_to(self, count: int, strictness: float) -> bool:
        """Collapse edges until ``count`` vertices are left or no edge will do; was there any?"""
        refused = []
        collapsed = False
        while self.heap and self.num_vertices > count:
            entry = heapq.heappop(self.heap)
            _, a, b = entry
            if a not in self.alive or b not in self.alive:
                continue
            choices = [0.0, 0.0]
            if len(self.neighbours(a) & self.neighbours(b)) == 2:
                choices = [self.outcome(a, b, strictness), self.outcome(b, a, strictness)]
            best = max(choices)
            if best <= 0:
                refused.append(entry)
                continue
            gone, kept = (a, b) if choices[0] == best else (b, a)
            self.collapse(gone, kept)
            collapsed = True
        for entry in refused:
            heapq.heappush(self.heap, entry)
        return collapsed

    def neighbours(self, vertex: int) -> set[int]:
        """Vertices that share a face with one."""
        return {other for face in self.faces_of[vertex] for other in self.faces[face]} - {vertex}

    def outcome(self, gone: int, kept: int, strictness: float) -> float:
        """The worst shape of a face if ``gone`` moves onto ``kept``; 0 if that must not be."""
        changed = self.faces_of[gone] - self.faces_of[kept]
        if len(changed) + len(self.faces_of[kept]) - 2 > MOST_NEIGHBOURS / strictness:
            return 0.0
        worst = 1.0
        for number in changed:
            corners = [kept if vertex == gone else vertex for vertex in self.faces[number]]
            places = [self.points[vertex] for vertex in corners]
            facing = normal(*places)
            size = dot(facing, facing) ** 0.5
            shape = shape_of(*places, twice_area=size)
            if shape < LEAST_SHAPE * strictness or any(
                dot(facing, self.normals[vertex]) < LEAST_COSINE * strictness * size
                for vertex in corners
            ):
                return 0.0
            worst = min(worst, shape)
        return worst

    def collapse(self, gone: int, kept: int) -> None:
        """Move a vertex onto its neighbour; the two faces between them vanish."""
        for number in list(self.faces_of[gone]):
            face = self.faces[number]
            if kept in face:
                for vertex in face:
                    self.faces_of[vertex].discard(number)
                del self.faces[number]
            else:
                self.faces[number] = tuple(kept if vertex == gone else vertex for vertex in face)
                self.faces_of[kept].add(number)
        self.faces_of[gone] = set()
        self.alive.discard(gone)
        for other in sorted(self.neighbours(kept)):
            entry = (self.length(kept, other), min(kept, other), max(kept, other))
            heapq.heappush(self.heap, entry)


def dot(first: Point, second: Point) -> float:
    """Scalar product."""
    return first[0] * second[0] + first[1] * second[1] + first[2] * second[2]


def normal(a: Point, b: Point, c: Point) -> Point:
    """Normal of a triangle, twice its area long."""
    u = (b[0] - a[0], b[1] - a[1], b[2] - a[2])
    v = (c[0] - a[0], c[1] - a[1], c[2] - a[2])
    return (u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0])


def shape_of(a: Point, b: Point, c: Point, twice_area: float) -> float:
    """1 for an equilateral triangle, 0 for one without area."""
    squares = 0.0
    for p, q in ((a, b), (b, c), (c, a)):
        squares += (p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2 + (p[2] - q[2]) ** 2
    return 2 * 3**0.5 * twice_area / squares if squares else 0.0

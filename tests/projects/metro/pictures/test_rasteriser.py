import numpy as np
import pytest
import trimesh

from projects.metro.pictures import rasteriser
from projects.metro.pictures.rasteriser import NEAR, rasterise, render

SIZE = (40, 48)
K = np.array([[100.0, 0, 24], [0, 100, 20], [0, 0, 1]])
TRIANGLE = np.array([[0, 1, 2]])


def at(pixels, depth=1.0):
    """Points that K shows at pixels (n, 2), at depths."""
    pixels = np.asarray(pixels, dtype=float)
    depth = np.broadcast_to(np.asarray(depth, dtype=float), len(pixels))[:, None]
    return np.column_stack([(pixels - [24, 20]) / 100, np.ones(len(pixels))]) * depth


def face_map(raster, samples=2):
    place, face, _ = raster
    laid_out = np.full(SIZE[0] * SIZE[1] * samples**2, -1)
    laid_out[place] = face
    return laid_out.reshape(SIZE[0] * samples, -1)


def depths(raster, points, faces):
    _, face, weights = raster
    return (weights * points[faces[face]][..., 2]).sum(axis=1)


def sphere(radius, centre, rings=60):
    """A sphere's vertices and its outward faces."""
    mesh = trimesh.creation.uv_sphere(radius, count=(rings, 2 * rings))
    return mesh.vertices + centre, np.asarray(mesh.faces)


# ---- which samples -------------------------------------------------------------------------------
def test_triangle_covers_the_samples_inside_it():
    corners = np.array([(3.3, 2.1), (40.7, 11.9), (17.2, 36.4)])
    raster = rasterise(at(corners), TRIANGLE, K, SIZE, samples=2)
    x, y = np.meshgrid((np.arange(96) + 0.5) / 2 - 0.5, (np.arange(80) + 0.5) / 2 - 0.5)
    inside = np.ones((80, 96), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        inside &= (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) >= 0
    np.testing.assert_array_equal(face_map(raster) >= 0, inside)


def test_neighbours_leave_no_gap_and_no_sample_beyond():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(9), np.arange(9)), axis=2).astype(float)
    grid[1:-1, 1:-1] += rng.uniform(-0.4, 0.4, size=(7, 7, 2))
    pixels = grid.reshape(-1, 2) * 4 + 3.6
    cell = (np.arange(8)[:, None] * 9 + np.arange(8)).ravel()
    faces = np.concatenate(
        [np.stack([cell, cell + 1, cell + 10], 1), np.stack([cell, cell + 10, cell + 9], 1)]
    )
    raster = rasterise(at(pixels, rng.uniform(1, 3, 81)), faces, K, SIZE, samples=4)
    positions = (np.arange(192) + 0.5) / 4 - 0.5
    x, y = np.meshgrid(positions, positions[:160])
    square = (x > 3.6) & (x < 35.6) & (y > 3.6) & (y < 35.6)
    np.testing.assert_array_equal(face_map(raster, 4) >= 0, square)


def test_sphere_has_the_outline_that_geometry_gives():
    radius, distance = 0.3, 2.0
    points, faces = sphere(radius, [0, 0, distance])
    picture = render(points, faces, K, SIZE, colour=(0, 0, 0), samples=8)
    coverage = 1 - picture[..., 0] / 255
    outline = 100 * radius / np.sqrt(distance**2 - radius**2)  # pixels
    assert coverage.sum() == pytest.approx(np.pi * outline**2, rel=0.003)
    x, y = np.meshgrid(np.arange(48) - 24, np.arange(40) - 20)
    away = np.hypot(x, y)
    assert (coverage[away < outline - 0.8] == 1).all()
    assert (coverage[away > outline + 0.8] == 0).all()


# ---- what is nearest -----------------------------------------------------------------------------
def test_depth_and_weights_are_those_of_the_plane():
    points = at([(5, 5), (40, 8), (20, 35)], depth=[1.0, 2.5, 4.0])
    raster = rasterise(points, TRIANGLE, K, SIZE, samples=2)
    rows, columns = np.divmod(raster[0], 96)
    rays = at(np.column_stack([columns, rows]) / 2 - 0.25)
    normal = np.cross(points[1] - points[0], points[2] - points[0])
    depth = normal @ points[0] / (rays @ normal)
    expected = rays * depth[:, None]
    np.testing.assert_allclose(raster[2] @ points, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(raster[2].sum(axis=1), 1, rtol=1e-12)
    assert raster[2].min() >= 0


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_nearer_face_hides_the_other_whatever_the_order(order):
    near, far = [(10, 10), (30, 10), (10, 30)], [(5, 5), (45, 5), (5, 38)]
    points = np.concatenate([at(near, 1.0), at(far, 2.0)])
    faces = np.array([[0, 1, 2], [3, 4, 5]])[list(order)]
    shown = face_map(rasterise(points, faces, K, SIZE, samples=1), 1)
    assert shown[12, 12] == order.index(0)
    assert shown[7, 7] == order.index(1)


def test_faces_that_pass_through_each_other_meet_where_their_depths_do():
    first = at([(4, 4), (44, 4), (24, 36)], depth=[1.0, 3.0, 2.0])
    second = at([(4, 4), (44, 4), (24, 36)], depth=[3.0, 1.0, 2.0])
    shown = face_map(
        rasterise(np.concatenate([first, second]), np.arange(6).reshape(2, 3), K, SIZE)
    )
    assert (shown[20, 20:47] == 0).all()
    assert (shown[20, 50:76] == 1).all()


def test_only_the_front_of_a_closed_mesh_is_seen_and_its_orientation_does_not_matter():
    points, faces = sphere(0.3, [0, 0, 2.0], rings=12)
    raster = rasterise(points, faces, K, SIZE)
    assert depths(raster, points, faces).max() < 2.0
    np.testing.assert_array_equal(
        render(points, faces, K, SIZE), render(points, faces[:, ::-1], K, SIZE)
    )


# ---- where nothing or not all is seen ------------------------------------------------------------
@pytest.mark.parametrize(
    "points",
    [
        at([(10, 10), (30, 10), (10, 30)], depth=-1.0),
        at([(10, 10), (30, 10), (10, 30)], depth=NEAR / 2),
        at([(-30, 10), (-10, 10), (-30, 30)]),
        at([(60, 10), (1e12, 10), (60, 1e12)]),
        np.array([[-0.125, -0.125, 1], [0, 0, 1], [0.125, 0.125, 1]]),  # a line through samples
        np.zeros((3, 3)),
        np.array([[0.001, -1, 0.0], [0.001, 1, 0.0], [0.001, 0, 5.0]]),  # it passes the camera
    ],
)
def test_nothing_is_seen_behind_beside_or_along(points):
    assert len(rasterise(points, TRIANGLE, K, SIZE)[0]) == 0
    background = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    np.testing.assert_array_equal(
        render(points, TRIANGLE, K, SIZE, background=background), background
    )


def test_no_faces_give_the_background():
    picture = render(np.zeros((0, 3)), np.zeros((0, 3), int), K, SIZE)
    assert picture.shape == (*SIZE, 3)
    assert (picture == 255).all()


def test_groups_do_not_change_the_picture(monkeypatch):
    points, faces = sphere(0.3, [0.1, 0, 2.0], rings=10)
    whole = rasterise(points, faces, K, SIZE)
    monkeypatch.setattr(rasteriser, "SAMPLES_AT_ONCE", 100)
    parts = rasterise(points, faces, K, SIZE)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)


# ---- shading -------------------------------------------------------------------------------------
def test_colours_of_vertices_blend_over_the_face():
    points = at([(4.25, 4.25), (44.25, 4.25), (4.25, 34.25)])
    colours = [[200, 0, 0], [0, 200, 0], [0, 0, 200]]
    normal_light = render(points, TRIANGLE, K, SIZE, colour=(200, 200, 200), samples=1)[10, 10, 0]
    picture = render(points, TRIANGLE, K, SIZE, colour=colours, samples=1)
    light = normal_light / 200
    x, y = (14 - 4.25) / 40, (12 - 4.25) / 30
    expected = 200 * light * np.array([1 - x - y, x, y])
    np.testing.assert_allclose(picture[12, 14], expected, atol=1.01)


def test_light_comes_from_above_and_never_vanishes():
    points, faces = sphere(0.3, [0, 0, 2.0])
    picture = render(points, faces, K, SIZE, colour=(200, 200, 200))[..., 0].astype(int)
    assert picture[10, 24] > picture[20, 24] > picture[32, 24] >= 0.35 * 200 - 1


def test_pixels_at_the_edge_are_the_mean_of_their_samples():
    # The right half of pixel (10, 7) over a background of 100.
    corners = at([(10, 6.5), (10.5, 6.5), (10.5, 7.5), (10, 7.5)])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    background = np.full((*SIZE, 3), 100, np.uint8)
    full = render(corners, faces, K, SIZE, colour=(0, 0, 0), background=background)
    assert full[7, 10].tolist() == [50, 50, 50]
    assert (np.delete(full.reshape(-1, 3), 7 * 48 + 10, axis=0) == 100).all()


# ---- bad input -----------------------------------------------------------------------------------
def test_points_that_are_not_finite_are_refused():
    points = at([(10, 10), (30, 10), (10, 30)])
    points[1, 2] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        render(points, TRIANGLE, K, SIZE)

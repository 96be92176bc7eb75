import base64
import io
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from dropkey_core.engine import UserError
from projects.metro.pictures.mesh_files import KINDS, ColouredMesh, linear, write_mesh, write_page

CHROMIUM = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)


def solid(body):
    """A mesh in which two vertices are at the same place, and have to stay two."""
    colours = np.random.default_rng(0).integers(0, 256, (60, 3)).astype(np.uint8)
    vertices = body.template_pose()
    vertices[7], colours[7] = vertices[40], colours[40]
    return ColouredMesh("somebody", vertices, body.faces, colours)


@pytest.mark.parametrize("suffix", KINDS[1:])
def test_vertices_faces_and_colours_come_back_in_their_order(toy_body, tmp_path, suffix):
    trimesh = pytest.importorskip("trimesh", reason="it writes the files")
    given = solid(toy_body)
    path = tmp_path / f"mesh.{suffix}"
    write_mesh(path, [given])
    (read,) = trimesh.load_scene(path, process=False).geometry.values()
    if suffix == "glb":
        colours = read.visual.vertex_attributes["color"]
    else:
        colours = read.visual.vertex_colors
    np.testing.assert_allclose(read.vertices, given.vertices * [1, -1, -1], atol=1e-6)
    np.testing.assert_array_equal(read.faces, given.faces)
    expected = linear(given.colours) if suffix == "glb" else given.colours
    np.testing.assert_array_equal(np.asarray(colours)[:, :3], expected)
    assert read.is_winding_consistent and read.volume > 0  # faces still look outward


def test_colours_in_proportion_to_their_light():
    """The sRGB curve (IEC 61966-2-1): half of the light is 188 of 255, and it starts as a line."""
    assert linear([0, 10, 188, 255]).tolist() == [0, 1, 128, 255]


def test_missing_trimesh_is_one_line(toy_body, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(UserError, match=r"needs trimesh: pip install -e '\.\[mesh\]'"):
        write_mesh(tmp_path / "mesh.obj", [solid(toy_body)])


def test_folder_that_is_not_there_is_named(toy_body, tmp_path):
    pytest.importorskip("trimesh", reason="it writes the files")
    with pytest.raises(UserError, match=r"cannot write .*no/mesh\.ply: No such file"):
        write_mesh(tmp_path / "no" / "mesh.ply", [solid(toy_body)])


# ---- the page -----------------------------------------------------------------------------------
@pytest.fixture
def meshes(toy_body):
    """One with a red head over a green body, one all blue."""
    vertices = toy_body.template_pose()
    is_head = vertices[:, 1] < np.median(vertices[:, 1])  # y points down
    two = np.where(is_head[:, None], [230, 0, 0], [0, 180, 0]).astype(np.uint8)
    blue = np.tile(np.array([0, 0, 230], np.uint8), (60, 1))
    return [
        ColouredMesh("recovered", vertices, toy_body.faces, two),
        ColouredMesh("true", vertices, toy_body.faces, blue),
    ]


@pytest.fixture
def page(meshes, tmp_path):
    pytest.importorskip("trimesh", reason="it makes the pages")
    path = tmp_path / "a.html"
    write_page(path, meshes, "subject <1> & co", ["left: recovered", "<b>"])
    return path


def scene_in(page):
    trimesh = pytest.importorskip("trimesh", reason="it reads the scene")
    (data,) = re.findall(r'base64_data="([A-Za-z0-9+/=]+)"', page.read_text(encoding="utf-8"))
    return trimesh.load(io.BytesIO(base64.b64decode(data)), file_type="glb", process=False)


def test_meshes_stand_upright_beside_each_other_in_the_body_models_order(page, meshes):
    scene = scene_in(page)
    assert list(scene.geometry) == ["recovered", "true"]
    ranges = []
    for mesh in meshes:
        found = scene.geometry[mesh.name]
        moved = found.vertices - mesh.vertices * [1, -1, -1]
        np.testing.assert_allclose(moved, np.broadcast_to(moved[0], (60, 3)), atol=1e-6)
        np.testing.assert_array_equal(found.faces, mesh.faces)
        colours = found.visual.vertex_attributes["color"]
        np.testing.assert_array_equal(colours[:, :3], mesh.colours)
        ranges.append((found.vertices[:, 0].min(), found.vertices[:, 0].max()))
    np.testing.assert_allclose(ranges[1][0] - ranges[0][1], 0.25, atol=1e-6)


def test_camera_looks_straight_at_all_of_it(page):
    scene = scene_in(page)
    place, fov = scene.camera_transform, np.deg2rad(scene.camera.fov)
    np.testing.assert_allclose(place[:3, :3], np.eye(3), atol=1e-6)  # y up, along -z
    low, high = scene.bounds
    corners = np.array([(x, y, z) for x in (low[0], high[0]) for y in (low[1], high[1])
                        for z in (low[2], high[2])]) - place[:3, 3]  # fmt: skip
    assert (np.abs(corners[:, :2] / -corners[:, 2:]) < np.tan(fov / 2)).all()


def test_nothing_is_fetched(page):
    content = page.read_text(encoding="utf-8")
    loads = re.findall(
        r"""(?:src|href|action)\s*=\s*["']?(?!data:)[a-z]*:?//[^\s"'>]+|url\(\s*["']?http[^)]*|"""
        r"""@import|\bimport\s*\(|<(?:link|iframe|img|object|embed)\b""",
        content,
    )
    assert loads == []


def test_text_is_escaped(page):
    content = page.read_text(encoding="utf-8")
    assert "<title>subject &lt;1&gt; &amp; co</title>" in content
    assert '<h1 class="text">subject &lt;1&gt; &amp; co</h1>' in content
    assert "left: recovered<br>&lt;b&gt;</p>" in content


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium to open the page in")
def test_browser_shows_the_meshes(page, tmp_path):
    shot = tmp_path / "shot.png"
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-dev-shm-usage"]
    command += ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"]
    command += ["--window-size=800,600", f"--screenshot={shot}", page.as_uri()]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    blue, green, red = cv2.imread(str(shot)).astype(int).transpose(2, 0, 1)
    places = {
        name: np.argwhere((one > 100) & (one > other + 60) & (one > another + 60))
        for name, one, other, another in (
            ("head", red, green, blue),
            ("body", green, red, blue),
            ("true", blue, red, green),
        )
    }
    assert all(len(place) > 1000 for place in places.values())
    middles = {name: place.mean(axis=0) for name, place in places.items()}  # row, column
    assert middles["head"][0] < middles["body"][0]
    assert middles["head"][1] < middles["true"][1]

import base64
import io
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from projects.metro.pictures.mesh_files import Solid
from projects.metro.pictures.page import write_page

trimesh = pytest.importorskip("trimesh", reason="it makes the pages")

CHROMIUM = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)


@pytest.fixture
def solids(toy_body):
    """One with a red head over a green body, one all blue."""
    vertices = toy_body.template_pose()
    is_head = vertices[:, 1] < np.median(vertices[:, 1])  # y points down
    two = np.where(is_head[:, None], [230, 0, 0], [0, 180, 0]).astype(np.uint8)
    blue = np.tile(np.array([0, 0, 230], np.uint8), (60, 1))
    return [
        Solid("recovered", vertices, toy_body.faces, two),
        Solid("true", vertices, toy_body.faces, blue),
    ]


@pytest.fixture
def page(solids, tmp_path):
    return write_page(tmp_path / "a.html", solids, "subject <1> & co", ["left: recovered", "<b>"])


def scene_in(page):
    (data,) = re.findall(r'base64_data="([A-Za-z0-9+/=]+)"', page.read_text(encoding="utf-8"))
    return trimesh.load(io.BytesIO(base64.b64decode(data)), file_type="glb", process=False)


def test_meshes_stand_upright_beside_each_other_in_the_body_models_order(page, solids):
    scene = scene_in(page)
    assert list(scene.geometry) == ["recovered", "true"]
    ranges = []
    for solid in solids:
        mesh = scene.geometry[solid.name]
        expected = solid.vertices * [1, -1, -1]
        moved = mesh.vertices - expected
        np.testing.assert_allclose(moved, np.broadcast_to(moved[0], (60, 3)), atol=1e-6)
        np.testing.assert_array_equal(mesh.faces, solid.faces)
        colours = mesh.visual.vertex_attributes["color"]
        np.testing.assert_array_equal(colours[:, :3], solid.colours)
        ranges.append((mesh.vertices[:, 0].min(), mesh.vertices[:, 0].max()))
    np.testing.assert_allclose(ranges[1][0] - ranges[0][1], 0.25, atol=1e-6)


def test_camera_looks_straight_at_all_of_it(page):
    content = page.read_text(encoding="utf-8")
    (data,) = re.findall(r'base64_data="([A-Za-z0-9+/=]+)"', content)
    scene = trimesh.load(io.BytesIO(base64.b64decode(data)), file_type="glb", process=False)
    place, fov = scene.camera_transform, np.deg2rad(scene.camera.fov)
    np.testing.assert_allclose(place[:3, :3], np.eye(3), atol=1e-6)  # y up, along -z
    corners = trimesh.bounds.corners(scene.bounds) - place[:3, 3]
    assert (np.abs(corners[:, :2] / -corners[:, 2:]) < np.tan(fov / 2)).all()


def test_nothing_is_fetched(page):
    content = page.read_text(encoding="utf-8")
    loads = re.findall(
        r"""(?:src|href|action)\s*=\s*["']?(?!data:)[a-z]*:?//[^\s"'>]+|url\(\s*["']?http[^)]*|"""
        r"""@import|\bimport\s*\(|<(?:link|iframe|img|object|embed)\b""",
        content,
    )
    assert loads == []
    policy = content.index("Content-Security-Policy")
    assert policy < content.index("<script") and policy < content.index("<style")
    assert "default-src 'none'" in content


def test_text_is_escaped(page):
    content = page.read_text(encoding="utf-8")
    assert "<title>subject &lt;1&gt; &amp; co</title>" in content
    assert '<h1 class="text">subject &lt;1&gt; &amp; co</h1>' in content
    assert "left: recovered<br>&lt;b&gt;</p>" in content


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

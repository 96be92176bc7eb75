import sys

import numpy as np
import pytest

from dropkey_core.engine import UserError
from projects.metro.pictures.mesh_files import MESH_SUFFIXES, Solid, write_mesh


def solid(body):
    """A mesh in which two vertices are at the same place, and have to stay two."""
    colours = np.random.default_rng(0).integers(0, 256, (60, 3)).astype(np.uint8)
    vertices = body.template_pose()
    vertices[7], colours[7] = vertices[40], colours[40]
    return Solid("somebody", vertices, body.faces, colours)


@pytest.mark.parametrize("suffix", MESH_SUFFIXES)
def test_vertices_faces_and_colours_come_back_in_their_order(toy_body, tmp_path, suffix):
    trimesh = pytest.importorskip("trimesh", reason="it writes the files")
    given = solid(toy_body)
    path = write_mesh(tmp_path / f"mesh.{suffix}", given)
    (read,) = trimesh.load_scene(path, process=False).geometry.values()
    if suffix == "glb":
        colours = read.visual.vertex_attributes["color"]
    else:
        colours = read.visual.vertex_colors
    np.testing.assert_allclose(read.vertices, given.vertices * [1, -1, -1], atol=1e-6)
    np.testing.assert_array_equal(read.faces, given.faces)
    np.testing.assert_array_equal(np.asarray(colours)[:, :3], given.colours)
    assert read.is_winding_consistent and read.volume > 0  # faces still look outward


def test_missing_trimesh_is_one_line(toy_body, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(UserError, match=r"needs trimesh: pip install -e '\.\[mesh\]'"):
        write_mesh(tmp_path / "mesh.obj", solid(toy_body))


def test_other_endings_are_refused(toy_body, tmp_path):
    with pytest.raises(UserError, match=r"mesh\.stl must end in one of obj, ply, glb"):
        write_mesh(tmp_path / "mesh.stl", solid(toy_body))


def test_folder_that_is_not_there_is_named(toy_body, tmp_path):
    pytest.importorskip("trimesh", reason="it writes the files")
    with pytest.raises(UserError, match=r"cannot write .*no/mesh\.ply: No such file"):
        write_mesh(tmp_path / "no" / "mesh.ply", solid(toy_body))

"""Meshes as files, by trimesh: OBJ, PLY and GLB, and an HTML page on which they can be turned."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dropkey_core.engine import UserError
from dropkey_core.engine.files.atomic_write import whole_file

KINDS = ("html", "obj", "ply", "glb")

# From camera axes to what viewers expect, y up and the person looking at the viewer.
Y_UP = np.array([1.0, -1.0, -1.0])

GAP = 0.25  # metres between the meshes of a page
ROOM = 1.25  # how much more than the meshes is seen at first, so that text fits above and below
# The page's only light comes from where one looks from, and is stronger than white.
# Its colours stay as they are: its viewer does not turn light into what screens take.
BRIGHTNESS, GLOW = 0.5, 0.12
STYLE = """
.text {position: absolute; left: 16px; font: 15px/1.5 sans-serif; color: #202020}
.text {margin: 0; pointer-events: none}
h1.text {top: 12px; font-size: 18px; font-weight: bold}
p.text {bottom: 12px}
"""


@dataclass(frozen=True)
class ColouredMesh:
    """A mesh with colours and a name of a few words."""

    name: str
    vertices: np.ndarray  # (V, 3) metres on camera axes: x right, y down, z forward
    faces: np.ndarray  # (F, 3) vertices of each face, counter-clockwise seen from outside
    colours: ArrayLike  # RGB, 0 to 255: (3,) of the mesh or (V, 3) uint8 of its vertices


def import_trimesh() -> ModuleType:
    """Import trimesh, which only meshes as files and pages need; UserError if it is not there."""
    try:
        import trimesh
    except ImportError as error:
        reason = "writing meshes and pages needs trimesh: pip install -e '.[mesh]'"
        raise UserError(reason) from error
    return trimesh


def write_mesh(path: Path, meshes: Sequence[ColouredMesh]) -> None:
    """Write meshes as OBJ, PLY or GLB, whichever the path ends in: metres, y up, same order.

    In a GLB each has its name, and colours are linear, as glTF has them. In the others all are one
    mesh.

    Raises:
        UserError: trimesh is not installed, or the file cannot be written.
    """
    trimesh = import_trimesh()
    kind = path.suffix.lstrip(".")
    if kind == "glb":
        written = trimesh.Scene()
        for mesh in meshes:
            matt = as_trimesh(replace(mesh, colours=linear(mesh.colours)))
            make_matt(matt)
            written.add_geometry(matt, geom_name=mesh.name, node_name=mesh.name)
    else:
        first, *others = map(as_trimesh, meshes)
        written = first + others if others else first
    content = written.export(file_type=kind)
    with whole_file(path, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


def linear(colours: ArrayLike) -> np.ndarray:
    """Colours as screens and pictures have them (sRGB), 0 to 255, in proportion to their light."""
    values = np.asarray(colours, dtype=np.float64) / 255
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return np.rint(255 * light).astype(np.uint8)


def write_page(
    path: Path,
    meshes: Sequence[ColouredMesh],
    title: str,
    notes: Sequence[str] = (),
    side_by_side: bool = True,
) -> None:
    """Write an HTML page with meshes, upright, that fetches nothing.

    Args:
        path: the .html file.
        meshes: at least one.
        title: a line above the meshes.
        notes: lines below.
        side_by_side: False leaves them where they are, as on one picture.

    Raises:
        UserError: trimesh is not installed, or the file cannot be written.
    """
    trimesh = import_trimesh()
    from trimesh.viewer.notebook import scene_to_html

    scene = trimesh.Scene()
    place = 0.0
    for mesh in meshes:
        shown = as_trimesh(mesh)
        make_matt(shown, BRIGHTNESS, GLOW)
        if side_by_side:
            low, high = shown.bounds
            middle = (low + high) / 2
            shown.apply_translation([place - low[0], -middle[1], -middle[2]])
            place += high[0] - low[0] + GAP
        scene.add_geometry(shown, geom_name=mesh.name, node_name=mesh.name)
    scene.set_camera(resolution=(800, 600), fov=(46, 35))
    scene.camera_transform = scene.camera.look_at(scene.bounds, pad=ROOM)
    with whole_file(path) as file:
        file.write(with_caption(scene_to_html(scene), title, notes))


def as_trimesh(mesh: ColouredMesh) -> Any:
    """The trimesh.Trimesh of a mesh, y up; vertices and faces keep their order."""
    colours = np.broadcast_to(np.array(mesh.colours, np.uint8), mesh.vertices.shape)
    return import_trimesh().Trimesh(
        mesh.vertices * Y_UP, mesh.faces, vertex_colors=colours, process=False
    )


def make_matt(mesh: Any, brightness: float = 1.0, glow: float = 0.0) -> None:
    """Give a trimesh.Trimesh what GLB needs so that viewers show its colours and shade it smoothly.

    Without a material it would be of metal, dark where nothing is around to be mirrored.
    ``brightness`` is a factor of its colours, ``glow`` light that it gives off itself, in [0, 1].
    """
    level = round(255 * brightness)
    mesh.visual.material = import_trimesh().visual.material.PBRMaterial(
        baseColorFactor=[level, level, level, 255],
        emissiveFactor=[glow] * 3,
        metallicFactor=0.0,
        roughnessFactor=1.0,
    )
    _ = mesh.vertex_normals  # trimesh writes those that it has computed


def with_caption(page: str, title: str, notes: Sequence[str]) -> str:
    """Name a page and write lines over it."""
    lines = "<br>".join(map(escape, notes))
    caption = f'<h1 class="text">{escape(title)}</h1><p class="text">{lines}</p>'
    head, body = page.split("<body>", 1)
    head = head.replace("trimesh: threejs viewer", escape(title), 1)
    head = head.replace("</head>", f"<style>{STYLE}</style>\n  </head>", 1)
    return f"{head}<body>{caption}{body}"

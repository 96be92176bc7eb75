"""A page on which meshes can be turned: one HTML file that fetches nothing, by trimesh."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from dropkey_core.engine import UserError
from projects.metro.pictures.mesh_files import Solid, as_trimesh, import_trimesh, make_matt

GAP = 0.25  # metres between meshes
FIELD_OF_VIEW = 35.0  # degrees, of the height
ROOM = 1.25  # how much more than the meshes is seen at first, so that text fits above and below
# The page's only light comes from where one looks from, and is stronger than white.
BRIGHTNESS, GLOW = 0.5, 0.12

# Nothing may be loaded but what the page holds itself.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src data: blob:"
)
STYLE = """
.text {position: absolute; left: 16px; font: 15px/1.5 sans-serif; color: #202020}
.text {margin: 0; pointer-events: none}
h1.text {top: 12px; font-size: 18px; font-weight: bold}
p.text {bottom: 12px}
"""


def write_page(path: Path, solids: Sequence[Solid], title: str, notes: Sequence[str] = ()) -> Path:
    """Write a page with meshes side by side, upright; returns the path.

    Drag turns them, the wheel zooms, dragging with the right button moves them.

    Args:
        path: the .html file.
        solids: at least one.
        title: a line above the meshes.
        notes: lines below.

    Raises:
        UserError: trimesh is not installed, or the file cannot be written.
    """
    trimesh = import_trimesh()
    from trimesh.viewer.notebook import scene_to_html

    scene = trimesh.Scene()
    place = 0.0
    for solid in solids:
        mesh = as_trimesh(solid)
        make_matt(mesh, BRIGHTNESS, GLOW)
        low, high = mesh.bounds
        mesh.apply_translation([place - low[0], -(low[1] + high[1]) / 2, -(low[2] + high[2]) / 2])
        place += high[0] - low[0] + GAP
        scene.add_geometry(mesh, geom_name=solid.name, node_name=solid.name)
    look_from_the_front(scene)
    try:
        path.write_text(with_caption(scene_to_html(scene), title, notes), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return path


def look_from_the_front(scene: Any) -> None:
    """Put a scene's camera where it sees all of it from the front, in a window of 4:3."""
    low, high = scene.bounds
    width, height, depth = high - low
    tangent = np.tan(np.deg2rad(FIELD_OF_VIEW) / 2)
    distance = ROOM * max(height, width / 4 * 3) / 2 / tangent + depth / 2
    scene.set_camera(
        angles=(0, 0, 0),
        distance=distance,
        center=(low + high) / 2,
        resolution=(800, 600),
        fov=(np.rad2deg(2 * np.arctan(tangent * 4 / 3)), FIELD_OF_VIEW),
    )


def with_caption(page: str, title: str, notes: Sequence[str]) -> str:
    """Name the page, write lines over it, and forbid it to load anything."""
    lines = "<br>".join(map(escape, notes))
    caption = f'<h1 class="text">{escape(title)}</h1><p class="text">{lines}</p>'
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    head, body = page.split("<body>", 1)
    head = head.replace("<head>", f"<head>\n    {policy}", 1)
    head = head.replace("trimesh: threejs viewer", escape(title), 1)
    head = head.replace("</head>", f"<style>{STYLE}</style>\n  </head>", 1)
    return f"{head}<body>{caption}{body}"

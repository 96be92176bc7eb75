"""Rows of pictures: a recovered mesh over its image and from the side, and the true one beside it.

Crops are drawn with SIDE x SIDE pixels, however small they are, and views are of these.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from numpy.typing import ArrayLike
from torch import Tensor

from dropkey_core.engine import UserError
from projects.drawing import as_array
from projects.metro.body.model import Body
from projects.metro.body.skeleton import H36M_PELVIS
from projects.metro.geometry import camera_after, crop_map
from projects.metro.metrics import mpjpe
from projects.metro.pictures.mesh_files import ColouredMesh, write_mesh, write_page
from projects.metro.pictures.rasteriser import render
from projects.metro.pictures.view import (
    PREDICTED,
    SIDE,
    TRUE,
    View,
    predicted_view,
    resized,
    side_view,
)
from projects.page import Panel, PictureRow

COLOURS = {"recovered": PREDICTED, "true": TRUE}
PAPER = 245  # grey level behind a mesh without image
MM = 1000.0  # per metre
FARTHEST = 200  # millimetres from the truth, where the colour of errors ends


def name_of(record: Mapping[str, Any]) -> str:
    """What an image is called: its place in the set, or its file."""
    if "subject" in record:
        return ", ".join(f"{name} {record[name]}" for name in ("subject", "frame", "camera"))
    return Path(record["file_name"]).name


def mesh_row(body: Body, sample: Mapping[str, Any], outputs: Mapping[str, Tensor]) -> PictureRow:
    """Mesh over image, from the side, the image; and the true mesh in the same way."""
    crop, panels = resized(as_array(sample["image"]), SIDE), []
    paper = np.full_like(crop, PAPER)
    for name, view in views(sample, outputs).items():
        beside = None if view is None else side_view(view)
        over_image = draw_mesh(view, body.faces, crop, COLOURS[name])
        on_paper = draw_mesh(beside, body.faces, paper, COLOURS[name])
        panels += [Panel(f"{name} mesh", over_image), Panel(f"{name} mesh from the side", on_paper)]
    panels.insert(2, Panel("image", crop))
    return PictureRow(panels, title_of(sample, outputs))


def draw_mesh(
    view: View | None, faces: np.ndarray, picture: np.ndarray, colour: ArrayLike
) -> np.ndarray:
    """Draw a mesh of a colour (3,) or colours of its vertices (V, 3); without a view, none."""
    if view is None:
        return picture
    return render(view.points, faces, view.K, picture.shape[:2], colour, picture)


def views(sample: Mapping[str, Any], outputs: Mapping[str, Tensor]) -> dict[str, View | None]:
    """The recovered mesh before its camera, None if that sees it not; the true one where known.

    Raises:
        UserError: the mesh is not finite.
    """
    vertices, camera = (float64(outputs[name]) for name in ("vertices", "camera"))
    if not (np.isfinite(vertices).all() and np.isfinite(camera).all()):
        raise UserError(f"the mesh of {name_of(sample)} is not finite: the training has diverged")
    found = {"recovered": predicted_view(vertices, camera, (0, 0, SIDE), (SIDE, SIDE))}
    if sample["has_mesh"]:
        true = float64(sample["vertices"]) + float64(sample["pelvis"])
        size = sample["image"].shape[1]
        enlarged = crop_map([(size - 1) / 2] * 2, size, SIDE)
        found["true"] = View(true, camera_after(float64(sample["K"]), enlarged, np.eye(3)))
    return found


def title_of(sample: Mapping[str, Any], outputs: Mapping[str, Tensor]) -> str:
    """What an image is called, and how good the mesh is."""
    title, scale = name_of(sample), float(outputs["camera"][0])
    if not scale > 0:
        title += f" · not in view: the camera's scale is {scale:.2g}"
    if sample["has_mesh"]:
        error = mpjpe(outputs["joints_3d"].cpu(), sample["joints_3d"][:, :3])
        title += f" · MPJPE {MM * float(error):.1f} mm"
    return title


def float64(tensor: Tensor) -> np.ndarray:
    """A tensor as an array of that kind."""
    return tensor.double().cpu().numpy()


def write_mesh_file(
    path: Path, body: Body, sample: Mapping[str, Any], outputs: Mapping[str, Tensor]
) -> None:
    """Write a mesh of a test set, its pelvis at the origin, and print where.

    As .html, a page to turn it, beside the true one and coloured by the distance from it; as .glb,
    .obj or .ply alone.
    """
    vertices = float64(outputs["vertices"])
    vertices = vertices - body.h36m_joints(vertices)[H36M_PELVIS]
    mesh = ColouredMesh("recovered", vertices, body.faces, PREDICTED)
    if path.suffix == ".html":
        legend = f"violet 0 mm to yellow {FARTHEST} mm and more; right: true"
        notes = [f"left: recovered, coloured by the distance from the true mesh: {legend}"]
        notes.append("drag to turn, scroll to zoom")
        meshes = compared(mesh, float64(sample["vertices"]))
        write_page(path, meshes, title_of(sample, outputs), notes)
    else:
        write_mesh(path, [mesh])
    print(path, flush=True)


def compared(mesh: ColouredMesh, true_vertices: np.ndarray) -> list[ColouredMesh]:
    """A mesh coloured by its vertices' distance from the true ones, and the true mesh."""
    errors = MM * np.linalg.norm(mesh.vertices - true_vertices, axis=1)
    colours = np.rint(255 * colormaps["viridis"](errors / FARTHEST)[:, :3])
    return [replace(mesh, colours=colours), ColouredMesh("true", true_vertices, mesh.faces, TRUE)]

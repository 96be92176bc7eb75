"""Pictures, pages and files of the meshes that METRO recovers, of a test set or of any images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from omegaconf import DictConfig
from torch import Tensor

from dropkey_core.engine import UserError
from dropkey_core.engine.files.atomic_write import make_folder
from dropkey_core.engine.files.images import unique_stems
from dropkey_core.engine.inference import choose_records
from projects.figure import Panel, PictureRow, draw_page, save
from projects.metro.body.model import Body
from projects.metro.body.skeleton import H36M_PELVIS, JOINTS
from projects.metro.metrics import mpjpe
from projects.metro.pictures.attention import (
    MOST,
    NUM_LINES,
    attended_vertices,
    draw_attention,
    recover_with_attention,
)
from projects.metro.pictures.mesh_files import ColouredMesh, import_trimesh, write_mesh, write_page
from projects.metro.pictures.view import (
    PREDICTED,
    SIDE,
    TRUE,
    View,
    draw_mesh,
    predicted_view,
    resized,
    side_view,
)
from projects.metro.predictor import BodyEstimator, Square

COLOURS = {"recovered": PREDICTED, "true": TRUE}
MM = 1000.0  # per metre
FARTHEST = 200  # millimetres from the truth, where the colour of errors ends


def draw_gallery(
    config: DictConfig,
    weights: str,
    output: Path,
    images: Sequence[str] | None = None,
    square: Square | None = None,
    num_images: int = 16,
    files: Sequence[str] = (),
) -> None:
    """Recover meshes and write a picture of each, and a page of all of them.

    Args:
        config: a loaded config; its model, its test set and the test set's mapper are used.
        weights: path of a checkpoint of ours.
        output: folder to write to.
        images: files and folders of images; None takes the config's test set, with true meshes.
        square: around the person, in pixels of ``images``; None takes the whole image.
        num_images: draw at most so many, spread evenly.
        files: of ``mesh_files.KINDS``, what to write of each mesh besides.

    Raises:
        UserError: nothing to show, a bad image or checkpoint, a folder that cannot be written, or
            trimesh is missing for ``files``.
    """
    if files:
        import_trimesh()
    estimator = BodyEstimator.from_pretrained(weights, config=config)
    records, heading = choose_records(config, images, num_images)
    print(heading)
    make_folder(output)
    rows = []
    for stem, record in zip(stems(records), records, strict=True):
        sample = estimator.sample(record, square)
        with torch.no_grad():
            outputs = estimator.model([sample])[0]
        rows.append(mesh_row(estimator.body, sample, outputs))
        save(draw_page(rows[-1:]), output / f"{stem}_mesh.png")
        for kind in files:
            write_file(output / f"{stem}_mesh.{kind}", estimator.body, sample, outputs)
    page = "meshes.png" if images else "validation.png"
    save(draw_page(rows, [heading]), output / page)


def draw_attention_gallery(
    models: Mapping[str, tuple[DictConfig, str]],
    joint: str,
    output: Path,
    images: Sequence[str] | None = None,
    square: Square | None = None,
    num_images: int = 16,
) -> None:
    """Draw which vertices a joint attends to, a column for each model (arXiv 2208.02646, fig. 6).

    Args:
        models: config and checkpoint by name; the images are those of the first one's test set.
        joint: one of ``JOINTS``.
        output: see ``draw_gallery``, as the following.
        images: instead of the test set's.
        square: around the person.
        num_images: at most.

    Raises:
        UserError: an unknown joint; see ``draw_gallery``.
    """
    if joint not in JOINTS:
        raise UserError(f"--joint must be one of {', '.join(JOINTS)}, got {joint}")
    estimators = {
        name: BodyEstimator.from_pretrained(weights, config=config)
        for name, (config, weights) in models.items()
    }
    config = next(iter(estimators.values())).config
    records, said = choose_records(config, images, num_images)
    print(said)
    make_folder(output)
    rows = []
    for stem, record in zip(stems(records), records, strict=True):
        samples = {name: model.sample(record, square) for name, model in estimators.items()}
        panels = [
            attention_panel(name, estimators[name], sample, JOINTS.index(joint))
            for name, sample in samples.items()
        ]
        image = panel("image", resized(crop_of(next(iter(samples.values())))))
        rows.append(PictureRow([image, *panels], name_of(record)))
        save(draw_page(rows[-1:]), output / f"{stem}_attention.png")
    heading = (
        f"Attention from {joint} to the vertices in the last layer, mean of its heads",
        f"grey: none; light blue: an even share; dark blue: {MOST:g} times that and more; lines: "
        f"the {NUM_LINES} that get most",
        "above each picture: over how many vertices it is spread",
    )
    save(draw_page(rows, heading), output / "attention.png")


# ---- images --------------------------------------------------------------------------------------
def name_of(record: Mapping[str, Any]) -> str:
    """What an image is called: its place in the set, or its file."""
    if "subject" in record:
        return ", ".join(f"{name} {record[name]}" for name in ("subject", "frame", "camera"))
    return Path(record["file_name"]).name


def stems(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names for files about images."""
    return unique_stems([name_of(record).replace(",", "").replace(" ", "_") for record in records])


def crop_of(sample: Mapping[str, Any]) -> np.ndarray:
    """The image of a sample, (S, S, 3) uint8."""
    return sample["image"].permute(1, 2, 0).contiguous().numpy()


def panel(caption: str, picture: np.ndarray) -> Panel:
    """A picture (SIDE, SIDE, 3) on a page."""
    return Panel(caption, SIDE, SIDE, lambda axes: axes.imshow(picture, interpolation="nearest"))


# ---- meshes --------------------------------------------------------------------------------------
def mesh_row(body: Body, sample: Mapping[str, Any], outputs: Mapping[str, Tensor]) -> PictureRow:
    """Mesh over image, from the side, the image; and the true mesh in the same way."""
    crop, panels = crop_of(sample), []
    for name, view in views(sample, outputs).items():
        beside = None if view is None else side_view(view, len(crop))
        over_image = draw_mesh(view, body.faces, len(crop), crop, COLOURS[name])
        on_paper = draw_mesh(beside, body.faces, len(crop), None, COLOURS[name])
        panels += [panel(f"{name} mesh", over_image), panel(f"{name} mesh from the side", on_paper)]
    panels.insert(2, panel("image", resized(crop)))
    return PictureRow(panels, title_of(sample, outputs))


def views(sample: Mapping[str, Any], outputs: Mapping[str, Tensor]) -> dict[str, View | None]:
    """The recovered mesh before its camera, None if that sees it not; the true one where known.

    Raises:
        UserError: the mesh is not finite.
    """
    vertices, camera = (as_array(outputs[name]) for name in ("vertices", "camera"))
    if not (np.isfinite(vertices).all() and np.isfinite(camera).all()):
        raise UserError(f"the mesh of {name_of(sample)} is not finite: the training has diverged")
    found = {"recovered": predicted_view(vertices, camera, len(crop_of(sample)))}
    if sample["has_mesh"]:
        true = as_array(sample["vertices"]) + as_array(sample["pelvis"])
        found["true"] = View(true, as_array(sample["K"]))
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


def as_array(tensor: Tensor) -> np.ndarray:
    """A tensor as float64."""
    return tensor.double().cpu().numpy()


def write_file(
    path: Path, body: Body, sample: Mapping[str, Any], outputs: Mapping[str, Tensor]
) -> None:
    """Write a mesh, its pelvis at the origin, as a page or a mesh file and print where."""
    vertices = as_array(outputs["vertices"])
    vertices = vertices - body.h36m_joints(vertices)[H36M_PELVIS]
    mesh = ColouredMesh("recovered", vertices, body.faces, PREDICTED)
    meshes, notes = [mesh], ["drag to turn, scroll to zoom"]
    if sample["has_mesh"]:
        meshes = compared(mesh, as_array(sample["vertices"]))
        legend = f"violet 0 mm to yellow {FARTHEST} mm and more; right: true"
        notes = [f"left: recovered, coloured by the distance from the true mesh: {legend}", *notes]
    if path.suffix == ".html":
        write_page(path, meshes, title_of(sample, outputs), notes)
    else:
        write_mesh(path, [mesh])
    print(path, flush=True)


def compared(mesh: ColouredMesh, true_vertices: np.ndarray) -> list[ColouredMesh]:
    """A mesh coloured by its vertices' distance from the true ones, and the true mesh."""
    errors = MM * np.linalg.norm(mesh.vertices - true_vertices, axis=1)
    colours = np.rint(255 * colormaps["viridis"](errors / FARTHEST)[:, :3])
    return [replace(mesh, colours=colours), ColouredMesh("true", true_vertices, mesh.faces, TRUE)]


def attention_panel(
    name: str, estimator: BodyEstimator, sample: dict[str, Any], joint: int
) -> Panel:
    """What a model's joint attends to, and over how many vertices that is spread."""
    outputs, attention = recover_with_attention(estimator.model, [sample])
    body, weights = estimator.body, as_array(attention[0, joint])
    view = views(sample, outputs[0])["recovered"]
    place = np.zeros(3) if view is None else body.joints(view.points)[joint]
    caption = f"{name}: over {attended_vertices(weights):.0f} of {len(weights)} vertices"
    crop = crop_of(sample)
    return Panel(
        caption, SIDE, SIDE, lambda axes: draw_attention(axes, view, body, place, weights, crop)
    )

"""Pictures, pages and files of the meshes that models recover, of a test set or of any images."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from dropkey_core.engine import UserError, instantiate, read_checkpoint
from dropkey_core.engine.checkpoint import load_state
from dropkey_core.engine.files.image_list import find_images, spread, unique_stems
from dropkey_core.engine.files.images import read_image
from dropkey_core.engine.run_folder import make_picture_folder
from projects.figure import say_saved
from projects.metro.body.model import Body, read_body
from projects.metro.body.skeleton import H36M_PELVIS, JOINTS
from projects.metro.geometry import crop_map
from projects.metro.mapper import warped
from projects.metro.metrics import mpjpe
from projects.metro.metro import Metro
from projects.metro.pictures.attention import (
    MOST,
    NUM_LINES,
    attended_vertices,
    draw_attention,
    recover_with_attention,
)
from projects.metro.pictures.mesh_files import MESH_SUFFIXES, Solid, import_trimesh, write_mesh
from projects.metro.pictures.page import write_page
from projects.metro.pictures.rows import PREDICTED, TRUE, Row, draw_mesh, draw_rows, resized
from projects.metro.pictures.view import View, predicted_view, side_view

MM = 1000.0  # per metre
FILES = ("html", *MESH_SUFFIXES)  # what a mesh can be written as besides a picture
FARTHEST = 200  # millimetres from the truth, where the colour of errors ends
LAST_LINEAR = "upsampling.steps.1.weight"  # a row for each vertex of the full mesh


@dataclass(frozen=True)
class Recoverer:
    """A model in eval mode with all that it takes to use it."""

    model: Metro
    body: Body
    config: DictConfig


@dataclass(frozen=True)
class Recovered:
    """An image, the mesh found on it, and the true one where that is known.

    Attributes:
        title: what the image is, and how good the mesh.
        crop: (S, S, 3) uint8 RGB.
        vertices: (V, 3) metres, the predicted mesh, its H36M pelvis at the origin.
        view: it before the camera; None if that sees it not.
        true_vertices: the true mesh, its H36M pelvis at the origin, if there is one.
        true_view: that before its camera.
    """

    title: str
    crop: np.ndarray
    vertices: np.ndarray
    view: View | None
    true_vertices: np.ndarray | None
    true_view: View | None


def draw_gallery(
    config: DictConfig,
    weights: str,
    output: Path,
    images: Sequence[str] | None = None,
    box: tuple[float, float, float] | None = None,
    num_images: int = 16,
    files: Sequence[str] = (),
) -> None:
    """Recover meshes and write a picture of each, and a page of all of them.

    Args:
        config: a loaded config; its model, its test set and the test set's mapper are used.
        weights: path of a checkpoint of ours.
        output: folder to write to.
        images: files and folders of images; None takes the config's test set, with true meshes.
        box: x and y of the upper left corner and the side, in pixels of the images, of the square
            around the person; None takes the whole image. Only for ``images``.
        num_images: draw at most so many, spread evenly.
        files: of ``FILES``, what to write of each mesh besides.

    Raises:
        UserError: nothing to show, a bad image or checkpoint, a folder that cannot be written, or
            trimesh is missing for ``files``.
    """
    if files:
        import_trimesh()
    recoverer = load_recoverer(config, weights)
    chosen = choose_images(recoverer, images, box, num_images)
    print(chosen.heading)
    make_picture_folder(output)
    rows = []
    for stem, sample in chosen:
        with torch.no_grad():
            outputs = recoverer.model([sample])[0]
        recovered = judge(recoverer.body, sample, outputs)
        rows.append(mesh_row(recovered, recoverer.body.faces))
        say_saved(draw_rows(rows[-1:]), output / f"{stem}_mesh.png")
        for kind in files:
            write_file(output / f"{stem}_mesh.{kind}", recovered, recoverer.body.faces)
    page = "meshes.png" if images else "validation.png"
    say_saved(draw_rows(rows, [chosen.heading]), output / page)


def draw_attention_gallery(
    models: Mapping[str, tuple[DictConfig, str]],
    joint: str,
    output: Path,
    images: Sequence[str] | None = None,
    box: tuple[float, float, float] | None = None,
    num_images: int = 16,
) -> None:
    """Draw which vertices a joint attends to, a column for each model (arXiv 2208.02646, fig. 6).

    Args:
        models: config and checkpoint by name; the images are those of the first one's test set.
        joint: one of ``JOINTS``.
        output: see ``draw_gallery``, as the following.
        images: any images instead.
        box: the person's place in them.
        num_images: draw at most so many, spread evenly.

    Raises:
        UserError: an unknown joint; see ``draw_gallery``.
    """
    if joint not in JOINTS:
        raise UserError(f"--joint must be one of {', '.join(JOINTS)}, got {joint}")
    recoverers = {name: load_recoverer(*model) for name, model in models.items()}
    chosen = [choose_images(model, images, box, num_images) for model in recoverers.values()]
    print(chosen[0].heading)
    make_picture_folder(output)
    rows = []
    for same_image in zip(*chosen, strict=True):
        stem, first = same_image[0]
        pictures, captions = [resized(crop_of(first))], ["image"]
        for (name, recoverer), (_, sample) in zip(recoverers.items(), same_image, strict=True):
            picture, number = attention_picture(recoverer, sample, JOINTS.index(joint))
            pictures.append(picture)
            num_vertices = len(recoverer.body.coarse_vertices[-1])
            captions.append(f"{name}: spread over {number:.0f} of {num_vertices} vertices")
        rows.append(Row(name_of(first), pictures, captions))
        say_saved(draw_rows(rows[-1:]), output / f"{stem}_attention.png")
    heading = (
        f"Attention from {joint} to the vertices in the last layer, mean of its heads",
        f"grey: none; light blue: an even share; dark blue: {MOST:g} times that and more; lines: "
        f"the {NUM_LINES} that get most",
    )
    say_saved(draw_rows(rows, heading), output / "attention.png")


# ---- models and images ---------------------------------------------------------------------------
def load_recoverer(config: DictConfig, weights: str) -> Recoverer:
    """Build the config's model and load a checkpoint of it.

    Raises:
        UserError: the checkpoint is of another model, or of another body.
    """
    body_file = OmegaConf.select(config, "model.body")
    if body_file is None:
        raise UserError("the config has no model.body, the body model whose mesh is recovered")
    content = read_checkpoint(weights, "--weights")
    state = content.get("model", content)
    if LAST_LINEAR not in state:
        raise UserError(
            f"{weights} is no checkpoint of METRO: it has no {LAST_LINEAR} (official ones: "
            "tools/convert_checkpoint.py)"
        )
    body = read_body(body_file)
    found, expected = len(state[LAST_LINEAR]), len(body.template)
    if found != expected:
        raise UserError(
            f"{weights} is for a body of {found} vertices, but {body_file} has {expected}; "
            "give the one it was trained with as dataset.body=FILE"
        )
    config = copy.deepcopy(config)  # the caller's stays as it is
    config.model.pretrained_backbone = False
    model = instantiate(config.model, "model").eval()
    print(load_state(model, state, weights))
    use_gpu = config.train.device == "cuda" and torch.cuda.is_available()
    return Recoverer(model.to("cuda" if use_gpu else "cpu"), body, config)


@dataclass(frozen=True)
class Images:
    """Images to look at, read one by one.

    Attributes:
        records: one for each, what ``read`` takes.
        stems: names for files about them.
        total: how many there were to choose from.
        read: makes the sample of a record.
    """

    records: Sequence[Any]
    stems: Sequence[str]
    total: int
    read: Callable[[Any], dict[str, Any]]

    @property
    def heading(self) -> str:
        """How many they are."""
        return f"{len(self.records)} of {self.total} images"

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Stem and sample of each."""
        for stem, record in zip(self.stems, self.records, strict=True):
            yield stem, self.read(record)


def choose_images(
    recoverer: Recoverer,
    images: Sequence[str] | None,
    box: tuple[float, float, float] | None,
    num_images: int,
) -> Images:
    """Images of the config's test set, or those that the user named; see ``draw_gallery``."""
    if images is None:
        test = recoverer.config.dataloader.test
        records = instantiate(test.dataset, "dataloader.test.dataset")
        chosen = spread(records, num_images)
        stems = [name_of(record).replace(", ", "_").replace(" ", "_") for record in chosen]
        mapper = instantiate(test.mapper, "dataloader.test.mapper")
        return Images(chosen, stems, len(records), mapper)
    paths = find_images(images)
    chosen = spread(paths, num_images)
    stems = unique_stems([str(path) for path in chosen])
    read = partial(plain_sample, box=box, image_size=recoverer.model.image_size)
    return Images(chosen, stems, len(paths), read)


def plain_sample(
    path: Path, box: tuple[float, float, float] | None, image_size: int
) -> dict[str, Any]:
    """The sample of an image of which nothing is known but where the person is."""
    image = read_image(path)
    height, width = image.shape[1:]
    if box is None:
        centre, side = ((width - 1) / 2, (height - 1) / 2), float(max(height, width))
    else:
        x, y, side = box
        if x >= width or y >= height or x + side <= 0 or y + side <= 0:
            raise UserError(
                f"--box {x:g},{y:g},{side:g} is outside of {path}, which has {width} x {height} "
                "pixels (width x height)"
            )
        centre = (x + (side - 1) / 2, y + (side - 1) / 2)
    crop = warped(image.permute(1, 2, 0).numpy(), crop_map(centre, side, image_size), image_size)
    return {
        "image": torch.from_numpy(crop).permute(2, 0, 1).contiguous(),
        "file_name": str(path),
        "has_mesh": False,
    }


def name_of(record: Mapping[str, Any]) -> str:
    """What an image is called: its place in the set, or its file."""
    if "subject" in record:
        return ", ".join(f"{name} {record[name]}" for name in ("subject", "frame", "camera"))
    return Path(record["file_name"]).name


def crop_of(sample: Mapping[str, Any]) -> np.ndarray:
    """The image of a sample, (S, S, 3) uint8."""
    return sample["image"].permute(1, 2, 0).contiguous().numpy()


# ---- meshes --------------------------------------------------------------------------------------
def judge(body: Body, sample: Mapping[str, Any], outputs: Mapping[str, Tensor]) -> Recovered:
    """Put a predicted mesh before its camera, and say how far it is from the true one."""
    vertices = outputs["vertices"].double().cpu().numpy()
    crop = crop_of(sample)
    title = name_of(sample)
    if not (np.isfinite(vertices).all() and outputs["camera"].isfinite().all()):
        raise UserError(f"the mesh of {title} is not finite: the training has diverged")
    view = predicted_view(vertices, outputs["camera"].double().cpu().numpy(), len(crop))
    if view is None:
        title += f" · not in view: the camera's scale is {float(outputs['camera'][0]):.2g}"
    true_vertices = true_view = None
    if sample["has_mesh"]:
        true_vertices = sample["vertices"].double().numpy()
        true_view = View(
            true_vertices + sample["pelvis"].double().numpy(), sample["K"].double().numpy()
        )
        error = mpjpe(outputs["joints_3d"].cpu(), sample["joints_3d"][:, :3])
        title += f" · MPJPE {MM * float(error):.1f} mm"
    return Recovered(title, crop, from_pelvis(body, vertices), view, true_vertices, true_view)


def from_pelvis(body: Body, vertices: np.ndarray) -> np.ndarray:
    """A mesh (V, 3) with its H36M pelvis at the origin."""
    return vertices - body.h36m_joints(vertices)[H36M_PELVIS]


def mesh_row(recovered: Recovered, faces: np.ndarray) -> Row:
    """Mesh over image, from the side, the image; and the true mesh in the same way."""
    crop, size = recovered.crop, len(recovered.crop)
    pictures, captions = [resized(crop)], ["image"]
    for name, view, colour, at in (
        ("recovered", recovered.view, PREDICTED, 0),
        ("true", recovered.true_view, TRUE, 3),
    ):
        if name == "true" and view is None:
            continue
        beside = None if view is None else side_view(view, size)
        pictures[at:at] = [
            draw_mesh(view, faces, crop, size, colour),
            draw_mesh(beside, faces, None, size, colour),
        ]
        captions[at:at] = [f"{name} mesh", f"{name} mesh from the side"]
    return Row(recovered.title, pictures, captions)


def write_file(path: Path, recovered: Recovered, faces: np.ndarray) -> None:
    """Write a mesh as a page or a mesh file and print where."""
    solids, notes = [solid("recovered", recovered.vertices, faces, PREDICTED)], []
    if path.suffix == ".html":
        if recovered.true_vertices is not None:
            solids = compared(recovered.vertices, recovered.true_vertices, faces)
            notes = [
                "left: recovered, coloured by the distance from the true mesh, both at the pelvis: "
                f"violet 0 mm to yellow {FARTHEST} mm and more; right: true"
            ]
        write_page(path, solids, recovered.title, [*notes, "drag to turn, scroll to zoom"])
    else:
        write_mesh(path, solids[0])
    print(path, flush=True)


def solid(name: str, vertices: np.ndarray, faces: np.ndarray, colour: Sequence[int]) -> Solid:
    """A mesh of one colour."""
    return Solid(name, vertices, faces, np.tile(np.array(colour, np.uint8), (len(vertices), 1)))


def compared(vertices: np.ndarray, true_vertices: np.ndarray, faces: np.ndarray) -> list[Solid]:
    """A mesh coloured by its vertices' distance from the true ones, and the true mesh."""
    errors = MM * np.linalg.norm(vertices - true_vertices, axis=1)
    colours = np.rint(255 * colormaps["viridis"](errors / FARTHEST)[:, :3]).astype(np.uint8)
    return [
        Solid("recovered", vertices, faces, colours),
        solid("true", true_vertices, faces, TRUE),
    ]


def attention_picture(
    recoverer: Recoverer, sample: dict[str, Any], joint: int
) -> tuple[np.ndarray, float]:
    """The picture of a joint's attention, and over how many vertices it is spread."""
    outputs, attention = recover_with_attention(recoverer.model, [sample])
    weights = attention[0, joint].double().cpu().numpy()
    view = judge(recoverer.body, sample, outputs[0]).view
    place = np.zeros(3)
    if view is not None:
        place = recoverer.body.joints(view.points)[joint]
    picture = draw_attention(view, recoverer.body, place, weights, crop_of(sample))
    return picture, attended_vertices(weights)

"""Body recovery with a trained METRO: from any pictures, or records of a set, to meshes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from dropkey_core.engine import UserError, instantiate
from dropkey_core.engine.files.atomic_write import output_file
from dropkey_core.engine.files.inputs import Input
from dropkey_core.engine.inference import Trained
from dropkey_core.engine.predictor import Predictor, Result
from projects.metro.body.model import Body, read_body
from projects.metro.body.skeleton import JOINTS
from projects.metro.geometry import crop_map
from projects.metro.mapper import MetroMapper, warped
from projects.metro.metro import Metro
from projects.metro.pictures.mesh_files import KINDS, ColouredMesh, write_mesh, write_page
from projects.metro.pictures.view import colour_of, draw_people, predicted_view
from projects.metro.published import PUBLISHED

LAST_LINEAR = "upsampling.steps.1.weight"  # a row for each vertex of the full mesh
PERSON = "person"  # as detectors call one
DETECTOR = (
    "detr-r50"  # finds the people unless something else is named; needs no loading until then
)
ROOM = 1.2  # side of the square around a person's box, relative to its longer side; as in training
AT_ONCE = 16  # people that go through the network together
Square = tuple[float, float, float]  # x and y of the upper left corner and the side, in pixels


@dataclass(frozen=True, eq=False, repr=False)
class Bodies(Result):
    """The meshes of the people on a picture.

    Attributes:
        vertices: (n, V, 3) float32, metres, as the network gives them: the axes of the camera, x
            right, y down, z forward, the origin near the pelvis.
        joints_3d: (n, 14, 3) float32, likewise, in the order of ``JOINTS``.
        cameras: (n, 3) float32, scale s and shift tx, ty: s (x + tx) and s (y + ty) are positions
            in the square, whose edges are -1 and 1.
        squares: (n, 3) float32, what was cut out of the picture for each: x and y of the upper
            left corner and the side, in pixels.
        faces: (F, 3) integers, the vertices of each face.
    """

    vertices: Tensor
    joints_3d: Tensor
    cameras: Tensor
    squares: Tensor
    faces: np.ndarray

    @property
    def placed(self) -> dict[int, np.ndarray]:
        """Each person's vertices (V, 3) before one camera for the whole picture.

        Without those whose own camera sees nothing, of which a warning tells.
        """
        size = self.image.shape[1:]
        people = zip(self.vertices, self.cameras, self.squares, strict=True)
        views = [predicted_view(*each, size) for each in people]
        seen = {n: view.points for n, view in enumerate(views) if view is not None}
        if len(seen) < len(views):
            place = self.file_name or "a picture"
            warn(
                f"{len(views) - len(seen)} of {len(views)} people on {place} are not drawn: "
                "their cameras see nothing"
            )
        return seen

    def draw(self) -> Image.Image:
        """The picture with all meshes over it, the nearer before the farther; UserError if one is
        not finite."""
        pixels = self.image.permute(1, 2, 0).contiguous().numpy()
        return Image.fromarray(draw_people(pixels, self.placed, self.faces))

    def save(self, path: str | Path) -> None:
        """Write ``draw()``, or all meshes where the path ends in .glb, .obj, .ply or .html.

        Raises:
            UserError: another ending, nobody to write, trimesh is missing, or the file cannot be
                written.
        """
        path = Path(path)
        if path.suffix.lstrip(".") not in KINDS:
            super().save(path)
            return
        if not (placed := self.placed):
            raise UserError(
                f"cannot save {path}: of {len(self.vertices)} people on {self.file_name} none is "
                "before its camera"
            )
        path = output_file(path)
        middle = np.mean([vertices.mean(axis=0) for vertices in placed.values()], axis=0)
        meshes = [
            ColouredMesh(f"person {n + 1}", vertices - middle, self.faces, colour_of(n))
            for n, vertices in placed.items()
        ]
        if path.suffix == ".html":
            notes = ["drag to turn, scroll to zoom"]
            write_page(path, meshes, Path(self.file_name).name, notes, side_by_side=False)
        else:
            write_mesh(path, meshes)

    def to_dict(self) -> dict[str, Any]:
        """All but the picture and the faces, which are the same for every one."""
        fields = super().to_dict()
        fields.pop("faces")
        return fields


@cache  # of a video once
def warn(text: str) -> None:
    """Print a warning, unless it was printed before."""
    print(f"warning: {text}")


@dataclass(frozen=True, repr=False)
class BodyEstimator(Predictor[Bodies]):
    """A trained METRO in eval mode with all that it takes to use it.

    Attributes:
        model: the network.
        body: whose mesh it recovers.
        config: of the model and of the test set.
        detector: finds the people on a picture, or what it is loaded from once it is needed; None:
            one, on the whole picture.
    """

    kind = "METRO"
    key = LAST_LINEAR
    published = PUBLISHED
    results_file = "bodies.json"
    things = "people"

    model: Metro
    body: Body
    config: DictConfig
    detector: Predictor[Any] | str | None = DETECTOR

    @classmethod
    def from_trained(
        cls, trained: Trained, detector: "Predictor[Any] | str | None" = DETECTOR
    ) -> "BodyEstimator":
        """Build the config's model and load its weights.

        Args:
            trained: config and checkpoint.
            detector: finds the people: a ``Detector``, or what one is loaded from; None (or
                ``none``): there is one, on the whole picture.

        Raises:
            UserError: the checkpoint is of another model, or of another body.
        """
        body_file = OmegaConf.select(trained.config, "model.body")
        if body_file is None:
            raise UserError("the config has no model.body, the body model whose mesh is recovered")
        found = len(trained.tensor(cls.kind, cls.key))
        body = read_body(body_file)
        if found != len(body.template):
            raise UserError(
                f"{trained.source} is for a body of {found} vertices, but {body_file} has "
                f"{len(body.template)}; give the one it was trained with as dataset.body=FILE"
            )
        return cls(trained.build(), body, trained.config, detector)

    @cached_property
    def mapper(self) -> MetroMapper:
        """From a record of a set to the network's sample; smplx poses its true mesh."""
        return instantiate(self.config.dataloader.test.mapper, "dataloader.test.mapper")

    def sample(self, record: dict[str, Any]) -> dict[str, Any]:
        """The network's sample of a record of a set, or of a whole picture.

        Args:
            record: see ``load_humbi``, or the fields of an ``Input``.

        Raises:
            UserError: an image that cannot be read.
        """
        if "subject" in record:
            return self.mapper(record)
        picture = Input(**record)
        crop = cropped(picture, whole(picture), self.model.image_size)
        return {**crop, "has_mesh": False}

    @cached_property
    def finder(self) -> Predictor[Any] | None:
        """The detector, loaded on the model's device; UserError if it knows no persons."""
        try:
            return person_detector(self.detector, self.config.train.device)
        except UserError as error:
            how = "detector=None (--detector none) takes the whole picture for one person"
            raise UserError(f"{error}; {how}") from error

    @property
    def score_threshold(self) -> float | None:
        """The detector's."""
        return None if self.finder is None else self.finder.score_threshold

    def predict(
        self,
        inputs: Sequence[Input],
        squares: Sequence[Square] | None = None,
        score_threshold: float | None = None,
    ) -> list[Bodies]:
        """Recover the meshes of the people on a batch of pictures.

        Args:
            inputs: the pictures.
            squares: around the people, the same on every picture; by default what the detector
                finds, and without one the whole picture.
            score_threshold: people that the detector is less sure of are left out; by default its
                own.

        Raises:
            UserError: a square outside of a picture, or a threshold that no detector is there for.
        """
        least = {} if score_threshold is None else {"score_threshold": score_threshold}
        if least and (squares is not None or self.finder is None):
            raise UserError("score_threshold is for the people that a detector finds: none is used")
        if squares is not None:
            places = [list(squares) for _ in inputs]
        elif self.finder is None:
            places = [[whole(each)] for each in inputs]
        else:
            places = [people_on(result) for result in self.finder.predict(inputs, **least)]
        samples = [
            cropped(each, square, self.model.image_size)
            for each, around in zip(inputs, places, strict=True)
            for square in around
        ]
        outputs = []
        for start in range(0, len(samples), AT_ONCE):
            outputs += self.model(samples[start : start + AT_ONCE])
        return [
            self.bodies(each, around, [outputs.pop(0) for _ in around])
            for each, around in zip(inputs, places, strict=True)
        ]

    def bodies(
        self, picture: Input, squares: Sequence[Square], outputs: Sequence[Mapping[str, Tensor]]
    ) -> Bodies:
        """The people on a picture: the square of each, and what the network found there."""
        shapes = {
            "vertices": self.body.template.shape,
            "joints_3d": (len(JOINTS), 3),
            "camera": (3,),
        }
        tensors = []
        for name, shape in shapes.items():
            found = [own[name].cpu() for own in outputs]
            tensors.append(torch.stack(found) if found else torch.zeros(0, *shape))
        corners = torch.tensor(squares, dtype=torch.float32).reshape(-1, 3)
        return Bodies(picture.image, picture.file_name, *tensors, corners, self.body.faces)


def person_detector(
    detector: Predictor[Any] | str | Path | None, device: str
) -> Predictor[Any] | None:
    """Load a detector where only its source is given; UserError if it knows no persons."""
    if detector == "none":
        return None
    if isinstance(detector, str | Path):
        from projects.predictors import load_predictor

        detector = load_predictor(detector, device=device)
    if detector is not None and PERSON not in getattr(detector, "names", ()):
        raise UserError(f"the detector of people knows no class {PERSON!r}")
    return detector


def whole(picture: Input) -> Square:
    """The square around a whole picture."""
    height, width = picture.image.shape[1:]
    side = max(height, width)
    return ((width - side) / 2, (height - side) / 2, float(side))


def people_on(found: Any) -> list[Square]:
    """Squares around the persons among detections whose boxes reach into the picture."""
    height, width = found.image.shape[1:]
    limits = np.array([width, height, width, height])
    squares = []
    for name, corners in zip(found.names, found.boxes_xyxy.numpy(), strict=True):
        x0, y0, x1, y1 = np.clip(corners, 0, limits)
        if name == PERSON and x1 > x0 and y1 > y0:
            side = ROOM * max(x1 - x0, y1 - y0)
            squares.append(((x0 + x1 - side) / 2, (y0 + y1 - side) / 2, side))
    return squares


def cropped(picture: Input, square: Square, size: int) -> dict[str, Any]:
    """``image`` (3, size, size) uint8, a square of a picture, black beyond its edges."""
    height, width = picture.image.shape[1:]
    x, y, side = square
    if x >= width or y >= height or x + side <= 0 or y + side <= 0:
        raise UserError(
            f"the square {x:g},{y:g},{side:g} is outside of {picture.file_name or 'a picture'}, "
            f"which has {width} x {height} pixels (width x height)"
        )
    centre = (x + (side - 1) / 2, y + (side - 1) / 2)
    pixels = picture.image.permute(1, 2, 0).numpy()
    crop = warped(pixels, crop_map(centre, side, size), size)
    image = torch.from_numpy(crop).permute(2, 0, 1).contiguous()
    return {"image": image, "file_name": picture.file_name}

"""Body recovery with a trained METRO: from images, or records of a set, to meshes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from dropkey_core.engine import UserError, instantiate
from dropkey_core.engine.files.images import read_image
from dropkey_core.engine.inference import load_trained, read_model_weights
from projects.metro.body.model import Body, read_body
from projects.metro.geometry import crop_map
from projects.metro.mapper import MetroMapper, warped
from projects.metro.metro import Metro

LAST_LINEAR = "upsampling.steps.1.weight"  # a row for each vertex of the full mesh
Square = tuple[float, float, float]  # x and y of the upper left corner and the side, in pixels


@dataclass(frozen=True)
class BodyEstimator:
    """A trained METRO in eval mode with all that it takes to use it."""

    model: Metro
    body: Body  # whose mesh it recovers
    config: DictConfig  # of the model and of the test set

    @classmethod
    def load(cls, config: DictConfig, weights: str) -> "BodyEstimator":
        """Build the config's model and load a checkpoint of it.

        Raises:
            UserError: the checkpoint is of another model, or of another body.
        """
        body_file = OmegaConf.select(config, "model.body")
        if body_file is None:
            raise UserError("the config has no model.body, the body model whose mesh is recovered")
        content = read_model_weights(weights, "METRO", LAST_LINEAR)
        body = read_body(body_file)
        found, expected = len(content.get("model", content)[LAST_LINEAR]), len(body.template)
        if found != expected:
            raise UserError(
                f"{weights} is for a body of {found} vertices, but {body_file} has {expected}; "
                "give the one it was trained with as dataset.body=FILE"
            )
        return cls(load_trained(config, weights, content), body, config)

    @cached_property
    def mapper(self) -> MetroMapper:
        """From a record of a set to the network's sample; smplx poses its true mesh."""
        return instantiate(self.config.dataloader.test.mapper, "dataloader.test.mapper")

    def sample(self, record: Mapping[str, Any], square: Square | None = None) -> dict[str, Any]:
        """The network's sample of a record of a set, or of an image of which nothing is known.

        Args:
            record: see ``load_humbi``, or nothing but a ``file_name``.
            square: around the person on such an image; None takes all of it.

        Raises:
            UserError: an image that cannot be read, or a square outside of it.
        """
        if "subject" in record:
            return self.mapper(dict(record))
        return {**cropped(record["file_name"], square, self.model.image_size), "has_mesh": False}

    @torch.no_grad()
    def predict(
        self, record: str | Mapping[str, Any], square: Square | None = None
    ) -> dict[str, Tensor]:
        """Recover the mesh of a person.

        Args:
            record: path of a file, or see ``sample``.
            square: see ``sample``.

        Returns:
            ``vertices`` (V, 3) and ``joints_3d`` (14, 3) in metres, ``camera`` (3,); see ``Metro``.
        """
        record = {"file_name": record} if isinstance(record, str) else record
        return self.model([self.sample(record, square)])[0]


def cropped(path: str | Path, square: Square | None, size: int) -> dict[str, Any]:
    """``image`` (3, size, size) uint8, a square of an image file, black beyond its edges."""
    image = read_image(path)
    height, width = image.shape[1:]
    if square is None:
        centre, side = ((width - 1) / 2, (height - 1) / 2), float(max(height, width))
    else:
        x, y, side = square
        if x >= width or y >= height or x + side <= 0 or y + side <= 0:
            raise UserError(
                f"--box {x:g},{y:g},{side:g} is outside of {path}, which has {width} x {height} "
                "pixels (width x height)"
            )
        centre = (x + (side - 1) / 2, y + (side - 1) / 2)
    crop = warped(image.permute(1, 2, 0).numpy(), crop_map(centre, side, size), size)
    return {"image": torch.from_numpy(crop).permute(2, 0, 1).contiguous(), "file_name": str(path)}

"""From a record to a sample: the person cut out and augmented, mesh and camera with the picture."""

import os
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from dropkey_core.engine.files.images import read_image
from projects.metro.body.model import BodyModel, read_body
from projects.metro.body.skeleton import H36M_PELVIS, JOINTS_FROM_H36M, JOINTS_MIRROR
from projects.metro.geometry import (
    MIRROR,
    Array,
    camera_after,
    crop_map,
    in_camera,
    mirrored_pose,
    motion,
    project,
    relative_positions,
)

NAMES = ("file_name", "image_id", "subject", "frame", "camera")  # of a record, for its sample


@dataclass(frozen=True)
class Augmentation:
    """One draw of METRO's augmentation; the default changes nothing."""

    mirrored: bool = False  # left to right, after the turn
    colours: tuple[float, ...] = (1.0, 1.0, 1.0)  # factors of red, green and blue
    degrees: float = 0.0  # turn about the box's centre, counter-clockwise
    zoom: float = 1.0  # the box's side is multiplied by it


class MetroMapper:
    """METRO's preparation of a picture and the mesh on it (arXiv 2012.09760 and its code).

    In training the picture is mirrored, recoloured, turned and zoomed; mesh, joints and camera
    follow. In evaluation the box is only scaled to ``image_size``. Other than in METRO's code
    pixels are averaged when the picture shrinks, and the camera is kept, so that the mesh can be
    drawn over the crop. All randomness comes from torch's global generator.

    Args:
        body: a body model's .npz, relative to the dataset root or absolute; it has to be the one
            that was fitted to the pictures.
        training: whether to augment.
        image_size: the crop's side in pixels.
        flip_probability: share of pictures that are mirrored.
        colour_noise: greatest relative change of a channel; all are equally likely.
        rotation_degrees: standard deviation of the normal angle; twice that is its bound.
        rotation_probability: share of pictures that are turned.
        zoom_noise: standard deviation of the box's normal relative change, and its bound.
        truncate_joints_2d: move ``joints_2d`` to whole pixels of the crop as METRO's code does:
            cut off the fraction, then one further to the right and down.

    Raises:
        UserError: the body model is missing or not sound, or smplx is not installed.
    """

    def __init__(
        self,
        body: str | os.PathLike[str],
        training: bool,
        image_size: int = 224,
        flip_probability: float = 0.5,
        colour_noise: float = 0.4,
        rotation_degrees: float = 30.0,
        rotation_probability: float = 0.4,
        zoom_noise: float = 0.25,
        truncate_joints_2d: bool = True,
    ) -> None:
        self.training = training
        self.image_size = image_size
        self.flip_probability = flip_probability
        self.colour_noise = colour_noise
        self.rotation_degrees = rotation_degrees
        self.rotation_probability = rotation_probability
        self.zoom_noise = zoom_noise
        self.truncate_joints_2d = truncate_joints_2d
        arrays = read_body(body)
        self.model = BodyModel(arrays)
        self.h36m_regressor = arrays.h36m_regressor

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Make the sample of one record.

        V vertices of the body, S = ``image_size``, J = 14 joints in the order of ``JOINTS``.

        Args:
            record: see ``load_humbi``.

        Returns:
            ``image`` (3, S, S) uint8 RGB; ``vertices`` (V, 3) float32, metres on the camera's axes,
            the mesh's H36M pelvis at the origin; ``joints_3d`` (14, 4) float32, the same and a
            confidence; ``joints_2d`` (14, 3) float32, x and y with the crop's edges at -1 and 1,
            and a confidence; ``has_mesh`` and ``has_joints_3d``, True; ``K`` (3, 3) float32 of the
            crop's pixels and ``pelvis`` (3,) float32, metres from the camera: ``vertices + pelvis``
            projected by ``K`` lie on the picture. ``file_name``, ``image_id``, ``subject``,
            ``frame``, ``camera`` are the record's. Confidences are 1.

            A mirrored sample has SMPL's mesh of the mirrored pose, in which every vertex is where
            it belongs; joints are the mirrored ones with sides swapped, as in METRO.

        Raises:
            UserError: the picture cannot be read or has another size than the record says.
        """
        drawn = self.draw() if self.training else Augmentation()
        side = record["box_side"] * drawn.zoom
        to_crop = crop_map(record["centre"], side, self.image_size, drawn.degrees, drawn.mirrored)
        picture = read_image(record["file_name"], (record["height"], record["width"]))
        crop = warped(picture.permute(1, 2, 0).numpy(), to_crop, self.image_size)
        crop = coloured(crop, drawn.colours)
        return {
            **{name: record[name] for name in NAMES},
            "image": torch.from_numpy(crop).permute(2, 0, 1).contiguous(),
            **self.targets(record, drawn, to_crop),
        }

    def draw(self) -> Augmentation:
        """Draw an augmentation."""
        flip, turn = torch.rand(2).tolist()
        angle, zoom = torch.randn(2).tolist()
        degrees = float(np.clip(angle, -2, 2)) * self.rotation_degrees
        return Augmentation(
            mirrored=flip < self.flip_probability,
            colours=tuple((1 + self.colour_noise * (2 * torch.rand(3) - 1)).tolist()),
            degrees=degrees if turn < self.rotation_probability else 0.0,
            zoom=1 + float(np.clip(zoom, -1, 1)) * self.zoom_noise,
        )

    def targets(
        self, record: dict[str, Any], drawn: Augmentation, to_crop: Array
    ) -> dict[str, Any]:
        """Everything of a sample that describes the mesh."""
        move = motion(drawn.degrees, drawn.mirrored)
        K = camera_after(record["K"], to_crop, move)
        mesh = self.mesh(record["pose"], record["betas"])
        joints = self.h36m_regressor @ mesh  # (17, 3)
        offset = in_camera(record["translation"], record["R"], record["C"]) / record["scale"]
        joints = (joints @ record["R"].T + offset) @ move.T
        pelvis = joints[H36M_PELVIS]
        joints = joints[list(JOINTS_FROM_H36M)]
        facing = move @ record["R"]
        if drawn.mirrored:
            joints = joints[list(JOINTS_MIRROR)]
            mesh = self.mesh(mirrored_pose(record["pose"]), record["betas"])
            facing = facing @ MIRROR  # that pose is the mirrored person's in the mirrored world
        vertices = (mesh - self.h36m_regressor[H36M_PELVIS] @ mesh) @ facing.T
        return {
            "vertices": float32(vertices),
            "joints_3d": with_confidence(joints - pelvis),
            "joints_2d": with_confidence(self.positions(project(joints, K), drawn.mirrored)),
            "has_mesh": True,
            "has_joints_3d": True,
            "K": float32(K),
            "pelvis": float32(pelvis),
        }

    def mesh(self, pose: Array, betas: Array) -> Array:
        """Vertices (V, 3) of a pose (72,) and a shape (10,), in metres."""
        with torch.no_grad():
            return self.model(float32(pose)[None], float32(betas)[None])[0].double().numpy()

    def positions(self, pixels: Array, mirrored: bool) -> Array:
        """Where joints at pixels (14, 2) of the crop are in [-1, 1]; see ``truncate_joints_2d``.

        METRO cuts off before it mirrors; so the pixels are mirrored back before and once more
        after.
        """
        positions = relative_positions(pixels, self.image_size) * [-1 if mirrored else 1, 1]
        if self.truncate_joints_2d:
            from_edge = (positions + 1) / 2 * self.image_size
            positions = 2 * (np.trunc(from_edge) + 1) / self.image_size - 1
        return positions * [-1 if mirrored else 1, 1]


def warped(image: np.ndarray, to_crop: Array, size: int) -> np.ndarray:
    """The crop of a picture, black where it reaches over the picture's edge.

    The part that is needed is first brought to the crop's resolution, every pixel the mean of the
    area it covers; so nothing is left that is too fine for the crop. One interpolation does the
    rest: turn, mirror and the fraction of a pixel.

    Args:
        image: (height, width, 3) uint8.
        to_crop: (3, 3) from its pixels to the crop's, see ``crop_map``.
        size: the crop's side in pixels.

    Returns:
        (size, size, 3) uint8.
    """
    corners = np.array([[x, y, 1] for x in (-1, size) for y in (-1, size)])
    x, y, _ = np.linalg.inv(to_crop) @ corners.T
    height, width = image.shape[:2]
    left, right = np.clip([np.floor(x.min()), np.ceil(x.max()) + 1], 0, width).astype(int)
    top, bottom = np.clip([np.floor(y.min()), np.ceil(y.max()) + 1], 0, height).astype(int)
    if left == right or top == bottom:
        return np.zeros((size, size, 3), np.uint8)
    part = image[top:bottom, left:right]
    zoom = np.sqrt(abs(np.linalg.det(to_crop)))
    x_step, y_step = 1.0, 1.0
    if zoom < 1:
        smaller = [max(1, round(length * zoom)) for length in (right - left, bottom - top)]
        part = cv2.resize(part, smaller, interpolation=cv2.INTER_AREA)
        x_step, y_step = (right - left) / smaller[0], (bottom - top) / smaller[1]
    x, y = left + (x_step - 1) / 2, top + (y_step - 1) / 2  # of the part's first pixel
    to_image = np.array([[x_step, 0, x], [0, y_step, y], [0, 0, 1]])
    return cv2.warpAffine(part, (to_crop @ to_image)[:2], (size, size), flags=cv2.INTER_LINEAR)


def coloured(image: np.ndarray, factors: tuple[float, ...]) -> np.ndarray:
    """Channels (height, width, 3) uint8 times factors, rounded, at most 255."""
    if all(factor == 1 for factor in factors):
        return image
    table = np.arange(256)[:, None] * np.array(factors)  # (256, 3)
    return cv2.LUT(image, np.clip(np.rint(table), 0, 255).astype(np.uint8)[:, None])


def with_confidence(points: Array) -> Tensor:
    """Points (n, k) as (n, k + 1) float32, the last column 1."""
    return float32(np.column_stack([points, np.ones(len(points))]))


def float32(array: np.ndarray) -> Tensor:
    """An array as a tensor of its own."""
    return torch.tensor(array, dtype=torch.float32)

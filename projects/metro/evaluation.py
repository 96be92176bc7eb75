"""Evaluation of body meshes: MPVE, MPJPE and PA-MPJPE."""

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dropkey_core.engine import ImageEvaluator, UserError
from projects.metro.body.model import read_body
from projects.metro.body.skeleton import H36M_PELVIS, JOINTS, JOINTS_FROM_H36M
from projects.metro.metrics import mpjpe, mpve, pa_mpjpe

ERRORS_FILE = "mesh_errors.csv"  # of each image
METRICS = ("MPVE", "MPJPE", "PA-MPJPE")
MEAN_POSE = "MPJPE of the mean pose"
NAMES = ("image_id", "subject", "frame", "camera")  # what tells an image from the others

MM = 1000.0  # per metre

# What is kept of an image, in metres; NaN where there is no ground truth.
KEPT = np.dtype(
    [
        *((name, np.int64) for name in NAMES),
        ("vertex_error", np.float64),
        ("pred_joints", np.float64, (len(JOINTS), 3)),
        ("true_joints", np.float64, (len(JOINTS), 3)),
    ]
)


class MeshEvaluator(ImageEvaluator):
    """METRO's MPVE, MPJPE and PA-MPJPE of predicted meshes; detectron2's evaluator contract.

    - **MPVE**: mean distance of the vertices, each mesh seen from its own H36M pelvis.
    - **MPJPE**: mean distance of the 14 joints, each skeleton seen from the middle of its hips.
    - **PA-MPJPE**: the same after the best rotation, scale and translation of each skeleton, see
      ``procrustes_align``.

    Predicted joints are those that the body's regressor finds in the predicted *mesh*, whatever
    joints the model gives beside it. True joints count with any confidence. The errors are averaged
    over the images that have the ground truth: a mesh for the first, joints for the others.

    The averages are over the images of all processes, one counts as much as any other; METRO's
    evaluation averages the averages of its processes. Beside them stands, as a yardstick, the MPJPE
    of always predicting the mean of the true joints.

    Args:
        body: .npz of the body model, relative to the dataset root or absolute.
        output_dir: folder for ``mesh_errors.csv``, the errors of each image in mm. None: no file.

    Raises:
        UserError: see ``read_body``.
    """

    def __init__(
        self, body: str | os.PathLike[str], output_dir: str | os.PathLike[str] | None = None
    ) -> None:
        self.body = body
        regressor = torch.tensor(read_body(body).h36m_regressor)  # (17, V)
        self.num_vertices = regressor.shape[1]
        # SMPL's 17 joints are sums of some 100 of the 6,890 vertices.
        self.joint_vertices = regressor.any(dim=0).nonzero().flatten()
        self.regressor = regressor[:, self.joint_vertices]
        super().__init__(output_dir)

    def keep(self, sample: dict[str, Any], output: dict[str, Tensor]) -> np.ndarray:
        """Keep the numbers of ``KEPT`` of an image.

        Args:
            sample: the whole numbers ``image_id``, ``subject``, ``frame`` and ``camera``;
                ``file_name``; ``has_mesh`` and, where it is true, ``vertices`` (V, 3);
                ``has_joints_3d`` and, where it is true, ``joints_3d`` (14, 4) with a confidence
                that is not looked at. Metres, with any origin.
            output: ``vertices`` (V, 3) in metres, as the network gives them.

        Raises:
            UserError: another number of vertices or joints than the body's, or what is not finite;
                with the image.
        """
        shape = (self.num_vertices, 3)
        pred = self._points(sample, output["vertices"], "predicted vertices", shape)
        pred_joints = self._h36m_joints(pred)
        vertex_error = math.nan
        if sample["has_mesh"]:
            true = self._points(sample, sample["vertices"], "true vertices", shape)
            true_pelvis = self._h36m_joints(true)[H36M_PELVIS]
            vertex_error = mpve(pred - pred_joints[H36M_PELVIS], true - true_pelvis).item()
        true_joints = torch.full((len(JOINTS), 3), math.nan)
        if sample["has_joints_3d"]:
            shape = (len(JOINTS), 4)
            true_joints = self._points(sample, sample["joints_3d"], "true joints", shape)[:, :3]
        names = [int(sample[name]) for name in NAMES]
        joints = (pred_joints[list(JOINTS_FROM_H36M)].numpy(), true_joints.numpy())
        return np.array((*names, vertex_error, *joints), KEPT)

    def measure(self, kept: dict[int, np.ndarray]) -> dict[str, dict[str, float]]:
        """Measure what was kept, by image id, and print a table in mm.

        Returns:
            ``{"mesh": {"MPVE", "MPJPE", "PA-MPJPE", "MPJPE of the mean pose"}}`` in mm; NaN where
            no image has the ground truth.
        """
        images = np.stack(list(kept.values()))
        errors = errors_of(images)
        means = {name: torch.from_numpy(errors[name]).nanmean().item() for name in METRICS}
        mean_pose = mean_pose_error(images)
        print(f"{f'mm, {len(images)} images':<16}" + "".join(f"{name:>10}" for name in METRICS))
        print(f"{'all':<16}" + "".join(f"{mean:>10.2f}" for mean in means.values()))
        print(f"{'mean pose':<26}{mean_pose:>10.2f}")
        columns = [*(images[name] for name in NAMES), *errors.values()]
        rows = zip(*(column.tolist() for column in columns), strict=True)
        self.write_csv(ERRORS_FILE, [*NAMES, *METRICS], rows)
        return {"mesh": {**means, MEAN_POSE: mean_pose}}

    def draw(
        self, samples: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Tensor]]
    ) -> np.ndarray:
        """Draw recovered and true meshes over images and from the side, (H, W, 3) uint8."""
        from projects.metro.pictures.rows import mesh_row
        from projects.page import draw_page

        body = read_body(self.body)
        rows = [mesh_row(body, *each) for each in zip(samples, outputs, strict=True)]
        return np.asarray(draw_page(rows))

    def _h36m_joints(self, vertices: Tensor) -> Tensor:
        """Human3.6M's joints (17, 3) of a mesh (V, 3), double precision."""
        return self.regressor @ vertices[self.joint_vertices]

    def _points(
        self, sample: dict[str, Any], points: Any, name: str, shape: tuple[int, int]
    ) -> Tensor:
        """Points on the CPU in double precision.

        Raises:
            UserError: for another shape, and for NaN or infinity.
        """
        points = torch.as_tensor(points).detach().cpu().double()
        image = f"image {sample['image_id']} ({sample['file_name']})"
        if points.shape != shape:
            raise UserError(
                f"{image}: the {name} have shape {tuple(points.shape)} instead of {shape}, as the "
                f"body {self.body} asks for"
            )
        if not points.sum().isfinite():  # much faster than to ask each of them
            row = int(points.isfinite().all(dim=1).int().argmin())
            raise UserError(
                f"{image}: row {row} of the {name} is {points[row].tolist()}; there is no error to "
                "measure"
            )
        return points


def errors_of(images: np.ndarray) -> dict[str, np.ndarray]:
    """The errors (n,) in mm of images, ``KEPT`` (n,), by metric; NaN without ground truth."""
    known = np.isfinite(images["true_joints"]).all(axis=(1, 2))
    pred, true = (torch.from_numpy(images[name][known]) for name in ("pred_joints", "true_joints"))
    errors = {"MPVE": MM * images["vertex_error"]}
    for name, metric in (("MPJPE", mpjpe), ("PA-MPJPE", pa_mpjpe)):
        errors[name] = np.full(len(images), math.nan)
        errors[name][known] = MM * metric(pred, true).numpy()
    return errors


def mean_pose_error(images: np.ndarray) -> float:
    """The MPJPE in mm of always predicting the mean of the true joints; NaN if there are none."""
    true = torch.from_numpy(images["true_joints"])
    true = true[true.isfinite().all(dim=(1, 2))]
    return MM * float(mpjpe(true.mean(dim=0).expand_as(true), true).mean())

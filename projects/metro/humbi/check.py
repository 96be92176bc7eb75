"""Whether a set's files agree with each other and with the body model: what its index rests on."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from dropkey_core.engine import UserError
from projects.metro.body.model import Body, BodyModel, read_body
from projects.metro.geometry import project
from projects.metro.humbi.files import (
    PROJECTIONS,
    Array,
    keypoint_file,
    read_cameras,
    read_keypoints,
    read_projections,
    read_vertices,
    vertex_file,
)
from projects.metro.humbi.index import HumbiIndex

# Files with five digits after the point are right to a hundredth of a millimetre.
LARGEST_ERROR = 1.0  # mm

# Of the first twelve of ``JOINTS``, ankles to wrists, their numbers among OpenPose's BODY_25.
KEYPOINTS = (11, 10, 9, 12, 13, 14, 4, 3, 2, 5, 6, 7)


class Agreement(NamedTuple):
    """What a frame's files say of the same things."""

    path: Path  # of the frame's mesh
    mesh_error: float  # largest distance in mm between vertices of the file and of the body model
    # (n,) in mm, how far keypoints that were found lie from the mesh's joints. Both define joints
    # in their own way: some centimetres are usual.
    joint_distances: Array
    # Largest distance in pixels between the mesh projected by project.txt and by intrinsic.txt and
    # extrinsic.txt; NaN without the first.
    pixel_error: float


def check_meshes(
    source: Path,
    index: HumbiIndex,
    body: str | os.PathLike[str],
    count: int,
    seed: int = 0,
) -> None:
    """Compare a sample of frames with the body model and print how well they agree.

    Args:
        source: the set's folder.
        index: its index.
        body: the body model's .npz.
        count: how many frames to look at, or all if there are fewer, drawn with ``seed``.
        seed: see ``count``.

    Raises:
        UserError: in a frame that was looked at scale * SMPL + translation is not the mesh of the
            file, a file of it cannot be read, or the body has another number of vertices.
    """
    arrays = read_body(body)
    model = BodyModel(arrays)
    rows = np.random.default_rng(seed).permutation(len(index.frame_numbers))[:count]
    found = [agreement(source, index, row, arrays, model) for row in sorted(rows.tolist())]
    failed = [one for one in found if one.mesh_error > LARGEST_ERROR]
    worst = max(found, key=lambda one: one.mesh_error)
    print(
        f"checked {len(found)} of {len(index.frame_numbers):,} frames: scale * SMPL + translation "
        f"is the mesh to {worst.mesh_error:.3g} mm"
    )
    distances = np.concatenate([one.joint_distances for one in found])
    if len(distances):
        print(f"keypoints and the mesh's joints: {np.median(distances):.0f} mm apart (median)")
    pixel_errors = [one.pixel_error for one in found if np.isfinite(one.pixel_error)]
    if pixel_errors:
        print(f"project.txt and K R [I | -C]: {max(pixel_errors):.2g} pixels apart at most")
    for one in failed:
        print(f"not the body's: {one.path}, off by {one.mesh_error:.3g} mm")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(found)} meshes are not those of {body}, worst: {worst.path}, "
            f"{worst.mesh_error:.3g} mm off; is it the model that was fitted? The index is written"
        )


def agreement(source: Path, index: HumbiIndex, row: int, body: Body, model: BodyModel) -> Agreement:
    """How well the files of one frame, a row of the index, agree."""
    folder = source / str(index.subject_folders[index.frame_subjects[row]])
    frame = int(index.frame_numbers[row])
    path = vertex_file(folder, frame)
    vertices = read_vertices(path, len(body.template))
    scale, translation = index.scales[row], index.translations[row]
    with torch.no_grad():
        posed = model(torch.tensor(index.poses[[row]]), torch.tensor(index.betas[[row]]))[0]
    error = np.linalg.norm(scale * posed.double().numpy() + translation - vertices, axis=1).max()
    seeing = index.camera_ids[index.view_cameras[index.view_frames == row]]
    return Agreement(
        path,
        1000 * float(error / scale),
        1000 * joint_distances(keypoint_file(folder, frame), body.joints(vertices)) / scale,
        pixel_error(folder, seeing.tolist(), vertices),
    )


def joint_distances(path: Path, joints: Array) -> Array:
    """Distances between joints (14, 3) of a mesh and the keypoints of a file, if there is one.

    A keypoint of zeros or NaN is one that was not found.
    """
    if not path.is_file():
        return np.empty(0)
    keypoints = read_keypoints(path)[list(KEYPOINTS)]
    found = np.isfinite(keypoints).all(axis=1) & keypoints.any(axis=1)
    return np.linalg.norm(keypoints - joints[: len(KEYPOINTS)], axis=1)[found]


def pixel_error(folder: Path, seeing: list[int], vertices: Array) -> float:
    """Largest distance in pixels between two ways to project a mesh, see ``Agreement``.

    ``seeing``: ids of the cameras that have the mesh's vertices (V, 3) before them.
    """
    if not (folder / PROJECTIONS).is_file():
        return float("nan")
    matrices = read_projections(folder / PROJECTIONS)
    cameras, _ = read_cameras(folder)
    points = np.column_stack([vertices, np.ones(len(vertices))])
    return max(
        (
            np.abs(
                project(points, matrices[one]) - project(points, cameras[one].projection())
            ).max()
            for one in seeing
            if one in matrices
        ),
        default=float("nan"),
    )

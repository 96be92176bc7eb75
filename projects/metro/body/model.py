"""A body model of SMPL's format: its arrays, its file, and the mesh that pose and shape give.

V vertices and F faces of the full mesh (SMPL: 6,890 and 13,776), V1 > V2 vertices of the coarser
ones (1,723 and 431). Lengths are metres, y points up, the person looks along +z.
"""

import os
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from dropkey_core.engine import UserError, dataset_path
from dropkey_core.engine.files.arrays import layout_of, layout_problem, read_arrays, write_arrays
from dropkey_core.engine.paths import DATASETS_VARIABLE, datasets_root
from projects.metro.body.skeleton import JOINTS_FROM_H36M, SMPL_PARENTS, Array

NUM_SHAPES = 10
LARGEST_FILE = 2**28  # bytes, unpacked; SMPL takes 37 million

SUM_TO_ONE = ("joint_regressor", "skin_weights", "h36m_regressor")  # row by row

# METRO's template stands upside down: the camera's y points down. The official code turns by this
# number rather than by pi.
HALF_TURN = 3.1416


@dataclass(frozen=True, eq=False)
class Body:
    """The arrays of a body model of SMPL's format.

    Each has the kind of its values in a file and its shape. Read from one, whole numbers are int64,
    all others float64.
    """

    template: Annotated[np.ndarray, "f", ("V", 3)]  # vertices of the mean shape in the rest pose
    faces: Annotated[np.ndarray, "i", ("F", 3)]  # counter-clockwise seen from outside
    # How a vertex moves with each shape parameter.
    shape_directions: Annotated[np.ndarray, "f", ("V", 3, NUM_SHAPES)]
    # How it moves with each entry of R - I of the 23 joints' rotations R, row by row, at rest.
    pose_directions: Annotated[np.ndarray, "f", ("V", 3, 207)]
    joint_regressor: Annotated[np.ndarray, "f", (24, "V")]  # its rows sum to 1
    parents: Annotated[np.ndarray, "i", (24,)]  # of the joints; the root's is -1
    # How much of each joint's motion a vertex takes part in; its rows sum to 1.
    skin_weights: Annotated[np.ndarray, "f", ("V", 24)]
    # Human3.6M's joints in a posed mesh; its rows sum to 1.
    h36m_regressor: Annotated[np.ndarray, "f", (17, "V")]
    # Two coarser meshes, the finer one first: which vertices of the full mesh each keeps, and its
    # faces, indices into these. The second keeps none that the first leaves out.
    coarse_vertices_1: Annotated[np.ndarray, "i", ("V1",)]
    coarse_faces_1: Annotated[np.ndarray, "i", ("F1", 3)]
    coarse_vertices_2: Annotated[np.ndarray, "i", ("V2",)]
    coarse_faces_2: Annotated[np.ndarray, "i", ("F2", 3)]

    @property
    def coarse_vertices(self) -> tuple[np.ndarray, np.ndarray]:
        """Of both coarser meshes, finest first, which vertices of the full mesh they keep."""
        return self.coarse_vertices_1, self.coarse_vertices_2

    def h36m_joints(self, vertices: Array) -> Array:
        """Human3.6M's joints (..., 17, 3) of meshes (..., V, 3), numpy or torch alike.

        A tensor's joints have its dtype and device, and its gradient.
        """
        if isinstance(vertices, Tensor):
            regressor = torch.as_tensor(self.h36m_regressor).to(vertices)
            return regressor @ vertices
        return self.h36m_regressor @ vertices

    def joints(self, vertices: Array) -> Array:
        """METRO's joints (..., 14, 3) of meshes (..., V, 3), numpy or torch alike."""
        return self.h36m_joints(vertices)[..., list(JOINTS_FROM_H36M), :]

    def template_pose(self) -> np.ndarray:
        """The template turned about x through its root joint, as METRO uses it: (V, 3) float64.

        It stands upright where y points down, and looks at the camera.
        """
        cos, sin = np.cos(HALF_TURN), np.sin(HALF_TURN)
        rotation = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
        root = self.joint_regressor[0] @ self.template  # (3,)
        return (self.template - root) @ rotation.T + root


# ---- file ----------------------------------------------------------------------------------------
LAYOUT = layout_of(Body)


def read_body(path: str | os.PathLike[str]) -> Body:
    """Read and check a body model's .npz.

    Args:
        path: relative to the dataset root, or absolute.

    Raises:
        UserError: the file is missing or unreadable, or an array of ``LAYOUT`` is missing, has
            another shape or kind of number, is not finite, or refers to what is not there.
    """
    path = dataset_path(path)
    if not path.is_file():
        raise UserError(
            f"body model not found: {path} (relative to {DATASETS_VARIABLE}, now "
            f"{datasets_root()}); to make a free one: python datasets/make_body_model.py; "
            "to use SMPL: python datasets/convert_body_model.py"
        )
    arrays = read_arrays(path, LAYOUT, LARGEST_FILE)
    if problem := layout_problem(arrays, LAYOUT) or value_problem(arrays):
        raise UserError(f"{path} is not a body model of this project: {problem}")
    dtypes = {"f": np.float64, "i": np.int64}
    return Body(**{name: arrays[name].astype(dtypes[kind]) for name, (kind, _) in LAYOUT.items()})


def read_origin(path: str | os.PathLike[str]) -> str:
    """Where the body model of a file comes from, as ``write_body`` was told; "" if unknown.

    Raises:
        UserError: the file is unreadable.
    """
    origin = read_arrays(dataset_path(path), {"origin": ("U", ())}, LARGEST_FILE).get(
        "origin", np.array("")
    )
    return str(origin) if origin.dtype.kind == "U" and origin.ndim == 0 else ""


def value_problem(arrays: dict[str, np.ndarray]) -> str | None:
    """Which array of the right shape holds what cannot be."""
    for name in SUM_TO_ONE:
        sums = arrays[name].sum(axis=1)
        if (worst := np.abs(sums - 1).argmax()).size and abs(sums[worst] - 1) > 0.01:
            return f"row {worst} of {name} sums to {sums[worst]:.4g}, not 1"
    if arrays["parents"].tolist() != list(SMPL_PARENTS):
        return f"parents are {arrays['parents'].tolist()}, not SMPL's {list(SMPL_PARENTS)}"
    kept = [arrays["coarse_vertices_1"], arrays["coarse_vertices_2"]]
    full, first, second = map(len, (arrays["template"], *kept))
    limits = {"faces": full, "coarse_vertices_1": full, "coarse_vertices_2": full}
    limits |= {"coarse_faces_1": first, "coarse_faces_2": second}
    for name, limit in limits.items():
        indices = arrays[name]
        if indices.size == 0 or indices.min() < 0 or indices.max() >= limit:
            return f"{name} must be vertex indices of 0 to {limit - 1}"
    for level, vertices in enumerate(kept, 1):
        if len(np.unique(vertices)) < len(vertices):
            return f"coarse_vertices_{level} names a vertex twice"
    if not np.isin(kept[1], kept[0]).all():
        return "coarse_vertices_2 keeps vertices that coarse_vertices_1 leaves out"
    return None


def write_body(path: str | os.PathLike[str], body: Body, origin: str = "") -> None:
    """Write a body model's .npz, which is either there in full or not there.

    Args:
        path: relative to the dataset root, or absolute; folders above it are made.
        body: what to write.
        origin: where it comes from, for ``read_origin``.

    Raises:
        UserError: the body is not one that ``read_body`` would take.
    """
    path = dataset_path(path)
    arrays = {name: getattr(body, name) for name in LAYOUT}
    if problem := layout_problem(arrays, LAYOUT) or value_problem(arrays):
        raise UserError(f"cannot write {path}: {problem}")
    write_arrays(path, {"origin": np.array(origin), **arrays})


# ---- model ---------------------------------------------------------------------------------------
class BodyModel(nn.Module):
    """Vertices of a pose and a shape: smplx's linear blend skinning on a body's arrays.

    smplx is imported here and nowhere else.

    Args:
        body: the arrays; they become buffers, float32.

    Raises:
        UserError: smplx is not installed.
    """

    def __init__(self, body: Body):
        super().__init__()
        try:
            from smplx.lbs import lbs
        except ImportError as error:
            raise UserError(
                "posing a body needs smplx (its licence: non-commercial research only): "
                "pip install -e '.[mesh]'"
            ) from error
        self._skin = lbs
        num_vertices = len(body.template)
        by_pose = body.pose_directions.reshape(num_vertices * 3, -1).T  # (207, 3V), as smplx has it
        for name, array in {
            "template": body.template[None],  # (1, V, 3)
            "shape_directions": body.shape_directions,
            "pose_directions": by_pose,
            "joint_regressor": body.joint_regressor,
            "skin_weights": body.skin_weights,
        }.items():
            tensor = torch.tensor(np.ascontiguousarray(array), dtype=torch.float32)
            self.register_buffer(name, tensor, persistent=False)
        self.register_buffer("parents", torch.tensor(body.parents), persistent=False)

    def forward(self, pose: Tensor, betas: Tensor) -> Tensor:
        """Pose bodies.

        Args:
            pose: (B, 72) float32, axis times angle in radians of the 24 joints, the root first.
            betas: (B, 10) float32 shape parameters.

        Returns:
            (B, V, 3) float32 in metres. The root joint stays where it is in the rest pose.
        """
        vertices, _ = self._skin(
            betas,
            pose,
            self.template.expand(len(pose), -1, -1),
            self.shape_directions,
            self.pose_directions,
            self.joint_regressor,
            self.parents,
            self.skin_weights,
        )
        return vertices

"""Meshes as files that other programs open: OBJ, PLY and GLB, by trimesh."""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from dropkey_core.engine import UserError

MESH_SUFFIXES = ("obj", "ply", "glb")

# From camera axes to what viewers expect, y up and the person looking at the viewer.
Y_UP = np.array([1.0, -1.0, -1.0])


@dataclass(frozen=True)
class Solid:
    """A mesh with colours.

    Attributes:
        name: a few words.
        vertices: (V, 3) metres on camera axes: x right, y down, z forward.
        faces: (F, 3) vertices of each face, counter-clockwise seen from outside.
        colours: (V, 3) uint8 RGB.
    """

    name: str
    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray


def import_trimesh() -> ModuleType:
    """Import trimesh, which only meshes as files and pages need.

    Raises:
        UserError: it is not installed.
    """
    try:
        import trimesh
    except ImportError as error:
        raise UserError(
            "writing meshes and pages needs trimesh: pip install -e '.[mesh]'"
        ) from error
    return trimesh


def as_trimesh(solid: Solid) -> Any:
    """The trimesh.Trimesh of a solid, y up; vertices and faces keep their order."""
    return import_trimesh().Trimesh(
        solid.vertices * Y_UP, solid.faces, vertex_colors=solid.colours, process=False
    )


def make_matt(mesh: Any, brightness: float = 1.0, glow: float = 0.0) -> None:
    """Give a trimesh.Trimesh what GLB needs so that viewers show its colours and shade it smoothly.

    Without a material it would be of metal, dark where nothing is around to be mirrored.

    Args:
        mesh: with colours of its vertices.
        brightness: factor of the colours.
        glow: light that the mesh gives off by itself, everywhere, in [0, 1].
    """
    level = round(255 * brightness)
    mesh.visual.material = import_trimesh().visual.material.PBRMaterial(
        baseColorFactor=[level, level, level, 255],
        emissiveFactor=[glow] * 3,
        metallicFactor=0.0,
        roughnessFactor=1.0,
    )
    _ = mesh.vertex_normals  # trimesh writes those that it has computed


def write_mesh(path: Path, solid: Solid) -> Path:
    """Write a mesh as OBJ, PLY or GLB, whichever the path ends in; returns the path.

    Vertices are in metres, y up, in the order of the body model.

    Raises:
        UserError: trimesh is not installed, another ending, or the file cannot be written.
    """
    if path.suffix.lstrip(".") not in MESH_SUFFIXES:
        raise UserError(f"{path} must end in one of {', '.join(MESH_SUFFIXES)}")
    mesh = as_trimesh(solid)
    if path.suffix == ".glb":
        make_matt(mesh)
    content = mesh.export(file_type=path.suffix.lstrip("."))
    try:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return path

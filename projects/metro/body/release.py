"""SMPL as it is distributed, and METRO's files beside it, made into this project's body model.

SMPL comes as a pickle of Python 2, full of chumpy objects; copies without chumpy and .npz copies
are about, too. METRO's coarse meshes come as pickled objects in an .npz. None of them is unpickled.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from dropkey_core.engine import UserError
from dropkey_core.engine.files.arrays import Layout, layout_problem, read_arrays, read_npy
from dropkey_core.engine.files.outside import read_file, reading
from projects.metro.body.inert_pickle import LARGEST_FILE, as_array, as_objects, read_pickle
from projects.metro.body.model import NUM_SHAPES, Body
from projects.metro.body.skeleton import SMPL_PARENTS

V = 6890
SMPL_LAYOUT: Layout = {
    "v_template": ("f", (V, 3)),
    "f": ("i", (13776, 3)),
    "shapedirs": ("f", (V, 3, "S")),  # 10 or more
    "posedirs": ("f", (V, 3, 207)),
    "J_regressor": ("f", (24, V)),
    "kintree_table": ("i", (2, 24)),
    "weights": ("f", (V, 24)),
}
COARSE_SIZES = (1723, 431)

H36M_FILE = "J_regressor_h36m_correct.npy"
DOWNSAMPLING_FILE = "mesh_downsampling.npz"
METRO_DATA = "https://github.com/microsoft/MeshTransformer/tree/main/metro/modeling/data"


def read_release(smpl: Path, h36m_regressor: Path, mesh_downsampling: Path) -> Body:
    """A body model of the user's SMPL file and METRO's two files.

    Args:
        smpl: the pickle, or an .npz of its arrays.
        h36m_regressor: METRO's ``J_regressor_h36m_correct.npy``.
        mesh_downsampling: METRO's ``mesh_downsampling.npz``.

    Raises:
        UserError: a file is missing, damaged, hostile, or of another body model.
    """
    arrays = read_smpl(smpl)
    first, second = read_coarse_meshes(mesh_downsampling, arrays["f"])
    return Body(
        template=arrays["v_template"].astype(np.float64),
        faces=arrays["f"].astype(np.int32),
        shape_directions=arrays["shapedirs"][:, :, :NUM_SHAPES].astype(np.float64),
        pose_directions=arrays["posedirs"].astype(np.float64),
        joint_regressor=arrays["J_regressor"].astype(np.float64),
        parents=parents_of(arrays["kintree_table"], smpl),
        skin_weights=arrays["weights"].astype(np.float64),
        h36m_regressor=read_h36m_regressor(h36m_regressor),
        coarse_vertices_1=first[0],
        coarse_faces_1=first[1],
        coarse_vertices_2=second[0],
        coarse_faces_2=second[1],
    )


# ---- SMPL ----------------------------------------------------------------------------------------
def content_of(path: Path, how_to_get_it: str) -> bytes:
    """A file's content; UserError if it is not there, far too large or cannot be read."""
    if not path.is_file():
        raise UserError(f"no such file: {path}; {how_to_get_it}")
    return read_file(path, LARGEST_FILE)


def read_smpl(path: Path) -> dict[str, np.ndarray]:
    """SMPL's arrays by SMPL's names, of SMPL's sizes, all numbers finite.

    Raises:
        UserError: the file is missing, damaged, hostile, or of another body model.
    """
    data = content_of(path, "SMPL is at https://smpl.is.tue.mpg.de, after registration")
    if data[:2] == b"PK":
        arrays = read_arrays(path, SMPL_LAYOUT, LARGEST_FILE)
    else:
        found = read_pickle(data, path)
        if not isinstance(found, dict):
            raise UserError(f"{path} is not SMPL: it holds a {type(found).__name__}, not a dict")
        arrays = {n: as_array(found[n], f"{path}: {n}") for n in SMPL_LAYOUT if n in found}
    if problem := layout_problem(arrays, SMPL_LAYOUT):
        raise UserError(f"{path} is not SMPL: {problem}")
    return arrays


def parents_of(table: np.ndarray, path: Path) -> np.ndarray:
    """Parents (24,) int64 of SMPL's ``kintree_table``, whose rows are parents' and own numbers.

    The root's parent is -1, in most files as the unsigned number that has the same bits.

    Raises:
        UserError: the tree is not SMPL's.
    """
    own = {number: joint for joint, number in enumerate(table[1].tolist())}
    parents = [own.get(number, -1) for number in table[0].tolist()]
    if parents != list(SMPL_PARENTS):
        raise UserError(f"{path}: kintree_table gives parents {parents}, which are not SMPL's")
    return np.array(parents)


# ---- METRO's files -------------------------------------------------------------------------------
def read_h36m_regressor(path: Path) -> np.ndarray:
    """METRO's regressor (17, 6890) float64 of Human3.6M's joints.

    Raises:
        UserError: the file is missing, damaged, or of another shape.
    """
    data = content_of(path, f"{H36M_FILE} is at {METRO_DATA} (--h36m-regressor)")
    array = read_npy(io.BytesIO(data), str(path))
    if problem := layout_problem({"the array": array}, {"the array": ("f", (17, V))}):
        raise UserError(f"{path} is not {H36M_FILE}: {problem}")
    return array.astype(np.float64)


def read_coarse_meshes(
    path: Path, full_faces: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """METRO's two coarse meshes: of each, which vertices of the full mesh it keeps, and its faces.

    Of the file's arrays only ``D``, which chooses vertices, and ``F``, the faces of all three
    meshes, are looked at. ``full_faces`` (13776, 3) are SMPL's own.

    Raises:
        UserError: the file is missing, damaged, hostile, or does not choose vertices of SMPL's.
    """
    data = content_of(path, f"{DOWNSAMPLING_FILE} is at {METRO_DATA} (--mesh-downsampling)")
    down, faces = (npz_objects(data, name, f"{path}: {name}") for name in "DF")
    if len(down) < len(COARSE_SIZES) or len(faces) < 1 + len(COARSE_SIZES):
        raise UserError(f"{path} has {len(down)} coarser meshes, METRO needs {len(COARSE_SIZES)}")
    sizes = (V, *COARSE_SIZES)
    meshes = [faces_of(faces[n], f"{path}: F[{n}]", size) for n, size in enumerate(sizes)]
    if not same_faces(meshes[0], full_faces):
        raise UserError(f"{path} belongs to another mesh: F[0] is not the faces of the SMPL file")
    first = chosen_of(down[0], f"{path}: D[0]", (sizes[1], sizes[0]))
    second = chosen_of(down[1], f"{path}: D[1]", (sizes[2], sizes[1]))
    return (first, meshes[1]), (first[second], meshes[2])


def faces_of(value: Any, source: str, num_vertices: int) -> np.ndarray:
    """An array (N, 3) of indices into so many vertices; UserError if it is none."""
    faces = as_array(value, source)
    is_triangles = faces.ndim == 2 and faces.shape[1] == 3 and faces.dtype.kind in "iu"
    if not is_triangles or (faces < 0).any() or (faces >= num_vertices).any():
        raise UserError(f"{source} has no triangles of {num_vertices:,} vertices")
    return faces


def chosen_of(value: Any, source: str, shape: tuple[int, int]) -> np.ndarray:
    """Which vertices a matrix of one 1 per row chooses, (rows,); UserError if it is none."""
    selection = as_array(value, source)
    if selection.shape != shape:
        raise UserError(f"{source} has shape {selection.shape}, not {shape}")
    is_one = selection == 1
    if not (is_one.sum(axis=1) == 1).all() or selection[~is_one].any():
        raise UserError(f"{source} does not choose vertices: a row has more than a single 1")
    return is_one.argmax(axis=1)


def npz_objects(archive: bytes, name: str, source: str) -> list[Any]:
    """The objects of an .npz's array of objects.

    Raises:
        UserError: it is not there or damaged, or names something that no array needs.
    """
    with (
        reading(source),
        zipfile.ZipFile(io.BytesIO(archive)) as opened,
        opened.open(f"{name}.npy") as file,
    ):
        npy.read_magic(file)
        npy.read_array_header_1_0(file)
        pickled = file.read(LARGEST_FILE)
    return as_objects(read_pickle(pickled, source), source)


def same_faces(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two meshes consist of the same triangles, in whatever order."""
    ordered = [np.unique(np.sort(faces, axis=-1), axis=0) for faces in (first, second)]
    return np.array_equal(*ordered)

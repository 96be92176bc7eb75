"""SMPL as it is distributed, and METRO's files beside it, made into this project's body model.

SMPL comes as a pickle of Python 2, full of chumpy objects; copies without chumpy and .npz copies
are about, too. METRO's coarse meshes come as pickled objects in an .npz. None of them is unpickled.
"""

import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.lib import format as npy

from dropkey_core.engine import UserError
from dropkey_core.engine.errors import said_by
from dropkey_core.engine.files.outside import read_file
from projects.metro.body.inert_arrays import (
    NotAnArray,
    as_array,
    as_objects,
    plain_numbers,
    within,
)
from projects.metro.body.inert_pickle import LARGEST_FILE, Note, read_pickle
from projects.metro.body.model import NUM_SHAPES, Body
from projects.metro.body.skeleton import SMPL_PARENTS

V = 6890
SMPL_SHAPES = {
    "v_template": (V, 3),
    "f": (13776, 3),
    "shapedirs": (V, 3, None),
    "posedirs": (V, 3, 207),
    "J_regressor": (24, V),
    "kintree_table": (2, 24),
    "weights": (V, 24),
}
COARSE_SIZES = (1723, 431)
OTHER_MODELS = {778: "MANO", 10475: "SMPL-X", 5023: "FLAME"}  # by their vertices

H36M_FILE = "J_regressor_h36m_correct.npy"
DOWNSAMPLING_FILE = "mesh_downsampling.npz"
METRO_DATA = "https://github.com/microsoft/MeshTransformer/tree/main/metro/modeling/data"

# What zipfile raises for damaged archives; ValueError for positions before the file's beginning.
ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError),
    *(RuntimeError, NotImplementedError, ValueError),
)

Value = TypeVar("Value")


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
    vertices, faces = read_coarse_meshes(mesh_downsampling, arrays["f"])
    return Body(
        template=arrays["v_template"].astype(np.float64),
        faces=arrays["f"].astype(np.int32),
        shape_directions=arrays["shapedirs"][:, :, :NUM_SHAPES].astype(np.float64),
        pose_directions=arrays["posedirs"].astype(np.float64),
        joint_regressor=arrays["J_regressor"].astype(np.float64),
        parents=parents_of(arrays["kintree_table"], smpl),
        skin_weights=arrays["weights"].astype(np.float64),
        h36m_regressor=read_h36m_regressor(h36m_regressor),
        coarse_vertices=vertices,
        coarse_faces=faces,
    )


# ---- files ---------------------------------------------------------------------------------------
def file_bytes(path: Path, how_to_get_it: str) -> bytes:
    """A file's content; UserError if it is not there, far too large or cannot be read."""
    if not path.is_file():
        raise UserError(f"no such file: {path}; {how_to_get_it}")
    return read_file(path, LARGEST_FILE)


def npz_member(archive: zipfile.ZipFile, name: str, path: Path) -> Any:
    """One array of an .npz: an array of numbers, or the ``Note`` of an array of objects.

    Raises:
        UserError: it is not there or damaged, or names something that no body model needs.
    """
    source = f"{path}: {name}"
    try:
        member = archive.getinfo(f"{name}.npy")
        if member.file_size > LARGEST_FILE:
            raise UserError(f"{source} unpacks to more than {LARGEST_FILE:,} bytes")
        data = archive.read(member)
    except KeyError as error:
        there = ", ".join(found.removesuffix(".npy")[:30] for found in archive.namelist()[:20])
        raise UserError(f"{path} has no {name!r}, only {there or 'nothing'}") from error
    except ZIP_ERRORS as error:
        raise UserError(f"{source} is damaged: {said_by(error)}") from error
    return npy_array(data, source)


def npy_array(data: bytes, source: str | Path) -> Any:
    """What a .npy holds: an array of numbers, or the ``Note`` of an array of objects.

    Raises:
        UserError: it is damaged, or names something that no body model needs.
    """
    file = io.BytesIO(data)
    try:
        version = npy.read_magic(file)
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, is_fortran, dtype = read_header[version](file)
    except Exception as error:  # Python's own parser has many; only the bytes can be the cause
        raise UserError(f"{source} is not a sound .npy: {said_by(error)}") from error
    if dtype.hasobject:
        return read_pickle(file.read(), source)
    order = "F" if is_fortran else "C"
    return converted(lambda raw: plain_numbers(dtype, shape, order, raw), file.read(), str(source))


def opened_npz(data: bytes, path: Path) -> zipfile.ZipFile:
    """An .npz's archive; UserError if it is none."""
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except ZIP_ERRORS as error:
        raise UserError(f"{path} is not a sound .npz: {said_by(error)}") from error


def converted(convert: Callable[[Any], Value], value: Any, source: str) -> Value:
    """``convert(value)``; what is wrong with it becomes a UserError."""
    try:
        return convert(value)
    except NotAnArray as error:
        raise UserError(f"{source} {error}") from error


# ---- SMPL ----------------------------------------------------------------------------------------
def read_smpl(path: Path) -> dict[str, np.ndarray]:
    """SMPL's arrays by SMPL's names, of SMPL's sizes, all numbers finite.

    Raises:
        UserError: the file is missing, damaged, hostile, or of another body model.
    """
    data = file_bytes(path, "SMPL is at https://smpl.is.tue.mpg.de, after registration")
    if data[:2] == b"PK":
        archive = opened_npz(data, path)
        values: Mapping[str, Any] = {name: npz_member(archive, name, path) for name in SMPL_SHAPES}
    else:
        values = mapping_of(read_pickle(data, path), path)
    if missing := [name for name in SMPL_SHAPES if name not in values]:
        raise UserError(f"{path} is not SMPL: it has no {', '.join(missing)}")
    arrays = {name: converted(as_array, values[name], f"{path}: {name}") for name in SMPL_SHAPES}
    for name, array in arrays.items():
        if problem := smpl_problem(name, array):
            raise UserError(f"{path}: {problem}")
    return arrays


def mapping_of(document: Any, path: Path) -> Mapping[str, Any]:
    """The dict that a pickle consists of; UserError if it is something else."""
    if isinstance(document, Note) and document.maker.name == "OrderedDict":
        pairs = document.arguments[0] if document.arguments else []
        if isinstance(pairs, list) and all(map(is_named, pairs)):
            return {**dict(pairs), **document.items}
    elif isinstance(document, dict):
        return document
    raise UserError(f"{path} is not SMPL: it holds a {type(document).__name__}, not a dict")


def is_named(pair: Any) -> bool:
    """Whether this is a name and something."""
    return isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str)


def smpl_problem(name: str, array: np.ndarray) -> str | None:
    """What is wrong with one of SMPL's arrays, or None."""
    wanted = SMPL_SHAPES[name]
    if name == "v_template" and array.ndim == 2 and len(array) != V:
        which = f" ({OTHER_MODELS[len(array)]}?)" if len(array) in OTHER_MODELS else ""
        return f"{name} has {len(array):,} vertices{which}, SMPL has {V:,}"
    if name == "kintree_table" and array.shape == (2, 52):
        return "it has 52 joints, as SMPL+H; SMPL has 24"
    fits = array.ndim == len(wanted) and all(
        size == expected or (expected is None and size >= NUM_SHAPES)
        for size, expected in zip(array.shape, wanted, strict=True)
    )
    if not fits:
        expected = ", ".join(f"{NUM_SHAPES} or more" if n is None else str(n) for n in wanted)
        return f"{name} has shape {array.shape}, SMPL's has ({expected})"
    if not np.isfinite(array).all():
        return f"{name} holds NaN or infinity"
    return None


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
    array = npy_array(file_bytes(path, f"{H36M_FILE} is at {METRO_DATA} (--h36m-regressor)"), path)
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.shape != (17, V):
        found = array.shape if isinstance(array, np.ndarray) else "objects"
        raise UserError(f"{path} has {found}, {H36M_FILE} has numbers of shape (17, {V})")
    if not np.isfinite(array).all():
        raise UserError(f"{path} holds NaN or infinity")
    return array.astype(np.float64)


def read_coarse_meshes(
    path: Path, full_faces: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """METRO's coarse meshes: of each, vertices of the full mesh (V1,) and (V2,), and its faces.

    Args:
        path: ``mesh_downsampling.npz``. Of its arrays only ``D``, which chooses vertices, and
            ``F``, the faces of all three meshes, are looked at.
        full_faces: (13776, 3) SMPL's own.

    Raises:
        UserError: the file is missing, damaged, hostile, or does not choose vertices of SMPL's.
    """
    data = file_bytes(path, f"{DOWNSAMPLING_FILE} is at {METRO_DATA} (--mesh-downsampling)")
    archive = opened_npz(data, path)
    down, faces = (
        converted(as_objects, npz_member(archive, name, path), f"{path}: {name}") for name in "DF"
    )
    if len(down) < len(COARSE_SIZES) or len(faces) < 1 + len(COARSE_SIZES):
        raise UserError(f"{path} has {len(down)} coarser meshes, METRO needs {len(COARSE_SIZES)}")
    meshes = [converted(as_array, faces[n], f"{path}: F[{n}]") for n in range(3)]
    for level, (faces_of_level, size) in enumerate(zip(meshes, (V, *COARSE_SIZES), strict=True)):
        if not are_faces(faces_of_level, size):
            raise UserError(f"{path}: F[{level}] has no triangles of {size:,} vertices")
    if not same_faces(meshes[0], full_faces):
        raise UserError(f"{path} belongs to another mesh: F[0] is not the faces of the SMPL file")
    chosen, found = np.arange(V), []
    for level, size in enumerate(COARSE_SIZES):
        source = f"{path}: D[{level}]"
        selection = converted(as_array, down[level], source)
        if selection.shape != (size, len(chosen)):
            raise UserError(f"{source} has shape {selection.shape}, not {(size, len(chosen))}")
        is_one = selection == 1
        if not (is_one.sum(axis=1) == 1).all() or selection[~is_one].any():
            raise UserError(f"{source} does not choose vertices: a row has more than a single 1")
        chosen = chosen[is_one.argmax(axis=1)]
        found.append(chosen)
    return (found[0], found[1]), (meshes[1], meshes[2])


def are_faces(faces: np.ndarray, num_vertices: int) -> bool:
    """Whether an array is (N, 3) indices into so many vertices."""
    is_triangles = faces.ndim == 2 and faces.shape[1] == 3 and faces.dtype.kind in "iu"
    return is_triangles and (not faces.size or within(faces, num_vertices))


def same_faces(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two meshes consist of the same triangles, in whatever order."""
    ordered = [np.unique(np.sort(faces, axis=-1), axis=0) for faces in (first, second)]
    return np.array_equal(*ordered)

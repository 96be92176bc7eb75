"""The index of a multi-view set: one .npz with all that training needs to know but the pictures.

Four tables, each row of one pointing into the one before: subjects, their cameras and frames, and
the views (a frame seen by a camera). A view takes 28 bytes. Angles, lengths and pixels are float32,
which moves no vertex by a micrometre and no box by a thousandth of a pixel; cameras are float64,
since their errors are multiplied by thousands of pixels.
"""

import os
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath

import numpy as np

from dropkey_core.engine import UserError, dataset_path
from dropkey_core.engine.files.arrays import Layout, layout_problem, read_arrays, write_arrays
from dropkey_core.engine.paths import DATASETS_VARIABLE, datasets_root
from projects.metro.humbi.files import image_file

# S subjects, N cameras, M frames, L views.
LAYOUT: Layout = {
    "subject_ids": ("i", ("S",)),
    "subject_folders": ("U", ("S",)),
    "camera_subjects": ("i", ("N",)),
    "camera_ids": ("i", ("N",)),
    "K": ("f", ("N", 3, 3)),
    "R": ("f", ("N", 3, 3)),
    "C": ("f", ("N", 3)),
    "frame_subjects": ("i", ("M",)),
    "frame_numbers": ("i", ("M",)),
    "scales": ("f", ("M",)),
    "translations": ("f", ("M", 3)),
    "poses": ("f", ("M", 72)),
    "betas": ("f", ("M", 10)),
    "view_frames": ("i", ("L",)),
    "view_cameras": ("i", ("L",)),
    "image_sizes": ("i", ("L", 2)),
    "centres": ("f", ("L", 2)),
    "box_sides": ("f", ("L",)),
}
REFERENCES = {  # column: the one whose rows it points to
    "camera_subjects": "subject_ids",
    "frame_subjects": "subject_ids",
    "view_frames": "frame_numbers",
    "view_cameras": "camera_ids",
}

HOW_TO_GET_IT = (
    "to make it of HUMBI: python datasets/prepare_humbi.py; "
    "to get a small set: python datasets/make_bodies.py"
)


@dataclass(frozen=True, eq=False)
class HumbiIndex:
    """The tables of an index, as columns.

    Attributes:
        subject_ids: (S,) int32, each once.
        subject_folders: (S,) text, their body sessions, relative to the index's own folder.
        camera_subjects: (N,) int32 rows of subjects: every subject has cameras of its own.
        camera_ids: (N,) int32, 0 ... 106.
        K, R: (N, 3, 3) float64, see ``humbi_files.Camera``.
        C: (N, 3) float64, world units.
        frame_subjects: (M,) int32 rows of subjects.
        frame_numbers: (M,) int32.
        scales: (M,) float32, world units per metre; see ``humbi_files.Fit`` for these four.
        translations: (M, 3) float32, world units.
        poses: (M, 72) float32, radians.
        betas: (M, 10) float32.
        view_frames, view_cameras: (L,) int32 rows of frames and of cameras of the same subject.
        image_sizes: (L, 2) int32, height and width in pixels.
        centres: (L, 2) float32, x and y of the square box around the person, in pixels.
        box_sides: (L,) float32, its side in pixels.
    """

    subject_ids: np.ndarray
    subject_folders: np.ndarray
    camera_subjects: np.ndarray
    camera_ids: np.ndarray
    K: np.ndarray
    R: np.ndarray
    C: np.ndarray
    frame_subjects: np.ndarray
    frame_numbers: np.ndarray
    scales: np.ndarray
    translations: np.ndarray
    poses: np.ndarray
    betas: np.ndarray
    view_frames: np.ndarray
    view_cameras: np.ndarray
    image_sizes: np.ndarray
    centres: np.ndarray
    box_sides: np.ndarray

    def __len__(self) -> int:
        """The number of views."""
        return len(self.view_frames)

    def file_name(self, view: int) -> str:
        """Path of a view's picture, relative to the index's folder."""
        frame, camera = self.view_frames[view], self.view_cameras[view]
        folder = Path(self.subject_folders[self.frame_subjects[frame]])
        return os.fspath(image_file(folder, self.frame_numbers[frame], self.camera_ids[camera]))


def stored(arrays: dict[str, np.ndarray]) -> HumbiIndex:
    """An index of columns in any precision, brought to that of ``HumbiIndex``."""
    dtypes = {"f": np.float32, "i": np.int32, "U": np.str_}
    exact = dict.fromkeys("KRC", np.float64)
    return HumbiIndex(
        **{
            name: np.asarray(arrays[name], dtype=exact.get(name, dtypes[kind]))
            for name, (kind, _) in LAYOUT.items()
        }
    )


def joined(parts: list[HumbiIndex]) -> HumbiIndex:
    """Several indices, of different subjects, as one; rows stay in their order."""
    columns: dict[str, list[np.ndarray]] = {name: [] for name in LAYOUT}
    lengths = dict.fromkeys(REFERENCES.values(), 0)
    for part in parts:
        shifts = {name: lengths[table] for name, table in REFERENCES.items()}
        for name, column in columns.items():
            rows = getattr(part, name)
            column.append(rows + shifts[name] if name in shifts else rows)
        for table in lengths:
            lengths[table] += len(getattr(part, table))
    return stored({name: np.concatenate(column) for name, column in columns.items()})


def write_index(path: str | os.PathLike[str], index: HumbiIndex) -> None:
    """Write an index, which is either there in full or not there.

    Args:
        path: relative to the dataset root, or absolute; folders above it are made.
        index: its views.

    Raises:
        UserError: it is not one that ``read_index`` would take.
    """
    path = dataset_path(path)
    arrays = {field.name: getattr(index, field.name) for field in fields(index)}
    if problem := layout_problem(arrays, LAYOUT) or value_problem(arrays):
        raise UserError(f"cannot write {path}: {problem}")
    write_arrays(path, arrays)


def read_index(path: str | os.PathLike[str]) -> HumbiIndex:
    """Read and check an index.

    Args:
        path: relative to the dataset root, or absolute.

    Raises:
        UserError: the file is missing or unreadable, a column is missing, has another shape or kind
            of values, is not finite, or points to what is not there.
    """
    path = dataset_path(path)
    if not path.is_file():
        raise UserError(
            f"index not found: {path} (set by dataset.index, relative to {DATASETS_VARIABLE}, now "
            f"{datasets_root()}); {HOW_TO_GET_IT}"
        )
    arrays = read_arrays(path, LAYOUT)
    if problem := layout_problem(arrays, LAYOUT) or value_problem(arrays):
        raise UserError(f"{path} is not an index of this project: {problem}")
    return stored(arrays)


def value_problem(arrays: dict[str, np.ndarray]) -> str | None:
    """What is wrong with the values of columns of the right shapes, or None."""
    ids = arrays["subject_ids"]
    if len(np.unique(ids)) < len(ids):
        return "subject_ids names a subject twice"
    for folder in map(str, arrays["subject_folders"]):
        parts = PurePosixPath(folder).parts
        if not parts or ".." in parts or parts[0] == "/" or "\\" in folder:
            return f"subject_folders has {folder!r}, which is not below the index's folder"
    for name, table in REFERENCES.items():
        rows, limit = arrays[name], len(arrays[table])
        if rows.size and (rows.min() < 0 or rows.max() >= limit):
            return f"{name} must be rows of 0 to {limit - 1} of {table}"
    if np.any(
        arrays["frame_subjects"][arrays["view_frames"]]
        != arrays["camera_subjects"][arrays["view_cameras"]]
    ):
        return "view_frames and view_cameras belong to different subjects"
    for name, least in {"camera_ids": 0, "frame_numbers": 0, "image_sizes": 1}.items():
        if arrays[name].size and arrays[name].min() < least:
            return f"{name} must be {least} or more"
    for name in ("scales", "box_sides"):
        if arrays[name].size and arrays[name].min() <= 0:
            return f"{name} must be above 0"
    return None

"""The index of a multi-view set: one .npz with all that training needs to know but the pictures.

Four tables, each row of one pointing into the one before: subjects, their cameras and frames, and
the views (a frame seen by a camera). A view takes 28 bytes. Angles, lengths and pixels are float32,
which moves no vertex by a micrometre and no box by a thousandth of a pixel; cameras are float64,
since their errors are multiplied by thousands of pixels.
"""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike

from dropkey_core.engine import UserError, dataset_path
from dropkey_core.engine.files.arrays import layout_of, layout_problem, read_arrays, write_arrays
from dropkey_core.engine.paths import DATASETS_VARIABLE, datasets_root
from projects.metro.humbi.files import image_file

HOW_TO_GET_IT = (
    "to make it of HUMBI: python datasets/prepare_humbi.py; "
    "to get a small set: python datasets/make_bodies.py"
)


@dataclass(frozen=True, eq=False)
class HumbiIndex:
    """The tables of an index, as columns of S subjects, N cameras, M frames and L views.

    Each column's annotation has the kind of its values in the file and its shape. Here, whole
    numbers are int32, cameras float64, all other numbers float32.
    """

    subject_ids: Annotated[np.ndarray, "i", ("S",)]  # each once
    # Their body sessions, relative to the index's own folder.
    subject_folders: Annotated[np.ndarray, "U", ("S",)]
    camera_subjects: Annotated[np.ndarray, "i", ("N",)]  # rows; each has cameras of its own
    camera_ids: Annotated[np.ndarray, "i", ("N",)]  # 0 ... 106
    K: Annotated[np.ndarray, "f", ("N", 3, 3)]  # see ``files.Camera`` for these three
    R: Annotated[np.ndarray, "f", ("N", 3, 3)]
    C: Annotated[np.ndarray, "f", ("N", 3)]
    frame_subjects: Annotated[np.ndarray, "i", ("M",)]  # rows
    frame_numbers: Annotated[np.ndarray, "i", ("M",)]
    scales: Annotated[np.ndarray, "f", ("M",)]  # see ``files.Fit`` for these four
    translations: Annotated[np.ndarray, "f", ("M", 3)]
    poses: Annotated[np.ndarray, "f", ("M", 72)]
    betas: Annotated[np.ndarray, "f", ("M", 10)]
    view_frames: Annotated[np.ndarray, "i", ("L",)]  # rows of frames and of cameras of one subject
    view_cameras: Annotated[np.ndarray, "i", ("L",)]
    image_sizes: Annotated[np.ndarray, "i", ("L", 2)]  # height and width in pixels
    centres: Annotated[np.ndarray, "f", ("L", 2)]  # x, y of the box around the person, in pixels
    box_sides: Annotated[np.ndarray, "f", ("L",)]  # of that square, in pixels

    def __len__(self) -> int:
        """The number of views."""
        return len(self.view_frames)

    def file_name(self, view: int) -> str:
        """Path of a view's picture, relative to the index's folder."""
        frame, camera = self.view_frames[view], self.view_cameras[view]
        folder = Path(self.subject_folders[self.frame_subjects[frame]])
        return os.fspath(image_file(folder, self.frame_numbers[frame], self.camera_ids[camera]))


LAYOUT = layout_of(HumbiIndex)
REFERENCES = {  # column: the one whose rows it points to
    "camera_subjects": "subject_ids",
    "frame_subjects": "subject_ids",
    "view_frames": "frame_numbers",
    "view_cameras": "camera_ids",
}


def stored(arrays: dict[str, ArrayLike]) -> HumbiIndex:
    """An index of columns in any precision, brought to that of ``HumbiIndex``; []: no rows."""
    dtypes = {"f": np.float32, "i": np.int32, "U": np.str_}
    exact = dict.fromkeys("KRC", np.float64)
    return HumbiIndex(
        **{
            name: np.asarray(arrays[name], exact.get(name, dtypes[kind])).reshape(-1, *shape[1:])
            for name, (kind, shape) in LAYOUT.items()
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
    arrays = {name: getattr(index, name) for name in LAYOUT}
    if problem := layout_problem(arrays, LAYOUT) or folder_problem(arrays):
        raise UserError(f"cannot write {path}: {problem}")
    write_arrays(path, arrays)


def read_index(path: str | os.PathLike[str]) -> HumbiIndex:
    """Read and check an index.

    Args:
        path: relative to the dataset root, or absolute.

    Raises:
        UserError: the file is missing or unreadable, a column is missing, has another shape or kind
            of values or is not finite, or a folder is not below the index's.
    """
    path = dataset_path(path)
    if not path.is_file():
        raise UserError(
            f"index not found: {path} (set by dataset.index, relative to {DATASETS_VARIABLE}, now "
            f"{datasets_root()}); {HOW_TO_GET_IT}"
        )
    arrays = read_arrays(path, LAYOUT)
    if problem := layout_problem(arrays, LAYOUT) or folder_problem(arrays):
        raise UserError(f"{path} is not an index of this project: {problem}")
    return stored(arrays)


def folder_problem(arrays: dict[str, np.ndarray]) -> str | None:
    """What is wrong with the folders of columns of the right shapes, or None."""
    for folder in map(str, arrays["subject_folders"]):
        parts = PurePosixPath(folder).parts
        if not parts or ".." in parts or parts[0] == "/" or "\\" in folder:
            return f"subject_folders has {folder!r}, which is not below the index's folder"
    return None

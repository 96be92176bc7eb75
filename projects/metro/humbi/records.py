"""HUMBI, or a set in its layout, as records to train on, which are made as they are asked for."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dropkey_core.engine import UserError, dataset_path
from dropkey_core.engine.files.outside import MEGABYTE, check_inside, places_of, read_text
from dropkey_core.engine.paths import DATASETS_VARIABLE, datasets_root
from projects.metro.humbi.index import HOW_TO_GET_IT, HumbiIndex, read_index

LARGEST_LIST = MEGABYTE  # of subjects: a hundred thousand ids


class HumbiRecords(Sequence[dict[str, Any]]):
    """The views of some subjects.

    Nothing but the index's arrays is kept, which loader processes share: a set of millions of
    views takes as much memory with eight of them as with one.

    Args:
        index: the set's index.
        folder: where the index lies, and with it the pictures.
        views: (n,) rows of the index's views, in the order that the records are to have.
    """

    def __init__(self, index: HumbiIndex, folder: Path, views: np.ndarray) -> None:
        self.tables = index
        self.folder = os.path.normpath(folder)
        self.views = views
        # Bundles of HUMBI may lie on several disks, each linked into the folder.
        bundles = {Path(name).parts[0] for name in index.subject_folders.tolist()}
        self.places = places_of(folder, *(folder / bundle for bundle in sorted(bundles)))

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, position: Any) -> Any:
        """Make one record, or for a slice the records of those views.

        Raises:
            UserError: the picture is a link that leads out of the set.
        """
        if isinstance(position, slice):
            return HumbiRecords(self.tables, Path(self.folder), self.views[position])
        index, view = self.tables, int(self.views[position])
        frame, camera = int(index.view_frames[view]), int(index.view_cameras[view])
        height, width = index.image_sizes[view].tolist()
        path = os.path.join(self.folder, index.file_name(view))  # noqa: PTH118, fast
        check_inside(path, self.places)
        return {
            "file_name": path,
            "image_id": view,
            "subject": int(index.subject_ids[index.frame_subjects[frame]]),
            "frame": int(index.frame_numbers[frame]),
            "camera": int(index.camera_ids[camera]),
            "height": height,
            "width": width,
            "centre": index.centres[view].copy(),
            "box_side": float(index.box_sides[view]),
            "K": index.K[camera].copy(),
            "R": index.R[camera].copy(),
            "C": index.C[camera].copy(),
            "scale": float(index.scales[frame]),
            "translation": index.translations[frame].copy(),
            "pose": index.poses[frame].copy(),
            "betas": index.betas[frame].copy(),
        }


def load_humbi(
    index: str | os.PathLike[str], subjects: str | os.PathLike[str]
) -> Sequence[dict[str, Any]]:
    """Read a set's index and choose the views of some subjects.

    Args:
        index: what ``datasets/prepare_humbi.py`` made, relative to the dataset root or absolute.
            The pictures lie below the folder it lies in.
        subjects: text file with one subject id per line, likewise.

    Returns:
        One record per view, in the index's order (by subject, frame and camera), made anew each
        time: ``file_name`` (absolute), ``image_id`` (the view's row in the index), ``subject``,
        ``frame``, ``camera`` (their numbers), ``height`` and ``width`` of the picture in pixels,
        ``centre`` (2,) and ``box_side`` of the square box around the person in its pixels, ``K``
        (3, 3), ``R`` (3, 3), ``C`` (3,) of the camera, see ``files.Camera``, and ``scale``,
        ``translation`` (3,), ``pose`` (72,), ``betas`` (10,) of the mesh, see
        ``files.Fit``. Cameras are float64, other arrays float32.

    Raises:
        UserError: a file is missing or not sound, a subject is not in the index, or none of them
            has a view.
    """
    table = read_index(index)
    path = dataset_path(index)
    source = dataset_path(subjects)
    wanted = read_subjects(source)
    unknown = sorted(set(wanted) - set(table.subject_ids.tolist()))
    if unknown:
        raise UserError(
            f"{source} has {len(unknown)} of {len(wanted)} subjects that are not in {path}, "
            f"first: {unknown[0]}"
        )
    chosen = np.isin(table.subject_ids, wanted)
    views = np.flatnonzero(chosen[table.frame_subjects[table.view_frames]])
    if not len(views):
        raise UserError(f"the subjects in {source} have no view in {path}")
    return HumbiRecords(table, path.parent, views)


def read_subjects(path: Path, option: str | None = None) -> list[int]:
    """Read a list of subjects: one id per line, blank lines aside.

    Args:
        path: the file, text in UTF-8.
        option: of a command line that named it, for the error; None: a config did.

    Raises:
        UserError: the file is missing, empty, no text or larger than 1 MiB, or a line is no id or
            one that was there before.
    """
    if not path.is_file():
        origin = option or "dataset.train.subjects or dataset.test.subjects"
        below = f", relative to {DATASETS_VARIABLE}, now {datasets_root()}" * (not option)
        how = f"; {HOW_TO_GET_IT}" * (not option)
        raise UserError(f"list of subjects not found: {path} (set by {origin}{below}){how}")
    found: dict[int, None] = {}
    for number, line in enumerate(read_text(path, LARGEST_LIST).splitlines(), 1):
        if not (word := line.strip()):
            continue
        if not (word.isascii() and word.isdecimal() and len(word) < 10):
            raise UserError(f"{path}, line {number} is {word[:40]!r}, which is no subject id")
        if int(word) in found:
            raise UserError(f"{path}, line {number}: subject {int(word)} is there twice")
        found[int(word)] = None
    if not found:
        raise UserError(f"{path} has no subject")
    return list(found)


def write_subjects(path: Path, subjects: Sequence[int]) -> None:
    """Write a list of subjects."""
    path.write_text("".join(f"{subject}\n" for subject in subjects), encoding="ascii")

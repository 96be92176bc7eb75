"""Converting HICO-DET's published files to QPIC's annotation layout.

Two kinds are known: the dataset's own ``anno_bbox.mat``, and QPIC's JSON files. Neither is run or
unpickled.

An entry is what the layout has per image, see datasets/README.md. Boxes keep the numbers of their
source: the release counts pixels from 1, and QPIC's files have the very same numbers.
"""

import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import structs

from dropkey_core.engine import UserError
from dropkey_core.engine.errors import said_by, shown
from dropkey_core.engine.files.arrays import read_npy
from dropkey_core.engine.files.outside import MEGABYTE, read_file
from projects.qpic import mat_file
from projects.qpic.classes import OBJECT_IDS, OBJECT_NAMES, VERB_NAMES
from projects.qpic.duplicate_boxes import InteractingPair, entry_of
from projects.qpic.interaction_file import hoi_problem, image_problem, read_entries

SPLITS = ("train", "test")


@dataclass
class Release:
    """What one or more source files hold.

    Attributes:
        entries: per split, one entry per image.
        triplets: (object, verb) class indices of the HOI classes, in HICO-DET's order; [] if the
            source does not say.
        problems: what looks wrong, one line each.
    """

    entries: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    triplets: list[tuple[int, int]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, split: str, entries: list[dict[str, Any]], source: Path) -> None:
        """Take the entries of a split; raises UserError if there are some already."""
        if split in self.entries:
            raise UserError(f"{source} holds {split} images, and so does another of the files")
        self.entries[split] = entries


def read_release(paths: Sequence[Path], merge_iou: float) -> Release:
    """Read all source files of one dataset.

    Args:
        paths: ``anno_bbox.mat``, or QPIC's files, of which ``corre_hico.npy`` may be one.
        merge_iou: see ``entry_of``; used for the training images of ``anno_bbox.mat``.

    Raises:
        UserError: a file is missing, cannot be read or is of no known kind, or two files hold the
            same split.
    """
    release = Release()
    for path in paths:
        if not path.is_file():
            raise UserError(
                f"no such file: {path}; HICO-DET's boxes are in anno_bbox.mat of its release"
            )
        if path.suffix == ".mat":
            read_mat(path, release, merge_iou)
        elif path.suffix == ".npy":
            read_correspondences(path, release)
        else:
            read_qpic(path, release)
    return release


def combinations(entries: Iterable[dict[str, Any]]) -> Counter[tuple[int, int]]:
    """How often each combination, (object, verb) class indices, is annotated."""
    return Counter(
        (
            OBJECT_IDS.index(entry["annotations"][hoi["object_id"]]["category_id"]),
            hoi["category_id"] - 1,
        )
        for entry in entries
        for hoi in entry["hoi_annotation"]
        if hoi["object_id"] >= 0
    )


# ---- the dataset's own release -------------------------------------------------------------------
def read_mat(path: Path, release: Release, merge_iou: float) -> None:
    """Read ``anno_bbox.mat``: structs ``bbox_train``, ``bbox_test`` and ``list_action``."""
    wanted = ["bbox_train", "bbox_test", "list_action"]
    document = mat_file.read_mat(path, wanted)
    if missing := [name for name in wanted if name not in document]:
        raise UserError(
            f"{path} has no {missing[0]}; HICO-DET's boxes are in anno_bbox.mat, not in anno.mat"
        )
    try:
        for number, action in enumerate(listed_structs(document["list_action"])):
            where = f"{path}: list_action({number + 1})"
            release.triplets.append(class_indices(action["nname"], action["vname"], where))
        for split in SPLITS:
            images = listed_structs(document[f"bbox_{split}"])
            iou = merge_iou if split == "train" else 1.0
            where = f"{path}: bbox_{split}"
            entries = [
                mat_entry(image, release, iou, f"{where}({number})")
                for number, image in enumerate(images, 1)
            ]
            release.add(split, entries, path)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{path} is not HICO-DET's anno_bbox.mat: {type(error).__name__}: {said_by(error)}"
        ) from error


def mat_entry(
    image: dict[str, Any], release: Release, merge_iou: float, where: str
) -> dict[str, Any]:
    """The entry of one image; see ``entry_of``."""
    name = str(image["filename"])
    width, height = (int(image["size"][side]) for side in ("width", "height"))
    pairs = list(mat_pairs(image, release, f"{where} {shown(name)}"))
    return entry_of(name, width, height, pairs, merge_iou)


def listed_structs(array: Any) -> list[dict[str, Any]]:
    """MATLAB's struct array as a list: scipy makes a dict of one and an empty array of none."""
    return [array] if isinstance(array, dict) else list(np.asarray(array, dtype=object).ravel())


def class_indices(noun: str, verb: str, where: str) -> tuple[int, int]:
    """(object, verb) class indices of two names; raises UserError if HICO-DET has no such."""
    for name, known, kind in ((noun, OBJECT_NAMES, "objects"), (verb, VERB_NAMES, "verbs")):
        if name not in known:
            raise UserError(f"{where}: {shown(name)} is none of HICO-DET's {len(known)} {kind}")
    return OBJECT_NAMES.index(noun), VERB_NAMES.index(verb)


def mat_pairs(image: dict[str, Any], release: Release, where: str) -> Iterator[InteractingPair]:
    """The visible pairs of one image; what is wrong goes to ``release.problems``."""
    for number, hoi in enumerate(listed_structs(image["hoi"])):
        if int(hoi["invis"]):
            continue  # somewhere in the image, but not to be seen
        place = f"{where}: hoi({number + 1})"
        hoi_id = int(hoi["id"])
        if not 1 <= hoi_id <= len(release.triplets):
            release.problems.append(
                f"{place}: id {hoi_id} is not one of 1 to {len(release.triplets)}; left out"
            )
            continue
        humans, objects = mat_boxes(hoi["bboxhuman"]), mat_boxes(hoi["bboxobject"])
        connections = np.asarray(hoi["connection"], dtype=np.int64).reshape(-1, 2)
        for row, (human, object_) in enumerate(connections.tolist()):
            if not (1 <= human <= len(humans) and 1 <= object_ <= len(objects)):
                release.problems.append(
                    f"{place}: connection({row + 1}) is ({human}, {object_}), but there are "
                    f"{len(humans)} human and {len(objects)} object boxes; left out"
                )
                continue
            yield InteractingPair(
                humans[human - 1], objects[object_ - 1], release.triplets[hoi_id - 1]
            )


def mat_boxes(structs: Any) -> list[list[float]]:
    """Boxes [x1, y1, x2, y2] of a struct array."""
    sides = ("x1", "y1", "x2", "y2")
    return [[float(box[side]) for side in sides] for box in listed_structs(structs)]


# ---- QPIC's own files ----------------------------------------------------------------------------
def read_qpic(path: Path, release: Release) -> None:
    """Read ``trainval_hico.json`` or ``test_hico.json``; leave out what points nowhere."""
    verb_ids = range(1, len(VERB_NAMES) + 1)
    entries = []
    for number, image in enumerate(read_entries(path)):
        where = f"{path}: image [{number}] {shown(image.file_name)}"
        boxes_alone = structs.replace(image, hoi_annotation=[])
        if problem := image_problem(boxes_alone, OBJECT_IDS, verb_ids):
            raise UserError(f"{where}: {problem}")
        hois = []
        for row, hoi in enumerate(image.hoi_annotation):
            if problem := hoi_problem(hoi, len(image.annotations), verb_ids):
                release.problems.append(f"{where}: hoi_annotation[{row}] {problem}; left out")
            else:
                hois.append(hoi)
        parts = {"annotations": image.annotations, "hoi_annotation": hois}
        entries.append({"file_name": image.file_name, **msgspec.to_builtins(parts)})
    release.add(split_of([entry["file_name"] for entry in entries], path), entries, path)


def read_correspondences(path: Path, release: Release) -> None:
    """Read ``corre_hico.npy``: (verbs, objects), not 0 where they go together."""
    table = read_npy(io.BytesIO(read_file(path, MEGABYTE)), str(path))
    expected = (len(VERB_NAMES), len(OBJECT_NAMES))
    if table.shape != expected:
        raise UserError(f"{path} has shape {table.shape}, QPIC's corre_hico.npy has {expected}")
    if not release.triplets:  # which has their order as well
        release.triplets = [(int(label), int(verb)) for label, verb in np.argwhere(table.T)]


# ---- entries -------------------------------------------------------------------------------------
def split_of(file_names: list[str], path: Path) -> str:
    """Which split a file holds, by the names of its images."""
    for split in SPLITS:
        if all(f"{split}2015" in name for name in file_names):
            return split
    raise UserError(
        f"{path}: its images are neither all of train2015 nor all of test2015 by their names, "
        f"first {file_names[:1]}; V-COCO's in this layout need no conversion: name them in the "
        "config's dataset"
    )


def odd_boxes(entries: list[dict[str, Any]]) -> Iterator[str]:
    """One line per box that is not finite, has no area, or reaches over the edge of its image."""
    for entry in entries:
        for number, box in enumerate(entry["annotations"]):
            x1, y1, x2, y2 = box["bbox"]
            place = f"{entry['file_name']}: annotations[{number}] has bbox {box['bbox']}"
            if not all(map(math.isfinite, box["bbox"])):
                yield f"{place}, which is not finite"
            elif x2 <= x1 or y2 <= y1:
                yield f"{place}, which has no area"
            elif "width" in entry and (
                min(x1, y1) < 0 or x2 > entry["width"] or y2 > entry["height"]
            ):
                yield f"{place}, the image has {entry['width']} x {entry['height']} pixels"

"""Converting HICO-DET's published files to QPIC's annotation layout.

Three kinds are known: the dataset's own ``anno_bbox.mat``, the JSON files of the hicodet
repository, and QPIC's JSON files. None of them is run or unpickled.

An entry is what the layout has per image, see datasets/README.md. Boxes keep the numbers of their
source: the release counts pixels from 1, and QPIC's files have the very same numbers.
"""

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from dropkey_core.engine import UserError
from dropkey_core.engine.errors import said_by, shown
from dropkey_core.engine.files.arrays import read_npy
from dropkey_core.engine.files.json_file import read_json
from dropkey_core.engine.files.outside import MEGABYTE, read_file
from projects.detr.annotation_file import Box, Integer, Text
from projects.qpic import mat_file
from projects.qpic.classes import OBJECT_IDS, OBJECT_NAMES, VERB_NAMES
from projects.qpic.duplicate_boxes import InteractingPair, entry_of
from projects.qpic.interaction_file import ImageEntry, InteractionFile, hoi_problem, image_problem

SPLITS = ("train", "test")


@dataclass
class Release:
    """What one or more source files hold.

    Attributes:
        merge_iou: what ``entry_of`` is called with for training images.
        entries: per split, one entry per image.
        triplets: (object, verb) class indices of the HOI classes, in HICO-DET's order; [] if the
            source does not say.
        rare: the rare ones of them; None if the source does not say.
        training_counts: training instances of each (object, verb), which merging boxes leaves as
            they are.
        problems: what looks wrong, one line each.
    """

    merge_iou: float
    entries: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    triplets: list[tuple[int, int]] = field(default_factory=list)
    rare: list[tuple[int, int]] | None = None
    training_counts: dict[tuple[int, int], int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def entry(
        self, split: str, file_name: str, size: Sequence[int], pairs: list[InteractingPair]
    ) -> dict:
        """The entry of one image of these (width, height) pixels; see ``entry_of``."""
        return entry_of(file_name, *size, pairs, self.merge_iou if split == "train" else 1.0)

    def add(self, split: str, entries: list[dict[str, Any]], source: Path) -> None:
        """Take the entries of a split; raises UserError if there are some already."""
        if split in self.entries:
            raise UserError(f"{source} holds {split} images, and so does another of the files")
        self.entries[split] = entries
        if split == "train":
            for entry in entries:
                for hoi in entry["hoi_annotation"]:
                    if hoi["object_id"] < 0:
                        continue
                    category = entry["annotations"][hoi["object_id"]]["category_id"]
                    triplet = (OBJECT_IDS.index(category), hoi["category_id"] - 1)
                    self.training_counts[triplet] = self.training_counts.get(triplet, 0) + 1


def read_release(paths: Sequence[Path], merge_iou: float) -> Release:
    """Read all source files of one dataset.

    Args:
        merge_iou: see ``entry_of``; used for training images of sources other than QPIC's.
        paths: ``anno_bbox.mat``, or files of the hicodet repository, or QPIC's files, of which
            ``corre_hico.npy`` may be one.

    Raises:
        UserError: a file is missing, cannot be read or is of no known kind, or two files hold the
            same split.
    """
    release = Release(merge_iou)
    for path in paths:
        if not path.is_file():
            raise UserError(
                f"no such file: {path}; HICO-DET's boxes are in anno_bbox.mat of its release"
            )
        if path.suffix == ".mat":
            try:
                read_mat(path, release)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise UserError(
                    f"{path} is not HICO-DET's anno_bbox.mat: {error!r:.200}"
                ) from error
        elif path.suffix == ".npy":
            read_correspondences(path, release)
        else:
            read_document(path, release)
    return release


# ---- the dataset's own release -------------------------------------------------------------------
def read_mat(path: Path, release: Release) -> None:
    """Read ``anno_bbox.mat``: structs ``bbox_train``, ``bbox_test`` and ``list_action``."""
    wanted = ["bbox_train", "bbox_test", "list_action"]
    document = mat_file.read_mat(path, wanted)
    for name in wanted:
        if name not in document:
            raise UserError(
                f"{path} has no {name}; HICO-DET's boxes are in anno_bbox.mat, not in anno.mat"
            )
    for number, action in enumerate(listed_structs(document["list_action"])):
        where = f"{path}: list_action({number + 1})"
        release.triplets.append(class_indices(action["nname"], action["vname"], where))
    for split in SPLITS:
        entries = []
        for number, image in enumerate(listed_structs(document[f"bbox_{split}"])):
            where = f"{path}: bbox_{split}({number + 1})"
            name = str(image["filename"])
            where = f"{where} {shown(name)}"
            size = image["size"]
            size = [int(size[side]) for side in ("width", "height")]
            entries.append(release.entry(split, name, size, list(mat_pairs(image, release, where))))
        release.add(split, entries, path)


def listed_structs(array: Any) -> list[dict[str, Any]]:
    """MATLAB's struct array as a list: scipy makes a dict of one and an empty array of none."""
    return [array] if isinstance(array, dict) else list(np.asarray(array, dtype=object).ravel())


def class_indices(noun: str, verb: str, where: str) -> tuple[int, int]:
    """(object, verb) class indices of two names; raises UserError if HICO-DET has no such."""
    if noun not in OBJECT_NAMES:
        raise UserError(f"{where}: {shown(noun)} is none of HICO-DET's {len(OBJECT_NAMES)} objects")
    if verb not in VERB_NAMES:
        raise UserError(f"{where}: {shown(verb)} is none of HICO-DET's {len(VERB_NAMES)} verbs")
    return OBJECT_NAMES.index(noun), VERB_NAMES.index(verb)


def mat_pairs(image: dict[str, Any], release: Release, where: str) -> Iterator[InteractingPair]:
    """The visible pairs of one image; what is wrong goes to ``release.problems``."""
    for number, hoi in enumerate(listed_structs(image["hoi"])):
        place = f"{where}: hoi({number + 1})"
        if int(hoi["invis"]):
            continue  # somewhere in the image, but not to be seen
        hoi_id = int(hoi["id"])
        if not 1 <= hoi_id <= len(release.triplets):
            release.problems.append(
                f"{place}: id {hoi_id} is not one of 1 to {len(release.triplets)}; left out"
            )
            continue
        humans, objects = (
            [
                [float(box[side]) for side in ("x1", "y1", "x2", "y2")]
                for box in listed_structs(hoi[name])
            ]
            for name in ("bboxhuman", "bboxobject")
        )
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


# ---- the hicodet repository ----------------------------------------------------------------------
class HicodetImage(Struct, frozen=True, gc=False):
    """The pairs of an image, as columns: boxes [x1, y1, x2, y2] in pixels, class numbers."""

    boxes_h: list[Box]
    boxes_o: list[Box]
    hoi: list[Integer]
    object: list[Integer]
    verb: list[Integer]


class HicodetFile(Struct, frozen=True, gc=False):
    """A file of the hicodet repository; its classes are sorted by name.

    ``size`` is (width, height); ``correspondence`` has (number, object, verb) of each HOI class.
    """

    annotation: list[HicodetImage]
    filenames: list[Text]
    size: list[tuple[Integer, Integer]]
    objects: list[str]
    verbs: list[str]
    correspondence: list[tuple[Integer, Integer, Integer]]
    rare: list[Integer]


def read_document(path: Path, release: Release) -> None:
    """Read a JSON file of the hicodet repository or of QPIC."""
    document = read_json(path)
    try:
        if isinstance(document, list):
            read_qpic(msgspec.convert(document, InteractionFile), path, release)
        else:
            read_hicodet(msgspec.convert(document, HicodetFile), path, release)
    except ValueError as error:  # UnicodeEncodeError, too, for halves of characters
        raise UserError(
            f"{path} is neither in hicodet's layout (an object with annotation, filenames, ...) "
            f"nor in QPIC's (a list with one object per image): {said_by(error)}"
        ) from error


def read_hicodet(document: HicodetFile, path: Path, release: Release) -> None:
    """Read a file of the hicodet repository."""
    if not len(document.annotation) == len(document.size) == len(document.filenames):
        raise UserError(
            f"{path} has {len(document.annotation)} of annotation and {len(document.size)} of "
            f"size, but {len(document.filenames)} filenames"
        )
    triplets = []
    for number, row in enumerate(document.correspondence):
        where = f"{path}: correspondence[{number}]"
        lengths = (len(document.objects), len(document.verbs))
        if row[0] != number or not in_range(row[1:], lengths):
            raise UserError(f"{where} is {list(row)}, not [{number}, object, verb]")
        _, object_, verb = row
        triplets.append(class_indices(document.objects[object_], document.verbs[verb], where))
    for hoi in document.rare:
        if not 0 <= hoi < len(triplets):
            raise UserError(f"{path}: rare has {hoi}, there are {len(triplets)} classes")
    if release.triplets not in ([], triplets):
        raise UserError(f"{path} has another order of classes than the other files")
    release.triplets = triplets
    release.rare = [triplets[hoi] for hoi in document.rare]
    entries = []
    split = split_of(document.filenames, path)
    for number, (name, size, image) in enumerate(
        zip(document.filenames, document.size, document.annotation, strict=True)
    ):
        where = f"{path}: annotation[{number}] {shown(name)}"
        pairs = list(hicodet_pairs(image, document, release, where))
        entries.append(release.entry(split, name, size, pairs))
    release.add(split, entries, path)


def hicodet_pairs(
    image: HicodetImage, document: HicodetFile, release: Release, where: str
) -> Iterator[InteractingPair]:
    """The pairs of one image; what is wrong goes to ``release.problems``."""
    columns = [image.boxes_h, image.boxes_o, image.hoi, image.object, image.verb]
    if len(lengths := set(map(len, columns))) > 1:
        names = ", ".join(HicodetImage.__struct_fields__)
        raise UserError(f"{where}: {names} differ in length: {sorted(lengths)}")
    for row, (human, object_, *classes) in enumerate(zip(*columns, strict=True)):
        hoi = classes[0]
        if not 0 <= hoi < len(release.triplets):
            release.problems.append(
                f"{where}: hoi[{row}] is {hoi}, there are {len(release.triplets)} classes; left out"
            )
            continue
        if tuple(classes) != document.correspondence[hoi]:
            release.problems.append(
                f"{where}: pair {row} has object {classes[1]} and verb {classes[2]}, its class "
                f"{hoi} stands for {list(document.correspondence[hoi][1:])}; the class is believed"
            )
        yield InteractingPair(human, object_, release.triplets[hoi])


def in_range(indices: Sequence[int], lengths: Sequence[int]) -> bool:
    """Whether each index is one of a list of that length."""
    return all(0 <= index < length for index, length in zip(indices, lengths, strict=True))


# ---- QPIC's own files ----------------------------------------------------------------------------
def read_qpic(document: list[ImageEntry], path: Path, release: Release) -> None:
    """Read ``trainval_hico.json`` or ``test_hico.json``; leave out what points nowhere."""
    object_labels = {number: label for label, number in enumerate(OBJECT_IDS)}
    verb_labels = {number: label for label, number in enumerate(range(1, len(VERB_NAMES) + 1))}
    entries = []
    for number, image in enumerate(document):
        where = f"{path}: image [{number}] {shown(image.file_name)}"
        boxes_alone = ImageEntry(image.file_name, image.annotations, [])
        if problem := image_problem(boxes_alone, object_labels, verb_labels):
            raise UserError(f"{where}: {problem}")
        hois = []
        for row, hoi in enumerate(image.hoi_annotation):
            if problem := hoi_problem(hoi, len(image.annotations), verb_labels):
                release.problems.append(f"{where}: hoi_annotation[{row}] {problem}; left out")
            else:
                hois.append(hoi)
        entry = ImageEntry(image.file_name, image.annotations, hois)
        entries.append(msgspec.to_builtins(entry))
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
def split_of(file_names: list[Any], path: Path) -> str:
    """Which split a file holds, by the names of its images."""
    for split in SPLITS:
        if all(isinstance(name, str) and f"{split}2015" in name for name in file_names):
            return split
    raise UserError(
        f"{path}: its images are neither all of train2015 nor all of test2015 by their names, "
        f"first {file_names[:1]}"
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

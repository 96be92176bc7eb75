"""HICO-DET, or a set in its layout, as records to train on."""

import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dropkey_core.engine import dataset_path
from projects.detr.coco import is_learnable
from projects.detr.image_set import SizeMismatch, doubtful_boxes, load_images
from projects.qpic.classes import HOW_TO_GET_IT, InteractionClasses, read_classes
from projects.qpic.interaction_file import NO_OBJECT, read_interactions

logger = logging.getLogger(__name__)

LEFT_OUT = "left out, for a box that is not finite, has no area or lies outside its image,"


def load_hico_det(
    images: str | os.PathLike[str],
    annotations: str | os.PathLike[str],
    classes: str | os.PathLike[str],
    size_mismatch: SizeMismatch = "error",
    skip_missing: bool = False,
    output_dir: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
    """Read a set of human-object interactions as records.

    Images without interactions stay in. Interactions whose boxes nothing can be learnt from (not
    finite, without area, wholly outside their image) are left out; boxes stay, so that indices
    keep their meaning, and those that reach over the edge stay as they are, for the mapper to clip.
    One warning tells what was left out and what looks wrong besides. An evaluation does not use
    these records but ``read_interactions``, which leaves nothing out.

    Args:
        images: folder of the images, relative to the dataset root or absolute.
        annotations: file in QPIC's layout, relative to the dataset root or absolute.
        classes: the set's ``classes.json``, see ``read_classes``.
        size_mismatch: see ``load_images``, as the following.
        skip_missing: go on without images that are missing.
        output_dir: folder for a list of them.

    Returns:
        One dict per image, in the file's order: see ``read_interactions``, but ``file_name`` is
        absolute, and ``height`` and ``width`` are always there, read from the images where the file
        does not have them.

    Raises:
        UserError: folder, file or images are missing, or a file is not sound.
    """
    known = read_classes(classes)
    source = dataset_path(annotations)
    records, notes = load_images(
        read_interactions(annotations, known),
        images,
        source,
        size_mismatch,
        skip_missing,
        output_dir,
        HOW_TO_GET_IT,
    )
    notes += oddities(records, known)
    notes += doubtful_boxes((box, record) for record in records for box in record["boxes_xyxy"])
    if notes:
        logger.warning(f"{source}: {'; '.join(notes)}")
    for record in records:
        learnable = [is_learnable(box, record) for box in record["boxes_xyxy"]]
        record["hois"] = [hoi for hoi in record["hois"] if all_of_it(hoi, learnable)]
    return records


def all_of_it(hoi: tuple[int, int, int], kept: list[bool]) -> bool:
    """Whether both boxes of an interaction are among the ``kept``, or its only one."""
    subject, object_, _ = hoi
    return kept[subject] and (object_ == NO_OBJECT or kept[object_])


def oddities(records: list[dict[str, Any]], classes: InteractionClasses) -> list[str]:
    """What is left out of a set and what looks wrong in it, each with a count and the first."""
    places = defaultdict(list)
    combinations = set(classes.triplets)
    for record in records:
        for number, kind in odd_hois(record, classes.person, combinations):
            places[kind].append(f"{Path(record['file_name']).name}, hoi_annotation[{number}]")
    total = sum(len(record["hois"]) for record in records)
    notes = [
        f"{kind} {len(found)} of {total} interactions (first: {found[0]})"
        for kind, found in places.items()
    ]
    if len(places[LEFT_OUT]) == total:
        notes.append("nothing is left to learn from")
    return notes


def odd_hois(
    record: dict[str, Any], person: int, combinations: set[tuple[int, int]]
) -> Iterator[tuple[int, str]]:
    """Positions of a record's odd interactions, with what is odd about each.

    Args:
        record: see ``load_hico_det``.
        person: class index of a person.
        combinations: (object, verb) of those that there are.
    """
    learnable = [is_learnable(box, record) for box in record["boxes_xyxy"]]
    seen = set()
    for number, hoi in enumerate(record["hois"]):
        subject, object_, verb = hoi
        if not all_of_it(hoi, learnable):
            yield number, LEFT_OUT
        if hoi in seen:
            yield number, "listed more than once and learnt once:"
        seen.add(hoi)
        if record["labels"][subject] != person:
            yield number, "not done by a person:"
        if object_ != NO_OBJECT and (record["labels"][object_], verb) not in combinations:
            yield number, "of a verb and an object that the classes file does not combine:"

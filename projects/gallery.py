"""Galleries: pictures of a test set with what was found and what is there, and attention maps."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from dropkey_core.engine import UserError, instantiate
from dropkey_core.engine.files.atomic_write import make_folder
from dropkey_core.engine.files.images import spread, unique_stems
from dropkey_core.engine.inference import Trained
from dropkey_core.engine.predictor import Predictor
from projects.detr import Detector
from projects.detr import attention as detr_attention
from projects.metro import BodyEstimator
from projects.metro.pictures import attention as metro_attention
from projects.metro.pictures.mesh_files import import_trimesh
from projects.metro.pictures.rows import name_of, write_mesh_file
from projects.page import Panel, PictureRow, draw_page, save
from projects.qpic import InteractionDetector
from projects.qpic import attention as qpic_attention

# What draws attention, by the model's kind.
ATTENTION: dict[type, Any] = {
    Detector: detr_attention,
    InteractionDetector: qpic_attention,
    BodyEstimator: metro_attention,
}


def draw_test_set(
    predictor: Predictor[Any],
    trained: Trained,
    output: Path,
    num_images: int,
    files: Sequence[str] = (),
    **options: Any,
) -> None:
    """Draw images of a test set as its evaluator does: one by one, and a page of all of them.

    Args:
        predictor: built from ``trained``.
        trained: whose config has the test set and its evaluator.
        output: folder to write to.
        num_images: at most so many, evenly spread.
        files: endings of mesh files to write besides, for METRO.
        options: of the evaluator's ``draw``.

    Raises:
        UserError: no test set, or one of other classes; another model than METRO for ``files``, an
            option that ``draw`` does not have, or a folder that cannot be written.
    """
    if files and not isinstance(predictor, BodyEstimator):
        raise UserError(f"--files is for METRO's meshes, not for {predictor.kind}")
    if files:
        import_trimesh()
    records = choose_records(trained, num_images)
    evaluator = instantiate(trained.config.dataloader.evaluator, "dataloader.evaluator")
    check_options(evaluator.draw, options, predictor.kind)
    if isinstance(predictor, Detector) and len(predictor.names) != len(evaluator.classes):
        raise UserError(
            f"{trained.source} tells {len(predictor.names)} classes apart, the test set has "
            f"{len(evaluator.classes)}: draw on it with tools/predict.py, which names the model's"
        )
    make_folder(output)
    seen = []
    for stem, record in zip(stems_of(records), records, strict=True):
        sample: dict[str, Any] = predictor.mapper(record)
        with torch.inference_mode():
            (found,) = predictor.model([sample])
        seen.append((sample, found))
        save(evaluator.draw([sample], [found], **options), output / f"{stem}.png")
        for kind in files:
            write_mesh_file(output / f"{stem}.{kind}", predictor.body, sample, found)
    save(evaluator.draw(*zip(*seen, strict=True), **options), output / "validation.png")


def draw_attention(
    predictors: Mapping[str, Predictor[Any]],
    records: Sequence[dict[str, Any]],
    words: Sequence[str],
    output: Path,
    **options: Any,
) -> None:
    """Draw where models look: a row for each image, alone and on a page of all of them.

    Args:
        predictors: by name, all of one kind.
        records: of the images.
        words: see ``attention_panels`` of the models' project.
        output: folder to write to.
        options: see there.

    Raises:
        UserError: a kind that has no such pictures, or another word or option.
    """
    kinds = {type(predictor) for predictor in predictors.values()}
    said = " and ".join(sorted(kind.kind for kind in kinds))
    if len(kinds) > 1 or not kinds <= ATTENTION.keys():
        raise UserError(f"--attention is for DETR, QPIC or METRO, not for {said} (classifiers: "
                        "tools/analyze.py maps)")  # fmt: skip
    drawing = ATTENTION[kinds.pop()]
    check_options(drawing.attention_panels, options, said)
    make_folder(output)
    rows = []
    for stem, record in zip(stems_of(records), records, strict=True):
        panels: list[Panel] = []
        for name, predictor in predictors.items():
            image, *maps = drawing.attention_panels(predictor, record, words, **options)
            if len(predictors) > 1:
                maps = [Panel(f"{name}, {panel.caption}", panel.pixels) for panel in maps]
            panels += maps if panels else [image, *maps]
        rows.append(PictureRow(panels))
        save(draw_page(rows[-1:]), output / f"{stem}_attention.png")
    save(draw_page(rows, drawing.HEADING), output / "attention.png")


def choose_records(trained: Trained, count: int) -> list[dict[str, Any]]:
    """Records of a model's test set, at most so many, evenly spread; UserError without one."""
    section = OmegaConf.select(trained.config, "dataloader.test.dataset")
    if section is None:
        raise UserError(f"{trained.source} names no dataloader.test.dataset: give --config FILE")
    records = instantiate(section, "dataloader.test.dataset")
    chosen = spread(records, count)
    print(f"{len(chosen)} of {len(records)} images")
    return chosen


def stems_of(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names for files about images: their place in the set, their own file, or their number."""
    names = [
        name_of(record) if "file_name" in record else f"image {record['image_id']}"
        for record in records
    ]
    return unique_stems([name.replace(",", "").replace(" ", "_") for name in names])


def check_options(function: Callable[..., Any], options: Mapping[str, Any], kind: str) -> None:
    """Raise UserError for an option that a function does not take."""
    for name in options:
        if name not in inspect.signature(function).parameters:
            raise UserError(f"--{name.replace('_', '-')} is not for {kind}")

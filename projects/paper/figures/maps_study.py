"""Attention maps of some trained models, as a picture and a CSV file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dropkey_core.analysis.attention_maps import class_attention_maps
from dropkey_core.engine.files.images import unique_stems
from projects.figure import save
from projects.paper.figures.attention_maps import ImageMaps, draw_maps
from projects.paper.figures.outputs import write_rows
from projects.paper.figures.pooling import attempt, identity
from projects.paper.figures.trained import Source, Trained, load_trained


def study_maps(
    sources: Sequence[Source],
    output: Path,
    num_images: int,
    layers: Sequence[str] | None = None,
    head: int | None = None,
) -> None:
    """Where the class token looks: ``maps.png``, ``maps.csv``.

    Args:
        sources: the models; rows of equal label are numbered.
        output: folder.
        num_images: images, drawn at random, the same for all models.
        layers: which to draw; None: all.
        head: which one; None: their mean.
    """
    labels = unique_stems([source.label for source in sources])
    images: dict[str, list[ImageMaps]] = {}
    rows: list[dict[str, Any]] = []
    for label, source in zip(labels, sources, strict=True):
        trained = load_trained(source)
        images[label] = []
        for batch in trained.batches(num_images):
            images[label] += attempt(lambda t=trained, b=batch: maps_of(t, b))  # type: ignore[misc]
        rows += [
            {**identity(source), "image": of.name, "layer": layer, "head": number,
             "row": row, "column": column, "weight": weight}
            for of in images[label]
            for layer, heads in of.maps.items()
            for number, weights in enumerate(heads.tolist())
            for row, line in enumerate(weights)
            for column, weight in enumerate(line)
        ]  # fmt: skip
    figure = attempt(lambda: draw_maps(images, layers, head))
    write_rows(output / "maps.csv", rows)
    save(figure, output / "maps.png")


def maps_of(trained: Trained, batch: list[dict[str, Any]]) -> list[ImageMaps]:
    """The maps of each image of a batch."""
    height, width = batch[0]["image"].shape[-2:]
    maps = class_attention_maps(trained.model, batch, (height, width))
    mapper = getattr(trained.loader.dataset, "mapper", None)
    classes = getattr(trained.evaluator, "classes", None)
    return [
        ImageMaps(
            name_of(sample, classes),
            shown(sample["image"], mapper),
            {layer: weights[i].numpy() for layer, weights in maps.items()},
        )
        for i, sample in enumerate(batch)
    ]


def name_of(sample: Mapping[str, Any], classes: Sequence[str] | None) -> str:
    """What an image is called: its file, or its number; and its class, if that has a name."""
    name = Path(sample["file_name"]).name if "file_name" in sample else f"{sample['image_id']}"
    known = classes is not None and "label" in sample
    return f"{name}, {classes[int(sample['label'])]}" if known and classes else name


def shown(image: Tensor, mapper: Any) -> np.ndarray:
    """Pixels (H, W, 3) uint8 of a sample's image (3, H, W), which a mapper has normalised."""
    pixels = image.float().cpu()
    if image.is_floating_point():
        if hasattr(mapper, "mean") and hasattr(mapper, "scale"):
            pixels = pixels / mapper.scale + mapper.mean
        else:  # how it was normalised is not known: from black to white
            low, high = pixels.min(), pixels.max()
            pixels = 255 * (pixels - low) / (high - low).clamp(min=1e-6)
    result: np.ndarray = pixels.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return result

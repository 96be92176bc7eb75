"""Attention map visualization: the class token's maps beside images (arXiv 2208.02646, Fig. 5)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor
from torchvision.transforms import Normalize

from dropkey_core.analysis.attention_maps import class_attention_maps
from dropkey_core.engine.errors import UserError
from projects.page import Panel, PictureRow, draw_page, save
from projects.paper.figures.curves import write_rows
from projects.paper.figures.trained import Source, Trained, measured

COLOURS = "magma"
SIDE = 150  # pixels of a map's longer side on the figure
SCALE = "square root of the weight; lightest: the greatest of layer and image in all models"


@dataclass(frozen=True)
class ImageMaps:
    """The class token's attention to the patches of one image.

    Attributes:
        name: of the image.
        image: (H, W, 3) uint8 RGB.
        maps: layer -> (heads, h, w) float32; with what the class token gives itself they sum to 1.
    """

    name: str
    image: np.ndarray
    maps: Mapping[str, np.ndarray]


def draw_maps(
    images: Mapping[str, Sequence[ImageMaps]],
    layers: Sequence[str] | None = None,
    head: int | None = None,
) -> Image.Image:
    """Draw for each image a row per model: the image, then the map of each layer.

    Args:
        images: model -> its maps, the same images for each.
        layers: which; None: all that the first model has.
        head: which; None: the mean over heads.

    Raises:
        ValueError: a layer or head that a model has not.
    """
    first = next(iter(images.values()))
    layers = list(first[0].maps) if layers is None else layers
    rows = []
    for of_image in zip(*images.values(), strict=True):
        picked = [
            [_pick(of_model, layer, head, label) for layer in layers]
            for label, of_model in zip(images, of_image, strict=True)
        ]
        greatest = [
            max(weights.max() for weights in column) for column in zip(*picked, strict=True)
        ]
        for label, of_model, maps in zip(images, of_image, picked, strict=True):
            panels = [_panel(f"image {of_model.name}", of_model.image)]
            for layer, weights, most in zip(layers, maps, greatest, strict=True):
                cell = overlay(of_model.image, np.sqrt(weights / max(most, 1e-12)))
                panels.append(_panel(f"layer {layer}", cell))
            rows.append(PictureRow(panels, label))
    which = "mean of its heads" if head is None else f"head {head}"
    return draw_page(rows, [f"Attention of the class token to the patches, {which}", SCALE])


def _panel(caption: str, cell: np.ndarray) -> Panel:
    height, width = (round(SIDE * side / max(cell.shape[:2])) for side in cell.shape[:2])
    return Panel(caption, cv2.resize(cell, (width, height), interpolation=cv2.INTER_NEAREST))


def _pick(of_image: ImageMaps, layer: str, head: int | None, label: str) -> np.ndarray:
    """(h, w)."""
    if layer not in of_image.maps:
        raise ValueError(f"{label} has no layer {layer}; it has {', '.join(of_image.maps)}")
    weights = of_image.maps[layer]
    if head is None:
        mean: np.ndarray = weights.mean(axis=0)
        return mean
    if not 0 <= head < len(weights):
        raise ValueError(f"{label} has heads 0 to {len(weights) - 1} in layer {layer}, not {head}")
    one: np.ndarray = weights[head]
    return one


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Colour a grey version of an image (H, W, 3) uint8 by heat (h, w) in [0, 1]."""
    height, width = image.shape[:2]
    factor = max(1, math.ceil(SIDE / max(height, width)))
    size = (width * factor, height * factor)
    heat = cv2.resize(heat.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
    colours = colormaps[COLOURS](heat)[..., :3]  # (., ., 3)
    grey = cv2.resize(image.mean(axis=2) / 255, size, interpolation=cv2.INTER_CUBIC)[..., None]
    # The image is what makes brightness vary by up to a half within a patch.
    mixed = colours * (0.5 + 0.5 * grey.clip(0, 1)) + 0.1 * grey
    return np.rint(255 * mixed.clip(0, 1)).astype(np.uint8)


def study_maps(
    sources: Sequence[Source],
    output: Path,
    num_images: int,
    layers: Sequence[str] | None = None,
    head: int | None = None,
) -> None:
    """Where the class token looks: ``maps.png``, ``maps.csv``; see :func:`draw_maps`.

    ``num_images`` are drawn at random, the same for all models. Equal labels are numbered.
    """
    images: dict[str, list[ImageMaps]] = {}
    rows: list[dict[str, Any]] = []

    def measure(trained: Trained) -> list[ImageMaps]:
        return [of for batch in trained.batches(num_images) for of in maps_of(trained, batch)]

    names = [source.label for source in sources]
    counts = [names[: place + 1].count(name) for place, name in enumerate(names)]
    labels = [
        f"{name} {count}" if names.count(name) > 1 else name
        for name, count in zip(names, counts, strict=True)
    ]
    for label, (source, maps) in zip(labels, measured(sources, measure), strict=True):
        images[label] = maps
        rows += [
            {**source.columns, "image": of.name, "layer": layer, "head": number,
             "row": row, "column": column, "weight": weight}
            for of in maps
            for layer, heads in of.maps.items()
            for number, weights in enumerate(heads.tolist())
            for row, line in enumerate(weights)
            for column, weight in enumerate(line)
        ]  # fmt: skip
    try:
        figure = draw_maps(images, layers, head)
    except ValueError as error:
        raise UserError(str(error)) from error
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
    steps = getattr(getattr(mapper, "transform", None), "transforms", ())
    normalised = [step for step in steps if isinstance(step, Normalize)]
    if normalised:
        mean, std = (
            torch.as_tensor(of)[:, None, None] for of in (normalised[0].mean, normalised[0].std)
        )
        pixels = 255 * (pixels * std + mean)
    elif image.is_floating_point():  # how it was normalised is not known: from black to white
        low, high = pixels.min(), pixels.max()
        pixels = 255 * (pixels - low) / (high - low).clamp(min=1e-6)
    result: np.ndarray = pixels.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return result

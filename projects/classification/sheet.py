"""Validation pictures: a few test images with their class and the one found."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from projects.page import Panel, PictureRow, draw_page

SIDE = 240  # pixels of a picture
COLUMNS = 4


def draw_sheet(
    samples: Sequence[dict[str, Any]],
    outputs: Sequence[dict[str, Tensor]],
    names: Sequence[str] | None,
) -> np.ndarray:
    """Draw images in rows, from their darkest value to their brightest.

    Args:
        samples: ``image`` (3, S, S), normalised, and ``label``.
        outputs: ``logits`` (K,) of each.
        names: of the K classes; None writes their indices.

    Returns:
        (H, W, 3) uint8.
    """
    panels = []
    for sample, output in zip(samples, outputs, strict=True):
        scores = output["logits"].softmax(0)
        label, taken = int(sample["label"]), int(scores.argmax())
        is_, as_ = (str(n) if names is None else names[n] for n in (label, taken))
        caption = f"is: {is_}\ntaken for: {as_} {float(scores[taken]):.2f}"
        panels.append(Panel(caption, shown(sample["image"])))
    starts = range(0, len(panels), COLUMNS)
    return np.asarray(draw_page([PictureRow(panels[start : start + COLUMNS]) for start in starts]))


def shown(image: Tensor) -> np.ndarray:
    """An image (3, S, S) of any range as (SIDE, SIDE, 3) uint8, its pixels whole."""
    least, most = image.aminmax()
    pixels = 255 * (image - least) / (most - least).clamp(min=1e-6)
    exact = Image.fromarray(pixels.round().byte().permute(1, 2, 0).cpu().numpy())
    return np.asarray(exact.resize((SIDE, SIDE), Image.Resampling.NEAREST))

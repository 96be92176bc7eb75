"""Validation pictures for the logs: a few test images with their class and the one found."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from projects.figure import Panel, PictureRow, as_image, draw_page

SIDE = 240  # pixels of a picture


def draw_sheet(
    samples: Sequence[dict[str, Any]],
    outputs: Sequence[dict[str, Tensor]],
    names: Sequence[str] | None,
) -> np.ndarray:
    """Draw images side by side, from their darkest value to their brightest.

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
        panels.append(Panel(caption, SIDE, SIDE, partial(show, image=sample["image"])))
    return np.asarray(as_image(draw_page([PictureRow(panels)])))


def show(axes: Axes, image: Tensor) -> None:
    """Show an image (3, S, S) of any range."""
    least, most = image.aminmax()
    pixels = (image - least) / (most - least).clamp(min=1e-6)
    axes.imshow(pixels.permute(1, 2, 0).cpu(), interpolation="nearest")

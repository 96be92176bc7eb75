"""Labelled images as records, made when they are asked for."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch

from dropkey_core.engine import UserError


class LabelledImages(Sequence[dict[str, Any]], ABC):
    """N labelled images, or some of them, as a sequence of records.

    A record has ``label``, its class index; ``image_id``, its row; and what ``content`` gives.

    Args:
        labels: (N,) class indices.
        classes: their names.
        per_class: keep only so many images of each class, the first of the N; None keeps all.

    Raises:
        UserError: ``per_class`` is not at least 1, or a class has fewer images.
    """

    def __init__(self, labels: np.ndarray, classes: Sequence[str], per_class: int | None) -> None:
        self.labels = labels
        self.classes = list(classes)
        self.rows = first_per_class(labels, len(self.classes), per_class)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        """The record of the ``index``-th image that was kept."""
        row = int(self.rows[index])
        return {**self.content(row), "label": int(self.labels[row]), "image_id": row}

    @abstractmethod
    def content(self, row: int) -> dict[str, Any]:
        """``image`` (3, h, w) uint8 RGB, or the ``file_name`` to read it from, of one of the N."""


class ImageArray(LabelledImages):
    """Images of one size, held in memory.

    Args:
        pixels: (N, h, w, C) uint8, C = 3 (RGB) or 1 (grey, which becomes three equal channels).
        labels: see ``LabelledImages``, as the following two.
        classes: names.
        per_class: how many to keep.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        labels: np.ndarray,
        classes: Sequence[str],
        per_class: int | None = None,
    ) -> None:
        super().__init__(labels, classes, per_class)
        self.pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # (N, C, h, w)

    def content(self, row: int) -> dict[str, Any]:
        """``image`` (3, h, w) uint8."""
        return {"image": self.pixels[row].expand(3, -1, -1)}


def first_per_class(labels: np.ndarray, num_classes: int, count: int | None) -> np.ndarray:
    """Rows of the first ``count`` images of each class, in the order of the set.

    Args:
        labels: (N,) class indices.
        num_classes: how many classes there are.
        count: images of each class, or None for all rows.

    Returns:
        Rising rows.

    Raises:
        UserError: ``count`` is not at least 1, or a class has fewer images.
    """
    if count is None:
        return np.arange(len(labels))
    if count < 1:
        raise UserError(f"per_class must be at least 1, or null for all images; got {count}")
    fewest = int(np.bincount(labels, minlength=num_classes).min())
    if fewest < count:
        raise UserError(
            f"per_class must be at most {fewest}, as one class has no more images; got {count}"
        )
    rows = [np.flatnonzero(labels == label)[:count] for label in range(num_classes)]
    return np.sort(np.concatenate(rows))


def check_choice(name: str, value: str, allowed: Collection[str]) -> None:
    """Raise UserError unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise UserError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")

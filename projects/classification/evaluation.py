"""Top-1 and top-5 accuracy and cross entropy, of all images and of each class."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dropkey_core.engine import ImageEvaluator, UserError

PREDICTIONS_FILE = "predictions.csv"

# What is kept of an image. ``rank``: how many classes are rated above the true one.
KEPT = np.dtype(
    [
        ("image_id", np.int64),
        ("label", np.int64),
        ("predicted", np.int64),
        ("rank", np.int64),
        ("loss", np.float64),
    ]
)


class ClassificationEvaluator(ImageEvaluator):
    """Top-1 and top-5 accuracy of logits; detectron2's evaluator contract.

    - **top1**, **top5**: percentage of images whose class is the highest rated, or among the five
      highest (all images, where there are no more than five classes). Of equally rated classes the
      one with the lower index is the higher; an image with a logit that is not a number is wrong.
    - **loss**: mean cross entropy, without label smoothing.

    Args:
        per_class: give the top-1 accuracy of each class, too.
        classes: their names, for ``per_class``; by default their indices.
        output_dir: folder for ``predictions.csv``, one line for each image. None writes none.
    """

    def __init__(
        self,
        per_class: bool = False,
        classes: Sequence[str] | None = None,
        output_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(output_dir)
        self.per_class = per_class
        self.classes = None if classes is None else [str(name) for name in classes]

    def keep(self, sample: Mapping[str, Any], output: Mapping[str, Tensor]) -> np.ndarray:
        """Keep the numbers of ``KEPT`` of an image.

        Args:
            sample: with ``label`` and ``image_id``.
            output: ``logits`` (K,), on any device.

        Raises:
            UserError: a label that the logits do not have.
        """
        logits, label = output["logits"].cpu().double(), int(sample["label"])
        if not 0 <= label < len(logits):
            raise UserError(
                f"the data has label {label}, the model {len(logits)} classes; set "
                "model.num_classes to the data's number of classes"
            )
        loss = F.cross_entropy(logits, torch.tensor(label)).item()
        predicted = logits.argmax().item()
        return np.array((sample["image_id"], label, predicted, rank_of(label, logits), loss), KEPT)

    def measure(self, kept: dict[int, np.ndarray]) -> dict[str, dict[str, float]]:
        """Measure what was kept, by image id.

        Returns:
            ``{"cls": {"top1", "top5", "loss"}}``, accuracies in percent; with ``per_class`` also
            ``"cls_per_class"``: top-1 accuracy by name, NaN for a class without images.
        """
        images = np.stack(list(kept.values()))
        self.write_csv(PREDICTIONS_FILE, KEPT.names, images.tolist())
        results = {
            "cls": {
                "top1": percentage(images["rank"] < 1),
                "top5": percentage(images["rank"] < 5),
                "loss": float(images["loss"].mean()),
            }
        }
        if self.per_class:
            results["cls_per_class"] = self.class_accuracies(images)
        return results

    def draw(
        self, samples: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Tensor]]
    ) -> np.ndarray:
        """Draw images with what they are and are taken for; see ``draw_sheet``."""
        from projects.classification.sheet import draw_sheet

        return draw_sheet(samples, outputs, self.classes)

    def class_accuracies(self, images: np.ndarray) -> dict[str, float]:
        """Top-1 accuracy in percent by class."""
        names = self.classes or [str(label) for label in range(images["label"].max() + 1)]
        if images["label"].max() >= len(names):
            raise UserError(
                f"the data has label {images['label'].max()}, the evaluator's classes are "
                f"{len(names)} names; name all of them or none"
            )
        return {
            name: percentage(images["rank"][images["label"] == label] < 1)
            for label, name in enumerate(names)
        }


def rank_of(label: int, logits: Tensor) -> int:
    """How many classes are rated above the true one, by logits (K,).

    Of equal logits the first is the highest, as for argmax. K where a logit is not a number.
    """
    if logits.isnan().any():
        return len(logits)
    above, earlier = logits > logits[label], logits[:label] == logits[label]
    return int(above.sum() + earlier.sum())


def percentage(right: np.ndarray) -> float:
    """Share of True in percent; NaN of nothing."""
    return 100.0 * float(right.mean()) if len(right) else float("nan")

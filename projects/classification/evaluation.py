"""How many images a classifier gets right: top-1, top-5, of all and of each class."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dropkey_core.engine import UserError, gather_objects
from dropkey_core.engine.distributed import rank_and_world_size
from dropkey_core.engine.files.atomic_write import whole_file, writing

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


class ClassificationEvaluator:
    """Collects logits and measures accuracy; detectron2's contract.

    - **top1**, **top5**: percentage of images whose class is the highest rated, or among the five
      highest (all images, where there are no more than five classes). Of equally rated classes the
      one with the lower index is the higher; an image with a logit that is not a number is wrong.
    - **loss**: mean cross entropy, without label smoothing.

    An image (by ``image_id``) counts once, however often and in whichever process it was seen.

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
        self.per_class = per_class
        self.classes = None if classes is None else [str(name) for name in classes]
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.reset()

    def reset(self) -> None:
        """Forget everything seen so far."""
        self.seen: list[np.ndarray] = []

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping]) -> None:
        """Take in one batch.

        Args:
            inputs: samples with ``label`` and ``image_id``.
            outputs: of each the ``logits`` (K,), on any device.

        Raises:
            UserError: a label that the logits do not have.
        """
        logits = torch.stack([output["logits"] for output in outputs]).cpu().double()  # (B, K)
        labels = torch.tensor([int(sample["label"]) for sample in inputs])
        if ((labels < 0) | (labels >= logits.shape[1])).any():
            raise UserError(
                f"the data has label {int(labels.max())}, the model {logits.shape[1]} classes; set "
                "model.num_classes to the data's number of classes"
            )
        kept = np.empty(len(labels), KEPT)
        kept["image_id"] = [int(sample["image_id"]) for sample in inputs]
        kept["label"] = labels.numpy()
        kept["predicted"] = logits.argmax(dim=1).numpy()
        kept["rank"] = ranks(logits, labels).numpy()
        kept["loss"] = F.cross_entropy(logits, labels, reduction="none").numpy()
        self.seen.append(kept)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """The metrics over the images of all processes; None on other ranks than 0.

        Returns:
            ``{"cls": {"top1", "top5", "loss"}}``, accuracies in percent; with ``per_class`` also
            ``"cls_per_class"``: top-1 accuracy by name, NaN for a class without images.

        Raises:
            UserError: nothing was seen.
        """
        mine = np.concatenate([np.empty(0, KEPT), *self.seen])
        images = np.concatenate(gather_objects(mine))
        if rank_and_world_size()[0] != 0:
            return None
        if not len(images):
            raise UserError("dataloader.test has no images to evaluate on")
        # In order of image_id, so that the sums do not depend on the number of processes.
        images = images[np.unique(images["image_id"], return_index=True)[1]]
        if self.output_dir is not None:
            write_predictions(self.output_dir / PREDICTIONS_FILE, images)
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


def ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes are rated above the true one: (B,) from logits (B, K) and labels (B,).

    Of equal logits the first is the highest, as for argmax. K where a logit is not a number.
    """
    true = logits.gather(1, labels[:, None])  # (B, 1)
    earlier = torch.arange(logits.shape[1]) < labels[:, None]
    above = (logits > true) | ((logits == true) & earlier)
    return above.sum(dim=1).masked_fill(logits.isnan().any(dim=1), logits.shape[1])


def percentage(right: np.ndarray) -> float:
    """Share of True in percent; NaN of nothing."""
    return 100.0 * float(right.mean()) if len(right) else float("nan")


def write_predictions(path: Path, images: np.ndarray) -> None:
    """Write one line for each image."""
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        writer = csv.writer(file)
        writer.writerow(KEPT.names)
        writer.writerows(images.tolist())

"""COCO's average precision for the predictions of a model."""

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from torch import Tensor
from torchvision.ops import box_convert

from dropkey_core.engine import UserError, dataset_path, gather_objects
from dropkey_core.engine.distributed import rank_and_world_size
from dropkey_core.engine.files.atomic_write import whole_file, writing
from projects.detr.annotation_file import read_annotation_file
from projects.detr.coco import CategoryMap

logger = logging.getLogger(__name__)

RESULTS_FILE = "coco_instances_results.json"

# COCO's twelve numbers, in the order of its table.
METRICS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)


class CocoEvaluator:
    """Collects predictions and measures them as COCO does; detectron2's evaluator contract.

    The measure is over *all* images of the annotation file: one that was not processed counts as
    one where nothing was found, and that is said. The predictions of an image count once, however
    often it was processed. Crowd regions neither reward nor punish.

    Args:
        annotations: COCO-format file, relative to the dataset root or absolute.
        output_dir: folder for ``coco_instances_results.json``, the predictions in COCO's result
            format with the file's own category ids; None writes none.

    Raises:
        UserError: see ``read_annotation_file``.
    """

    def __init__(
        self, annotations: str | os.PathLike[str], output_dir: str | os.PathLike[str] | None = None
    ) -> None:
        self.path = dataset_path(annotations)
        document = read_annotation_file(annotations)
        self.category_map = CategoryMap(document["categories"])
        self.ground_truth = COCO({**document, "annotations": measurable(document["annotations"])})
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._predictions: dict[int, dict[str, Tensor]] = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Tensor]]) -> None:
        """Take in the predictions of a batch.

        Args:
            inputs: samples with ``image_id``.
            outputs: for each ``scores`` (Q,) in [0, 1], ``labels`` (Q,) class indices, and
                ``boxes_xyxy`` (Q, 4) in pixels of the original image; Q may be 0.

        Raises:
            UserError: an image or a class index that does not belong to the annotation file.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            image_id = sample["image_id"]
            if image_id not in self.ground_truth.imgs:
                raise UserError(f"image_id {image_id} is not in {self.path}")
            if len(output["labels"]):  # now rather than after the last of many images
                self.category_map.category_id(int(output["labels"].max()))
            self._predictions[image_id] = {
                name: output[name].detach().cpu() for name in ("scores", "labels", "boxes_xyxy")
            }

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Measure what all processes saw; prints COCO's table and the AP of every class.

        Returns:
            ``{"bbox": {...}}`` with the twelve numbers of ``METRICS`` and ``AP-<class name>``, in
            per cent as in detectron2 and in papers (the printed tables are COCO's own, from 0 to
            1); NaN where the file holds nothing to measure, such as no large object. None in
            processes other than the first.
        """
        parts = gather_objects(self._predictions)
        if rank_and_world_size()[0] != 0:
            return None
        predictions = {image_id: part[image_id] for part in parts for image_id in part}
        self._say_what_is_missing(len(predictions))
        results = self.coco_results(predictions)
        if self.output_dir is not None:
            with writing(self.output_dir):
                self.output_dir.mkdir(parents=True, exist_ok=True)
            with whole_file(self.output_dir / RESULTS_FILE) as file:
                file.write(json.dumps(results))
        lines: list[str] = []
        evaluation = COCOeval_faster(
            self.ground_truth,
            self.ground_truth.loadRes(results),
            iouType="bbox",
            print_function=lambda line: None,
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.print_function = lines.append
        evaluation.summarize()
        class_ap = self.class_ap(evaluation.eval["precision"])
        print("\n".join(lines[: len(METRICS)]), class_table(class_ap), sep="\n")
        metrics = dict(zip(METRICS, evaluation.stats, strict=True))
        metrics |= {f"AP-{name}": value for name, value in class_ap.items()}
        return {"bbox": {name: in_per_cent(value) for name, value in metrics.items()}}

    def coco_results(self, predictions: dict[int, dict[str, Tensor]]) -> list[dict[str, Any]]:
        """Predictions by image id as COCO's result format, ordered by image.

        Predictions with numbers that are not finite, and of class indices that no category stands
        behind, are left out.
        """
        results = []
        for image_id, prediction in sorted(predictions.items()):
            boxes_xywh = box_convert(prediction["boxes_xyxy"].float(), "xyxy", "xywh")
            for score, label, bbox in zip(
                prediction["scores"].tolist(),
                prediction["labels"].tolist(),
                boxes_xywh.tolist(),
                strict=True,
            ):
                category_id = self.category_map.category_id(label)
                if category_id is None or not all(map(math.isfinite, (score, *bbox))):
                    continue
                results.append(
                    {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}
                )
        return results

    def class_ap(self, precision: np.ndarray) -> dict[str, float]:
        """AP from 0 to 1 by class name, -1 for a class without objects.

        Args:
            precision: (thresholds, recalls, classes, areas, limits) as COCO's evaluation keeps it;
                the first area is "all", the last limit 100 detections per image.
        """
        per_class = np.moveaxis(precision[:, :, :, 0, -1], 2, 0)  # (classes, thresholds, recalls)
        known = [values[values > -1] for values in per_class]
        return {
            name: float(values.mean()) if values.size else -1.0
            for name, values in zip(self.category_map.names.values(), known, strict=True)
        }

    def _say_what_is_missing(self, num_processed: int) -> None:
        num_images = len(self.ground_truth.imgs)
        if num_processed < num_images:
            logger.warning(
                f"{num_images - num_processed} of the {num_images} images of {self.path} were not "
                "processed; they count as images where nothing was found"
            )


def measurable(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Annotations as COCO's evaluation needs them.

    Ids are given anew from 1, since COCO's code takes 0 for "no match"; what small sets leave out
    is filled in: ``iscrowd`` 0, ``area`` that of the box. Boxes that are not finite are left out.
    """
    finite = [a for a in annotations if all(map(math.isfinite, a["bbox"]))]
    return [
        {
            "iscrowd": 0,
            "area": annotation["bbox"][2] * annotation["bbox"][3],
            **annotation,
            "id": number,
        }
        for number, annotation in enumerate(finite, start=1)
    ]


def in_per_cent(value: float) -> float:
    """COCO's number from 0 to 1 as per cent; its -1, "nothing to measure", as NaN."""
    return 100 * float(value) if value >= 0 else math.nan


def class_table(class_ap: dict[str, float], columns: int = 3) -> str:
    """AP from 0 to 1 of each class, as lines of text."""
    width = max(map(len, class_ap))
    cells = [
        f"{name:<{width}} {f'{value:.3f}' if value >= 0 else '-':>5}"
        for name, value in class_ap.items()
    ]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return "\n".join([" AP by class", *(" " + "   ".join(row) for row in rows)])

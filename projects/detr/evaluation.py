"""COCO's average precision for the predictions of a model."""

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from msgspec import to_builtins
from torch import Tensor
from torchvision.ops import box_convert

from dropkey_core.engine import ImageEvaluator, dataset_path
from projects.detr.annotation_file import Annotation, read_annotation_file
from projects.detr.coco import CategoryMap

RESULTS_FILE = "coco_instances_results.json"

# COCO's twelve numbers, in the order of its table.
METRICS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)


class CocoEvaluator(ImageEvaluator):
    """COCO's average precision of predicted boxes; detectron2's evaluator contract.

    The measure is over *all* images of the annotation file: one that was not processed counts as
    one where nothing was found. Crowd regions neither reward nor punish.

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
        document = read_annotation_file(annotations)
        self.category_map = CategoryMap(document.categories)
        self.ground_truth = COCO(
            {
                "categories": to_builtins(document.categories),
                "images": to_builtins(document.images),
                "annotations": measurable(document.annotations),
            }
        )
        super().__init__(output_dir, self.ground_truth.imgs, dataset_path(annotations))

    def keep(self, sample: dict[str, Any], output: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keep the predictions of an image, see ``detections``; Q may be 0.

        Raises:
            UserError: a class index that does not belong to the annotation file.
        """
        for label in output["labels"].unique().tolist():  # now, not after the last of many images
            self.category_map.category_id(label)
        return {name: output[name].detach().cpu() for name in ("scores", "labels", "boxes_xyxy")}

    def measure(self, kept: dict[int, dict[str, Tensor]]) -> dict[str, dict[str, float]]:
        """Measure predictions by image id; prints COCO's table and the AP of every class.

        Returns:
            ``{"bbox": {...}}`` with the twelve numbers of ``METRICS`` and ``AP-<class name>``, in
            per cent as in detectron2 and in papers (the printed tables are COCO's own, from 0 to
            1); NaN where the file holds nothing to measure, such as no large object.
        """
        results = self.coco_results(kept)
        self.write_json(RESULTS_FILE, results)
        lines: list[str] = []
        predicted = self.ground_truth.loadRes(results)
        evaluation = COCOeval_faster(
            self.ground_truth, predicted, iouType="bbox", print_function=lines.append
        )
        evaluation.run()
        class_ap = self.class_ap(evaluation.eval["precision"])
        table = [line for line in lines if line.startswith(" Average")]
        print("\n".join(table[: len(METRICS)]), class_table(class_ap), sep="\n")
        metrics = dict(zip(METRICS, evaluation.stats, strict=True))
        metrics |= {f"AP-{name}": value for name, value in class_ap.items()}
        return {"bbox": {name: in_per_cent(value) for name, value in metrics.items()}}

    def coco_results(self, predictions: Mapping[int, dict[str, Tensor]]) -> list[dict[str, Any]]:
        """Predictions by image id as COCO's result format, in their order.

        Predictions with numbers that are not finite, and of class indices that no category stands
        behind, are left out.
        """
        results = []
        for image_id, prediction in predictions.items():
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


def measurable(annotations: Iterable[Annotation]) -> list[dict[str, Any]]:
    """Annotations as COCO's evaluation needs them.

    Ids are given anew from 1, since COCO's code takes 0 for "no match"; where a set has no ``area``
    it is that of the box. Boxes that are not finite are left out.
    """
    finite = [annotation for annotation in annotations if all(map(math.isfinite, annotation.bbox))]
    return [
        {
            **to_builtins(annotation),
            "id": number,
            "iscrowd": int(annotation.iscrowd),
            "area": math.prod(annotation.bbox[2:]) if annotation.area is None else annotation.area,
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

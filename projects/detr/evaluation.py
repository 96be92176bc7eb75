"""COCO's average precision for the predictions of a model."""

import logging
import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from hotcoco import COCO, COCOeval
from torch import Tensor
from torchvision.ops import box_convert

from dropkey_core.engine import ImageEvaluator, UserError, dataset_path
from dropkey_core.engine.errors import shown
from projects.detr.annotation_file import Annotation, read_annotation_file
from projects.detr.charts import confusion_chart, precision_recall_chart
from projects.detr.coco import read_categories
from projects.detr.picture import Box, draw_boxes, true_boxes, unresized
from projects.figure import write

logger = logging.getLogger(__name__)

RESULTS_FILE = "coco_instances_results.json"
CURVES, CONFUSION = "precision_recall", "confusion_matrix"  # .csv and .png

# COCO's twelve numbers, in the order of its table.
METRICS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)

# What the confusion matrix counts: detections of that score or more, that overlap that much.
CONFUSION_SCORE, CONFUSION_IOU = 0.5, 0.5

_measured_in: set[int] = set()  # ids of this process and, in a fork, of those before it


class CocoEvaluator(ImageEvaluator):
    """COCO's average precision of predicted boxes; detectron2's evaluator contract.

    The measure is over *all* images of the annotation file: one that was not processed counts as
    one where nothing was found. Crowd regions neither reward nor punish.

    Args:
        annotations: COCO-format file, relative to the dataset root or absolute.
        output_dir: folder for ``coco_instances_results.json``, the predictions in COCO's result
            format with the file's own category ids, and for the tables and charts of
            ``write_curves`` and ``write_confusion``; None writes none.
        max_detections: how many detections of a class count in an image, those with the highest
            scores; more than 10. COCO's number is 100, and published numbers use it.
        same_categories_as: the annotation file that was trained on, see ``read_categories``; this
            one may have a part of its categories, and only those count.

    Where the file has no annotations nothing is measured, and the predictions are written.

    Raises:
        UserError: ``max_detections`` is not a whole number above 10; see ``read_annotation_file``.
    """

    def __init__(
        self,
        annotations: str | os.PathLike[str],
        output_dir: str | os.PathLike[str] | None = None,
        max_detections: int = 100,
        same_categories_as: str | os.PathLike[str] | None = None,
    ) -> None:
        if type(max_detections) is not int or max_detections <= 10:
            raise UserError(
                f"max_detections must be a whole number above 10, got {max_detections!r}; "
                "COCO's is 100 (set by dataloader.evaluator.max_detections)"
            )
        document = read_annotation_file(annotations)
        source = dataset_path(annotations)
        self.max_detections = max_detections
        self.metric_names = [f"AR{max_detections}" if name == "AR100" else name for name in METRICS]
        self.category_map = read_categories(annotations, same_categories_as)
        own = {category.id for category in document.categories}
        self.names = {  # of the categories that count, by id
            number: name for number, name in self.category_map.names.items() if number in own
        }
        self.has_annotations = bool(document.annotations)
        # The measuring code takes no negative ids, and equal scores count in the order of ids.
        self.image_numbers = numbered(image.id for image in document.images)
        self.category_numbers = numbered(self.names)
        self.ground_truth = COCO(
            {
                "categories": [
                    {"id": self.category_numbers[number], "name": name}
                    for number, name in self.names.items()
                ],
                "images": [{"id": number} for number in self.image_numbers.values()],
                "annotations": [
                    {
                        **annotation,
                        "image_id": self.image_numbers[annotation["image_id"]],
                        "category_id": self.category_numbers[annotation["category_id"]],
                    }
                    for annotation in measurable(document.annotations, source)
                ],
            }
        )
        warn_of_many_objects(document.annotations, max_detections, source)
        super().__init__(output_dir, self.image_numbers, source)

    @property
    def classes(self) -> list[dict[str, Any]]:
        """The classes by index, as COCO's ``categories``."""
        return msgspec.to_builtins(self.category_map.classes)

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
            ``{"bbox": {...}}`` with the twelve numbers of ``METRICS`` (``AR100`` named after
            ``max_detections``) and ``AP-<class name>``, in per cent as in detectron2 and in papers
            (the printed tables are COCO's own, from 0 to 1); NaN where the file holds nothing to
            measure, such as no large object.
        """
        refuse_in_a_fork()
        results = self.coco_results(kept)
        self.write_json(RESULTS_FILE, results)
        if not self.has_annotations:
            logger.warning(
                f"{self.source} has no annotations: nothing is measured; predictions are written "
                f"to {RESULTS_FILE} in {self.output_dir}"
            )
            return {"bbox": {}}
        predicted = self.ground_truth.load_res(self.result_rows(results))
        evaluation = COCOeval(self.ground_truth, predicted, "bbox")
        evaluation.params.max_dets = [1, 10, self.max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
        table = [as_coco_prints(line) for line in evaluation.summary_lines()]  # makes ``stats``
        class_ap = self.class_ap(evaluation.eval["precision"])
        print("\n".join(table), class_table(class_ap), sep="\n")
        if self.output_dir is not None:
            self.write_curves(evaluation.eval["precision"], np.array(evaluation.params.rec_thrs))
            self.write_confusion(evaluation)
        metrics = dict(zip(self.metric_names, evaluation.stats, strict=True))
        metrics |= {f"AP-{name}": value for name, value in class_ap.items()}
        return {"bbox": {name: in_per_cent(value) for name, value in metrics.items()}}

    def draw(
        self,
        samples: Sequence[dict[str, Any]],
        outputs: Sequence[dict[str, Tensor]],
        score_threshold: float = 0.5,
    ) -> np.ndarray:
        """Draw on images what was found with a score so high, and what is there: (H, W, 3) uint8.

        Args:
            samples: of a test set's mapper.
            outputs: what the model made of each, see ``projects.detr.detr.detections``.
            score_threshold: in [0, 1].
        """
        from projects.detr.predictor import Detections

        classes = self.category_map.classes
        known = [each.name for each in classes], [each.id for each in classes]
        pictures = [
            Detections.of(unresized(sample), output, score_threshold, *known).picture(
                self.true_boxes(sample["image_id"])
            )
            for sample, output in zip(samples, outputs, strict=True)
        ]
        heading = f"detections with a score of {score_threshold:g} or more"
        return np.asarray(draw_boxes(pictures, heading))

    def true_boxes(self, image_id: int) -> list[Box]:
        """What is on an image according to the file, where it is measurable."""
        numbers = self.ground_truth.get_ann_ids(img_ids=self.image_numbers[image_id])
        names = ["", *self.names.values()]  # by our numbers
        return true_boxes(self.ground_truth.load_anns(numbers), names)

    def coco_results(self, predictions: Mapping[int, dict[str, Tensor]]) -> list[dict[str, Any]]:
        """Predictions by image id as COCO's result format, in their order.

        Predictions with numbers that are not finite, and of class indices that no category of the
        file stands behind, are left out.
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
                if category_id not in self.names or not all(map(math.isfinite, (score, *bbox))):
                    continue
                results.append(
                    {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}
                )
        return results

    def result_rows(self, results: list[dict[str, Any]]) -> np.ndarray:
        """COCO's results as rows of (image, x, y, width, height, score, category), by our numbers.

        Returns:
            (detections, 7) float64, exact since every number is.
        """
        rows = [
            (
                self.image_numbers[result["image_id"]],
                *result["bbox"],
                result["score"],
                self.category_numbers[result["category_id"]],
            )
            for result in results
        ]
        return np.array(rows, dtype=np.float64).reshape(-1, 7)

    def class_ap(self, precision: np.ndarray) -> dict[str, float]:
        """AP from 0 to 1 by class name, -1 for a class without objects.

        Args:
            precision: (thresholds, recalls, classes, areas, limits) as COCO's evaluation keeps it;
                the first area is "all", the last limit ``max_detections`` per image.
        """
        per_class = np.moveaxis(precision[:, :, :, 0, -1], 2, 0)  # (classes, thresholds, recalls)
        known = [values[values > -1] for values in per_class]
        return {
            name: float(values.mean()) if values.size else -1.0
            for name, values in zip(self.names.values(), known, strict=True)
        }

    def write_curves(self, precision: np.ndarray, recalls: np.ndarray) -> None:
        """Write precision over recall at an IoU of 0.5, of each class and of their mean.

        Args:
            precision: as for ``class_ap``, -1 for a class without objects.
            recalls: (recalls,) in [0, 1].
        """
        at_half = precision[0, :, :, 0, -1]  # (recalls, classes)
        known = np.where(at_half > -1, at_half, np.nan)
        measured = known[:, (at_half > -1).all(0)]
        mean = measured.mean(1) if measured.size else np.full(len(recalls), np.nan)
        curves = {"mean of the classes, IoU 0.5": mean}
        curves |= dict(zip(self.names.values(), known.T, strict=True))
        rows = zip(*(column.tolist() for column in (recalls, *curves.values())), strict=True)
        self.write_csv(f"{CURVES}.csv", ["recall", *curves], rows)
        write(precision_recall_chart(recalls, curves), self.output_dir / f"{CURVES}.png")

    def write_confusion(self, evaluation: COCOeval) -> None:
        """Write how often an object of one class was detected as another, or nothing as one.

        Detections of a score of at least 0.5 are matched with objects of any class from an IoU of
        0.5 on. The last row counts detections where no object is, the last column objects that
        were not found. Crowd regions are no objects here: what was found in one is in the last row.
        """
        counts = evaluation.confusion_matrix(
            iou_thr=CONFUSION_IOU, max_det=self.max_detections, min_score=CONFUSION_SCORE
        )["matrix"].astype(np.int64)
        names = [*self.names.values(), "nothing"]
        rows = ([name, *row] for name, row in zip(names, counts.tolist(), strict=True))
        self.write_csv(f"{CONFUSION}.csv", ["is / detected as", *names], rows)
        title = f"objects, scores from {CONFUSION_SCORE}, IoU from {CONFUSION_IOU}"
        write(confusion_chart(counts, names, title), self.output_dir / f"{CONFUSION}.png")


def refuse_in_a_fork() -> None:
    """Raise a UserError where measuring would wait for ever: its threads do not outlive a fork."""
    if _measured_in and os.getpid() not in _measured_in:
        raise UserError(
            "COCO's AP was measured before this process was forked, and cannot be measured in it; "
            "start processes by spawn, or before the first evaluation"
        )
    _measured_in.add(os.getpid())


def as_coco_prints(line: str) -> str:
    """Return a line of the table with COCO's own spaces, which scripts may look for."""
    return line.replace("Precision (AP)", "Precision  (AP)").replace(
        "Recall (AR)   ", "Recall     (AR)"
    )


def numbered(ids: Iterable[int]) -> dict[int, int]:
    """Return 1, 2, ... by id, in the order of the ids."""
    return {number: place for place, number in enumerate(sorted(ids), start=1)}


def warn_of_many_objects(
    annotations: Collection[Annotation], max_detections: int, source: object
) -> None:
    """Say once that images have more objects than detections count: not all can be found."""
    objects = Counter(each.image_id for each in annotations if not each.iscrowd)
    crowded = {image: count for image, count in objects.items() if count > max_detections}
    if crowded:
        image_id = max(crowded, key=crowded.__getitem__)
        logger.warning(
            f"{source}: {len(crowded)} of its images have more than {max_detections} objects "
            f"(image_id {image_id}: {crowded[image_id]}), and only {max_detections} detections of "
            "a class count in an image; dataloader.evaluator.max_detections=N counts more, and "
            "model.num_queries limits what is detected"
        )


def measurable(annotations: Iterable[Annotation], source: object) -> list[dict[str, Any]]:
    """Annotations as COCO's evaluation needs them.

    Ids are given anew from 1, since COCO's code takes 0 for "no match"; ``area`` is that of the box
    where it is no positive number, which one warning counts. Boxes that are not finite are left
    out.
    """
    finite = [annotation for annotation in annotations if all(map(math.isfinite, annotation.bbox))]
    areas = [each.area if is_positive(each.area) else math.prod(each.bbox[2:]) for each in finite]
    odd = [each.area for each in finite if not (each.area is None or is_positive(each.area))]
    if odd:
        logger.warning(
            f"{source}: {len(odd)} of {len(finite)} annotations have an area that is no positive "
            f"number (first: {shown(odd[0])}); width x height of the box counts in its place"
        )
    return [
        {
            "id": number,
            "image_id": annotation.image_id,
            "category_id": annotation.category_id,
            "bbox": annotation.bbox,
            "iscrowd": int(annotation.iscrowd),
            "area": area,
        }
        for number, (annotation, area) in enumerate(zip(finite, areas, strict=True), start=1)
    ]


def is_positive(area: Any) -> bool:
    """Whether it is a positive number of square pixels."""
    return isinstance(area, int | float) and area is not True and 0 < area < 2**53


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

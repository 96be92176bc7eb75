import contextlib
import io
import json
import math

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dropkey_core.engine import UserError
from projects.detr import CocoEvaluator
from projects.detr.coco import COCO_CATEGORY_IDS
from projects.detr.evaluation import METRICS, RESULTS_FILE

CATEGORY_IDS = [2, 7, 30]


@pytest.fixture
def noisy_set(tmp_path):
    """A set of 12 images with objects of all sizes, crowds and an empty image, and predictions.

    Returns the annotation file and predictions (image id, scores, labels, boxes_xyxy).
    """
    rng = np.random.default_rng(0)
    images = [
        {"id": number, "file_name": f"{number}.jpg", "height": 400, "width": 500}
        for number in range(100, 112)
    ]
    annotations, predictions = [], []
    for image in images[1:]:
        boxes, labels = [], []
        for _ in range(rng.integers(1, 9)):
            size = rng.choice([20, 60, 200]) * rng.uniform(0.7, 1.3, 2)
            bbox = [*rng.uniform(0, 200, 2), *size]
            label = int(rng.integers(3))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": CATEGORY_IDS[label],
                    "bbox": bbox,
                    "area": size.prod() * 0.8,
                    "iscrowd": int(rng.random() < 0.2),
                }
            )
            for _ in range(rng.integers(0, 4)):
                moved = bbox + rng.normal(0, 0.05, 4) * np.tile(size, 2)
                boxes.append([*moved[:2], *(moved[:2] + moved[2:])])
                labels.append(label if rng.random() < 0.9 else int(rng.integers(3)))
        scores = rng.random(len(boxes)).round(1)  # with ties
        predictions.append((image["id"], scores, labels, boxes))
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": f"class {number}"} for number in CATEGORY_IDS],
    }
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(document))
    return path, predictions


def process(evaluator, predictions):
    for image_id, scores, labels, boxes in predictions:
        output = {
            "scores": torch.as_tensor(scores, dtype=torch.float32),
            "labels": torch.as_tensor(labels, dtype=torch.int64),
            "boxes_xyxy": torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        }
        evaluator.process([{"image_id": image_id}], [output])


def reference(annotations, results):
    """COCO's own evaluation of a result file."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO(str(annotations))
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def test_all_numbers_equal_pycocotools_on_the_written_file(noisy_set, tmp_path, capsys):
    annotations, predictions = noisy_set
    evaluator = CocoEvaluator(annotations, tmp_path / "out")
    process(evaluator, predictions)
    metrics = evaluator.evaluate()["bbox"]
    expected = reference(annotations, tmp_path / "out" / RESULTS_FILE)
    assert [metrics[name] for name in METRICS] == pytest.approx(100 * expected.stats, abs=1e-9)
    assert 5 < metrics["AP"] < 95  # else the comparison says little
    for number, category_id in enumerate(CATEGORY_IDS):
        precision = expected.eval["precision"][:, :, number, 0, 2]
        assert metrics[f"AP-class {category_id}"] == pytest.approx(100 * precision.mean(), abs=1e-9)
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].endswith(f"area=   all | maxDets=100 ] = {expected.stats[1]:0.3f}")
    assert len([line for line in printed if "Average" in line]) == 12
    assert any("class 30" in line for line in printed)


def test_result_file_has_category_ids_and_xywh_boxes(noisy_set, tmp_path):
    annotations, _ = noisy_set
    evaluator = CocoEvaluator(annotations, tmp_path)
    process(evaluator, [(105, [0.5], [2], [[10, 20, 40, 80]]), (103, [0.25], [0], [[0, 0, 1, 1]])])
    evaluator.evaluate()
    assert json.loads((tmp_path / RESULTS_FILE).read_text()) == [
        {"image_id": 103, "category_id": 2, "bbox": [0, 0, 1, 1], "score": 0.25},
        {"image_id": 105, "category_id": 30, "bbox": [10, 20, 30, 60], "score": 0.5},
    ]


def test_ground_truth_as_predictions_is_perfect(write_coco):
    _, annotations = write_coco()
    evaluator = CocoEvaluator(annotations)
    process(evaluator, [(11, [0.9], [1], [[5, 6, 25, 16]]), (5, [], [], [])])
    metrics = evaluator.evaluate()["bbox"]
    assert metrics["AP"] == pytest.approx(100)
    assert metrics["AP-ship"] == pytest.approx(100)
    assert math.isnan(metrics["AP-tree"])  # there is a crowd of trees only
    assert math.isnan(metrics["APl"])  # and no large object


def test_finding_nothing_gives_zeros(noisy_set, tmp_path, caplog):
    annotations, predictions = noisy_set
    evaluator = CocoEvaluator(annotations, tmp_path)
    process(evaluator, [(image_id, [], [], []) for image_id, *_ in predictions])
    assert set(evaluator.evaluate()["bbox"].values()) == {0}
    assert json.loads((tmp_path / RESULTS_FILE).read_text()) == []
    # Image 100 has no objects, and was not processed.
    assert "1 of the 12 images" in caplog.text


def test_predictions_that_are_not_finite_are_left_out(write_coco, tmp_path):
    _, annotations = write_coco()
    evaluator = CocoEvaluator(annotations, tmp_path)
    nan, inf = math.nan, math.inf
    boxes = [[5, 6, 25, 16], [5, 6, nan, 16], [5, -inf, 25, 16]]
    process(evaluator, [(11, [nan, 0.5, 0.5], [1, 1, 1], boxes)])
    assert evaluator.evaluate()["bbox"]["AP"] == 0
    assert json.loads((tmp_path / RESULTS_FILE).read_text()) == []


def test_sets_that_number_from_0_and_leave_fields_out_are_measured(write_coco):
    box = {"image_id": 5, "category_id": 2}
    _, annotations = write_coco(
        annotations=[
            {**box, "id": 0, "bbox": [0, 0, 10, 10]},
            {**box, "id": 1, "bbox": [10, 20, 10, 10]},
            {**box, "id": 2, "bbox": [math.nan, 20, 10, 10]},
        ]
    )
    evaluator = CocoEvaluator(annotations)
    process(evaluator, [(5, [0.9, 0.8], [0, 0], [[0, 0, 10, 10], [10, 20, 20, 30]])])
    metrics = evaluator.evaluate()["bbox"]
    assert metrics["AP"] == metrics["APs"] == pytest.approx(100)  # 100 square pixels are small


def test_foreign_images_and_classes_are_refused(write_coco):
    _, annotations = write_coco()
    evaluator = CocoEvaluator(annotations)
    with pytest.raises(UserError, match=f"image_id 12 is not in {annotations}"):
        process(evaluator, [(12, [], [], [])])
    with pytest.raises(UserError, match=r"class index 2, .* 2 classes"):
        process(evaluator, [(11, [0.5], [2], [[0, 0, 1, 1]])])


def test_unused_indices_of_cocos_numbering_are_left_out(write_coco, tmp_path):
    categories = [{"id": number, "name": str(number)} for number in COCO_CATEGORY_IDS]
    _, annotations = write_coco(categories=categories)
    evaluator = CocoEvaluator(annotations, tmp_path)
    boxes = [[0, 0, 1, 1]] * 3
    process(evaluator, [(11, [0.5, 0.4, 0.3], [12, 90, 0], boxes)])
    evaluator.evaluate()
    results = json.loads((tmp_path / RESULTS_FILE).read_text())
    assert [result["category_id"] for result in results] == [90]

import contextlib
import csv
import io
import json
import logging
import math

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dropkey_core.engine import UserError
from projects.detr import CocoEvaluator
from projects.detr.coco import COCO_CATEGORY_IDS
from projects.detr.evaluation import CONFUSION, CURVES, METRICS, RESULTS_FILE
from tests.ranks import run_ranks

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
                moved = bbox + rng.normal(0, 0.1, 4) * np.tile(size, 2)
                boxes.append([*moved[:2], *(moved[:2] + moved[2:])])
                labels.append(label if rng.random() < 0.9 else int(rng.integers(3)))
        scores = rng.random(len(boxes)).round(1)  # with ties
        predictions.append((image["id"], scores, labels, boxes))
    document = {
        "images": images[::-1],  # equal scores count in the order of ids
        "annotations": annotations,
        "categories": [{"id": number, "name": f"class {number}"} for number in CATEGORY_IDS],
    }
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(document))
    return path, predictions


@pytest.fixture
def no_charts(monkeypatch):
    """Draws no charts, which take the longest, where nobody looks at them."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)


def process(evaluator, predictions):
    for image_id, scores, labels, boxes in predictions:
        output = {
            "scores": torch.as_tensor(scores, dtype=torch.float32),
            "labels": torch.as_tensor(labels, dtype=torch.int64),
            "boxes_xyxy": torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        }
        evaluator.process([{"image_id": image_id}], [output])


def reference(annotations, results, max_detections=100):
    """COCO's own evaluation of a result file; it sums up for 100 detections only."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        ground_truth = COCO(str(annotations))
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(str(results)), "bbox")
        evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
        if max_detections == 100:
            evaluation.summarize()
    evaluation.table = [line for line in said.getvalue().splitlines() if "Average" in line]
    return evaluation


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.usefixtures("no_charts")
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
    assert printed[:12] == expected.table
    assert any("class 30" in line for line in printed)


@pytest.mark.usefixtures("no_charts")
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


@pytest.mark.usefixtures("no_charts")
def test_finding_nothing_gives_zeros(noisy_set, tmp_path, caplog):
    annotations, predictions = noisy_set
    evaluator = CocoEvaluator(annotations, tmp_path)
    process(evaluator, [(image_id, [], [], []) for image_id, *_ in predictions])
    assert set(evaluator.evaluate()["bbox"].values()) == {0}
    assert json.loads((tmp_path / RESULTS_FILE).read_text()) == []
    # Image 100 has no objects, and was not processed.
    assert "1 of the 12 images" in caplog.text


@pytest.mark.usefixtures("no_charts")
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


@pytest.mark.parametrize("area", [0, None, "40000", -40000, True, math.nan, "left out"])
def test_an_area_that_is_no_positive_number_is_that_of_the_box(write_coco, caplog, area):
    """A box of 200 x 200 pixels is large, whatever the file says."""
    given = {"image_id": 5, "category_id": 2, "bbox": [0, 0, 200, 200], "area": area}
    if area == "left out":
        del given["area"]
    _, annotations = write_coco(annotations=[given])
    with caplog.at_level(logging.WARNING):
        evaluator = CocoEvaluator(annotations)
    process(evaluator, [(5, [0.9], [0], [[0, 0, 200, 200]])])
    metrics = evaluator.evaluate()["bbox"]
    assert metrics["AP"] == metrics["APl"] == pytest.approx(100)
    assert math.isnan(metrics["APs"])
    is_told = area not in (None, "left out")
    assert ("1 of 1 annotations have an area that is no positive number" in caplog.text) == is_told


def test_a_file_with_a_part_of_the_trained_categories_is_measured_by_them(
    write_coco, tmp_path, capsys
):
    """Classes 0 and 2 of three; what is found of class 1 does not count."""
    _, annotations = write_coco()
    trained = tmp_path / "trained.json"
    names = {2: "tree", 5: "bush", 7: "ship"}
    document = {"categories": [{"id": n, "name": name} for n, name in names.items()]}
    trained.write_text(json.dumps(document))
    evaluator = CocoEvaluator(annotations, tmp_path, same_categories_as=trained)
    boxes = [[5, 6, 25, 16], [0, 0, 9, 9]]
    process(evaluator, [(11, [0.9, 0.95], [2, 1], boxes), (5, [], [], [])])
    metrics = evaluator.evaluate()["bbox"]
    assert metrics["AP"] == metrics["AP-ship"] == pytest.approx(100)
    assert "AP-bush" not in metrics and "bush" not in capsys.readouterr().out
    assert [row[0] for row in rows_of(tmp_path / f"{CONFUSION}.csv")[1:]] == [
        "tree", "ship", "nothing"
    ]  # fmt: skip
    results = json.loads((tmp_path / RESULTS_FILE).read_text())
    assert [result["category_id"] for result in results] == [7]
    with pytest.raises(UserError, match=r"class index 3, .* 3 classes"):
        process(evaluator, [(11, [0.5], [3], [[0, 0, 1, 1]])])


def test_a_file_without_annotations_gets_its_predictions_written(write_coco, tmp_path, caplog):
    _, annotations = write_coco(annotations=None)
    evaluator = CocoEvaluator(annotations, tmp_path / "out")
    process(evaluator, [(11, [0.9], [1], [[5, 6, 25, 16]]), (5, [], [], [])])
    with caplog.at_level(logging.WARNING):
        assert evaluator.evaluate() == {"bbox": {}}
    written = tmp_path / "out" / RESULTS_FILE
    assert f"no annotations: nothing is measured; predictions are written to {RESULTS_FILE} in" in (
        caplog.text
    )
    assert json.loads(written.read_text()) == [
        {"image_id": 11, "category_id": 7, "bbox": [5, 6, 20, 10], "score": pytest.approx(0.9)}
    ]


def test_foreign_images_and_classes_are_refused(write_coco):
    _, annotations = write_coco()
    evaluator = CocoEvaluator(annotations)
    with pytest.raises(UserError, match=f"image_id 12 is not in {annotations}"):
        process(evaluator, [(12, [], [], [])])
    with pytest.raises(UserError, match=r"class index 2, .* 2 classes"):
        process(evaluator, [(11, [0.5], [2], [[0, 0, 1, 1]])])


@pytest.mark.usefixtures("no_charts")
def test_unused_indices_of_cocos_numbering_are_left_out(write_coco, tmp_path):
    categories = [{"id": number, "name": str(number)} for number in COCO_CATEGORY_IDS]
    _, annotations = write_coco(categories=categories)
    evaluator = CocoEvaluator(annotations, tmp_path)
    boxes = [[0, 0, 1, 1]] * 3
    process(evaluator, [(11, [0.5, 0.4, 0.3], [12, 90, 0], boxes)])
    evaluator.evaluate()
    results = json.loads((tmp_path / RESULTS_FILE).read_text())
    assert [result["category_id"] for result in results] == [90]


@pytest.fixture
def crowded_set(write_coco):
    """An image of 130 small objects that are found with falling scores, and an empty one."""
    boxes = [[x * 8, y * 6, 6, 5] for y in range(10) for x in range(13)]
    annotations = [
        {"id": n + 1, "image_id": 11, "category_id": (2, 7)[n % 2], "bbox": box, "iscrowd": 0,
         "area": 30}
        for n, box in enumerate(boxes)
    ]  # fmt: skip
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 80, "width": 120} for n in (11, 5)]
    _, path = write_coco(images=images, annotations=annotations, categories=[
        {"id": 2, "name": "tree"}, {"id": 7, "name": "ship"},
    ])  # fmt: skip
    found = [[x, y, x + w, y + h] for x, y, w, h in boxes]
    scores = torch.linspace(0.9, 0.1, len(boxes))
    return path, [(11, scores, [n % 2 for n in range(len(boxes))], found)]


@pytest.mark.usefixtures("no_charts")
@pytest.mark.parametrize("max_detections", [11, 50, 100, 300])
def test_so_many_detections_of_an_image_count(crowded_set, tmp_path, max_detections):
    """COCO takes them per class: 65 of each here."""
    annotations, predictions = crowded_set
    evaluator = CocoEvaluator(annotations, tmp_path, max_detections=max_detections)
    process(evaluator, predictions)
    metrics = evaluator.evaluate()["bbox"]
    expected = reference(annotations, tmp_path / RESULTS_FILE, max_detections)
    recall = expected.eval["recall"][:, :, 0, 2].mean()
    assert recall == pytest.approx(min(max_detections, 65) / 65)
    assert metrics[f"AR{max_detections}"] == pytest.approx(100 * recall, abs=1e-9)
    precision = expected.eval["precision"][..., 0, 2].mean()
    assert metrics["AP"] == pytest.approx(100 * precision, abs=1e-9)
    assert ("AR100" in metrics) == (max_detections == 100)


def test_more_objects_than_detections_are_told_in_one_line(crowded_set, caplog):
    annotations, _ = crowded_set
    CocoEvaluator(annotations, max_detections=130)
    assert not caplog.records
    CocoEvaluator(annotations)
    (record,) = caplog.records
    assert f"{annotations}: 1 of its images have more than 100 objects" in record.getMessage()
    assert "image_id 11: 130" in record.getMessage()


@pytest.mark.parametrize("wrong", [10, 0, -100, 100.0, True, "100"])
def test_max_detections_must_be_a_whole_number_above_10(write_coco, wrong):
    _, annotations = write_coco()
    with pytest.raises(UserError, match=rf"max_detections .* above 10, got {wrong!r}"):
        CocoEvaluator(annotations, max_detections=wrong)


def test_curves_are_cocos_precision_at_half(noisy_set, tmp_path):
    annotations, predictions = noisy_set
    evaluator = CocoEvaluator(annotations, tmp_path)
    process(evaluator, predictions)
    evaluator.evaluate()
    header, *rows = rows_of(tmp_path / f"{CURVES}.csv")
    assert header[0] == "recall"
    assert header[2:] == ["class 2", "class 7", "class 30"]
    precision = reference(annotations, tmp_path / RESULTS_FILE).eval["precision"][0, :, :, 0, 2]
    expected = np.c_[np.linspace(0, 1, 101), precision.mean(1), precision]
    np.testing.assert_allclose(np.array(rows, dtype=float), expected, rtol=0, atol=1e-9)
    assert (tmp_path / f"{CURVES}.png").read_bytes().startswith(b"\x89PNG")


def test_a_class_without_objects_has_no_curve(write_coco, tmp_path):
    _, annotations = write_coco()  # a ship, and a crowd of trees
    evaluator = CocoEvaluator(annotations, tmp_path)
    process(evaluator, [(11, [0.9], [1], [[5, 6, 25, 16]])])
    evaluator.evaluate()
    header, first, *_ = rows_of(tmp_path / f"{CURVES}.csv")
    values = dict(zip(header, map(float, first), strict=True))
    assert math.isnan(values["tree"])
    assert values["ship"] == values["mean of the classes, IoU 0.5"] == pytest.approx(1)


def test_confusion_worked_out_by_hand(write_coco, tmp_path):
    box = {"image_id": 11, "iscrowd": 0}
    _, annotations = write_coco(
        annotations=[
            {**box, "id": 1, "category_id": 2, "bbox": [0, 0, 10, 10]},
            {**box, "id": 2, "category_id": 7, "bbox": [20, 0, 10, 10]},
            {**box, "id": 3, "category_id": 7, "bbox": [0, 20, 10, 10]},
        ]
    )
    evaluator = CocoEvaluator(annotations, tmp_path)
    scores = [0.9, 0.8, 0.7, 0.49]
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [25, 25, 30, 30], [0, 20, 10, 30]]
    labels = [0, 0, 1, 1]  # right; a ship taken for a tree; nothing there; too low a score
    process(evaluator, [(11, scores, labels, boxes)])
    evaluator.evaluate()
    assert rows_of(tmp_path / f"{CONFUSION}.csv") == [
        ["is / detected as", "tree", "ship", "nothing"],
        ["tree", "1", "0", "0"],
        ["ship", "1", "0", "1"],
        ["nothing", "0", "1", "0"],
    ]
    assert (tmp_path / f"{CONFUSION}.png").read_bytes().startswith(b"\x89PNG")


def test_negative_ids_and_many_classes_are_measured(write_coco, tmp_path):
    categories = [{"id": number, "name": f"${number}"} for number in range(-20, 20)]
    images = [
        {"id": number, "file_name": "a.jpg", "height": 50, "width": 50} for number in (-3, 2**53)
    ]
    annotations = [
        {"id": n, "image_id": images[n % 2]["id"], "category_id": n - 20, "bbox": [n, 0, 10, 10]}
        for n in range(40)
    ]
    _, path = write_coco(images=images, annotations=annotations, categories=categories)
    evaluator = CocoEvaluator(path, tmp_path)
    for number, image in enumerate(images):
        mine = range(number, 40, 2)
        boxes = [[n, 0, n + 10, 10] for n in mine]
        process(evaluator, [(image["id"], [0.9] * 20, list(mine), boxes)])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    assert [row[1:41].index("1") for row in rows_of(tmp_path / f"{CONFUSION}.csv")[1:41]] == list(
        range(40)
    )


def test_a_fork_of_a_process_that_measured_refuses_in_one_line(write_coco):
    """It would wait for threads that do not exist there."""
    _, annotations = write_coco()
    evaluator = CocoEvaluator(annotations)
    process(evaluator, [(11, [0.9], [1], [[5, 6, 25, 16]])])
    evaluator.evaluate()
    (forked,) = run_ranks(1, evaluator.evaluate, timeout=60)
    assert forked.value is None
    assert "UserError: COCO's AP was measured before this process was forked" in forked.err

import json
import logging
import math
import os
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dropkey_core.engine import UserError
from projects.qpic.evaluation import RESULTS_FILE, HicoDetEvaluator, build_evaluator
from tests.projects.qpic import plain_protocol
from tests.projects.qpic.generated_task import (
    EvaluationTask,
    generated_predictions,
    generated_task,
)

REAL = os.environ.get("DROPKEY_HICODET_JSON", "")  # a file of the hicodet repository
QPIC = os.environ.get("DROPKEY_QPIC", "")  # a checkout of hitachi-rd-cv/qpic

PERSON, KITE, BALL = 0, 1, 2
HOLD, WATCH = 0, 1
VALIDITY = np.ones((2, 3), bool)
MAN, WOMAN, TOY = [0, 0, 9, 29], [100, 0, 109, 29], [20, 0, 29, 9]
FAR = [500, 500, 520, 520]


def image(boxes, labels, hois):
    return {"boxes_xyxy": np.array(boxes, np.float32), "labels": labels, "hois": hois}


def holds_kite():
    return image([MAN, TOY], [PERSON, KITE], [(0, 1, HOLD)])


def output(*pairs, num_verbs=2):
    """Predictions from (subject box, object box, object label, verb scores) each."""
    columns = list(zip(*pairs, strict=True)) or [[], [], [], []]
    return {
        "sub_boxes": torch.tensor(columns[0], dtype=torch.float32).reshape(-1, 4),
        "obj_boxes": torch.tensor(columns[1], dtype=torch.float32).reshape(-1, 4),
        "obj_labels": torch.tensor(columns[2], dtype=torch.int64),
        "verb_scores": torch.tensor(columns[3], dtype=torch.float32).reshape(-1, num_verbs),
    }


def evaluator_of(ground_truth, rare=((PERSON, KITE, HOLD),), non_rare=(), **options):
    return HicoDetEvaluator(
        ground_truth, VALIDITY, rare, non_rare, **{"subject_label": PERSON, **options}
    )


def results_of(ground_truth, outputs, **options):
    """Results by triplet of outputs by image id."""
    evaluator = evaluator_of(ground_truth, **options)
    evaluator.process([{"image_id": image_id} for image_id in outputs], list(outputs.values()))
    return {result.triplet: result for result in evaluator.results_of(evaluator.gather())}


# --- worked out by hand


def test_four_images_worked_out():
    """Four images with a kite held, found with 0.9, missed, found with 0.7 and found with 0.8."""
    ground_truth = {number: holds_kite() for number in range(4)}
    found, missed = (MAN, TOY, KITE), (FAR, TOY, KITE)
    results = results_of(
        ground_truth,
        {
            0: output((*found, [0.9, 0])),
            1: output((*missed, [0.85, 0])),
            2: output((*found, [0.7, 0])),
            3: output((*missed, [0.75, 0]), (*found, [0.8, 0])),
        },
    )
    result = results[PERSON, KITE, HOLD]
    assert result.num_truths == 4
    assert result.scores.tolist() == pytest.approx([0.9, 0.85, 0.8, 0.75, 0.7])
    assert result.right.tolist() == [True, False, True, False, True]
    # precision 1, 2/3, 3/5 at recall 1/4, 2/4, 3/4
    assert result.ap == pytest.approx((3 * 1 + 3 * 2 / 3 + 2 * 3 / 5) / 11, abs=1e-15)
    assert result.max_recall == 3 / 4


def test_known_object_leaves_out_images_without_the_object():
    ground_truth = {
        0: holds_kite(),
        1: image([MAN, TOY], [PERSON, BALL], [(0, 1, HOLD)]),
        2: image([MAN, WOMAN], [PERSON, PERSON], [(0, 1, WATCH)]),
        3: image([MAN], [PERSON], []),
    }
    kite = (MAN, TOY, KITE, [0.6, 0])
    person = (MAN, WOMAN, PERSON)
    outputs = {
        0: output(kite, (*person, [0, 0.9])),
        1: output((MAN, TOY, KITE, [0.8, 0])),
        2: output((*person, [0, 0.5])),
        3: output((*person, [0, 0.7])),
    }
    results = results_of(ground_truth, outputs)
    held = results[PERSON, KITE, HOLD]
    assert held.right.tolist() == [False, True]
    assert (held.ap, held.ap_known_object) == pytest.approx((1 / 2, 1))
    # Image 0 has a person, who acts; in image 3 nobody acts on anything, so its man counts.
    watched = results[PERSON, PERSON, WATCH]
    assert watched.right.tolist() == [False, False, True]
    assert (watched.ap, watched.ap_known_object) == pytest.approx((1 / 3, 1 / 2))
    assert results[PERSON, BALL, HOLD].ap == 0


def test_means_over_the_triplets_of_each_list(capsys, caplog):
    ground_truth = {
        0: holds_kite(),
        1: image([MAN, TOY], [PERSON, BALL], [(0, 1, HOLD), (0, 1, WATCH)]),
    }
    evaluator = evaluator_of(
        ground_truth,
        rare=[(PERSON, KITE, HOLD), (PERSON, KITE, WATCH)],  # the second never occurs
        non_rare=[(PERSON, BALL, HOLD)],
    )
    found = output((MAN, TOY, BALL, [0.9, 0.8]))
    evaluator.process([{"image_id": 1}, {"image_id": 0}], [found, output()])
    metrics = evaluator.evaluate()
    assert metrics["hoi"] == pytest.approx(
        {"mAP_full": 2 / 3, "mAP_rare": 0, "mAP_non_rare": 1, "mean_max_recall": 2 / 3}
    )
    assert metrics["hoi_known_object"] == pytest.approx(
        {"mAP_full": 2 / 3, "mAP_rare": 0, "mAP_non_rare": 1}
    )
    assert "1 triplets are neither rare nor non-rare" in caplog.text
    assert capsys.readouterr().out.splitlines()[1].split() == ["Default", "66.67", "0.00", "100.00"]


# --- quirks and edges


def test_a_recall_of_3_in_10_is_below_the_fourth_of_qpics():
    ground_truth = {number: holds_kite() for number in range(10)}
    outputs = {number: output((MAN, TOY, KITE, [0.5, 0])) for number in range(3)}
    (result,) = results_of(ground_truth, outputs).values()
    assert result.ap == pytest.approx(3 / 11, abs=1e-15)


def test_equal_scores_count_in_the_order_of_the_images_not_of_processing():
    ground_truth = {7: holds_kite(), 3: holds_kite()}
    outputs = {n: output((man, TOY, KITE, [0.5, 0])) for n, man in ((3, FAR), (7, MAN))}
    (result,) = results_of(ground_truth, outputs).values()
    assert result.right.tolist() == [True, False]


def test_interactions_without_object_are_left_out_and_counted(caplog):
    alone = image([MAN, TOY], [PERSON, KITE], [(0, -1, WATCH), (0, 1, HOLD)])
    with caplog.at_level(logging.INFO):
        results = results_of({0: alone}, {0: output((MAN, TOY, KITE, [0.9, 0.8]))})
    assert list(results) == [(PERSON, KITE, HOLD)]
    assert "left out 1 interactions without an object" in caplog.text


def test_boxes_that_are_not_finite_are_named(caplog):
    evaluator_of({8: image([MAN, [0, math.nan, 1, 1]], [PERSON, KITE], [(0, 1, HOLD)])})
    assert "1 boxes of the ground truth are not finite" in caplog.text
    assert "the first is image 8, box 1" in caplog.text


def test_nothing_at_all():
    evaluator = evaluator_of({0: image([MAN], [PERSON], [])})
    evaluator.process([{"image_id": 0}], [output((MAN, TOY, KITE, [0.9, 0.8]))])
    metrics = evaluator.evaluate()
    assert all(map(math.isnan, metrics["hoi"].values()))
    assert all(map(math.isnan, HicoDetEvaluator({}, VALIDITY, [], []).evaluate()["hoi"].values()))


def test_images_not_processed_count_and_are_told(caplog):
    ground_truth = {0: holds_kite(), 1: holds_kite()}
    (result,) = results_of(ground_truth, {0: output((MAN, TOY, KITE, [0.9, 0]))}).values()
    assert result.max_recall == 0.5
    assert "1 of the 2 images of the ground truth were not processed" in caplog.text


def test_half_precision_and_gradients():
    prediction = output((MAN, TOY, KITE, [0.9, 0]))
    prediction = {
        name: value.bfloat16().requires_grad_() if value.is_floating_point() else value
        for name, value in prediction.items()
    }
    (result,) = results_of({0: holds_kite()}, {0: prediction}).values()
    assert result.right.tolist() == [True]


def test_what_is_kept_does_not_grow_with_the_pairs():
    evaluator = evaluator_of({0: holds_kite()})
    evaluator.process([{"image_id": 0}], [output(*[(MAN, TOY, KITE, [0.9, 0.8])] * 500)])
    (kept,) = evaluator._kept.values()
    assert [len(column) for column in kept] == [100] * 4
    assert all(column.base is None or column.base.nbytes < 10_000 for column in kept)


# --- against the plain protocol


def with_oddities(task):
    """The task with empty images, copies, interactions without object, and ties."""
    ground_truth = {number: dict(image) for number, image in task.ground_truth.items()}
    predictions = [dict(prediction) for prediction in task.predictions]
    for number in range(0, len(ground_truth), 5):
        hois = ground_truth[number]["hois"]
        ground_truth[number]["hois"] = np.concatenate([hois, hois[:1], [[0, -1, 3]]])
    ground_truth[3] = image(np.zeros((0, 4)), [], np.zeros((0, 3), np.int64))
    ground_truth[7] = {**ground_truth[7], "hois": ground_truth[3]["hois"]}
    predictions[4] = {name: value[:0] for name, value in predictions[4].items()}
    for prediction in predictions[::2]:
        prediction["verb_scores"] = (prediction["verb_scores"] * 8).round() / 8
    return replace(task, ground_truth=ground_truth, predictions=predictions)


def run_evaluator(task, predictions):
    """The evaluator, and its results by triplet, of images in another order."""
    evaluator = HicoDetEvaluator(
        task.ground_truth, task.validity, task.rare, task.non_rare, subject_label=task.rare[0][0]
    )
    ids = [{"image_id": number} for number in task.ground_truth]
    evaluator.process(ids[::-1], predictions[::-1])
    results = evaluator.results_of(evaluator.gather())
    return evaluator, {result.triplet: result for result in results}


def assert_as_plain(task):
    """Compare every AP, score and flag; returns how many true and false positives there were."""
    predictions = [
        {name: value.double() if value.is_floating_point() else value for name, value in p.items()}
        for p in task.predictions
    ]
    ground_truth = {
        number: {name: np.asarray(value).tolist() for name, value in image.items()}
        for number, image in task.ground_truth.items()
    }
    evaluator, results = run_evaluator(replace(task, ground_truth=ground_truth), predictions)
    plain = [{name: value.tolist() for name, value in p.items()} for p in predictions]
    ap, order = plain_protocol.evaluate(
        ground_truth,
        dict(zip(ground_truth, plain, strict=True)),
        task.validity.tolist(),
        evaluator.subject_label,
    )
    assert results.keys() == ap["default"].keys()
    for triplet, result in results.items():
        judged = list(zip(result.scores.tolist(), result.right.tolist(), strict=True))
        assert judged == order[triplet], triplet
        assert result.ap == pytest.approx(ap["default"][triplet], abs=1e-12)
        assert result.ap_known_object == pytest.approx(ap["known_object"][triplet], abs=1e-12)
    full = np.mean(list(ap["default"].values()))
    summary = evaluator.summary(list(results.values()))
    assert summary["hoi"]["mAP_full"] == pytest.approx(full, abs=1e-12)
    right = np.concatenate([result.right for result in results.values()])
    return right.sum(), (~right).sum()


def test_as_the_plain_protocol():
    right, wrong = assert_as_plain(with_oddities(generated_task(60)))
    assert right > 80  # else the comparison says little
    assert wrong > 300


def as_qpics_inputs(task):
    """The arguments of QPIC's evaluator, which changes them."""
    predictions = []
    for prediction in task.predictions:
        labels = prediction["obj_labels"]
        pairs = torch.arange(len(labels))
        predictions.append(
            {
                "labels": torch.cat([torch.full_like(labels, task.rare[0][0]), labels]),
                "boxes": torch.cat([prediction["sub_boxes"], prediction["obj_boxes"]]),
                "verb_scores": prediction["verb_scores"].clone(),
                "sub_ids": pairs,
                "obj_ids": len(labels) + pairs,
            }
        )
    names = {"boxes_xyxy": "boxes", "labels": "labels", "hois": "hois"}
    truths = [
        {theirs: torch.as_tensor(annotations[name]) for name, theirs in names.items()}
        for annotations in task.ground_truth.values()
    ]
    return predictions, truths, task.rare[0][0], task.rare, task.non_rare, task.validity


@pytest.mark.skipif(not QPIC, reason="DROPKEY_QPIC names no checkout of hitachi-rd-cv/qpic")
def test_as_qpics_own_evaluator():
    """It fails on interactions without an object and on images without a prediction."""
    official = runpy.run_path(str(Path(QPIC) / "datasets/hico_eval.py"))["HICOEvaluator"]
    task = with_oddities(generated_task(200))
    task.predictions[4] = task.predictions[5]
    for annotations in task.ground_truth.values():
        annotations["hois"] = annotations["hois"][annotations["hois"][:, 1] >= 0]
    evaluator, results = run_evaluator(task, task.predictions)
    theirs = official(*as_qpics_inputs(task))
    numbers = theirs.evaluate()
    ours = evaluator.summary(list(results.values()))["hoi"]
    names = {"mAP_full": "mAP", "mAP_rare": "mAP rare", "mAP_non_rare": "mAP non-rare"}
    for name, their_name in {**names, "mean_max_recall": "mean max recall"}.items():
        assert ours[name] == pytest.approx(numbers[their_name], abs=1e-15)
    assert results.keys() == {tuple(map(int, triplet)) for triplet in theirs.gt_triplets}
    for triplet in theirs.gt_triplets:
        order = np.argsort(-np.array(theirs.score[triplet]))
        flags = np.array(theirs.tp[triplet], bool)[order]
        assert np.array_equal(results[tuple(map(int, triplet))].right, flags), triplet


def task_of_hicodet(path, num_pairs):
    """Annotations of the hicodet repository, with generated predictions."""
    document = json.loads(Path(path).read_text())
    person = document["objects"].index("person")
    triplets = [(person, obj, verb) for _, obj, verb in document["correspondence"]]
    validity = np.zeros((len(document["verbs"]), len(document["objects"])), bool)
    validity[[verb for *_, verb in triplets], [obj for _, obj, _ in triplets]] = True
    rng = np.random.default_rng(0)
    ground_truth, predictions = {}, []
    for number, entry in enumerate(document["annotation"]):
        boxes = {}  # number of each (box, label)
        hois = [
            (
                boxes.setdefault((tuple(human), person), len(boxes)),
                boxes.setdefault((tuple(thing), obj), len(boxes)),
                verb,
            )
            for human, thing, obj, verb in zip(
                entry["boxes_h"], entry["boxes_o"], entry["object"], entry["verb"], strict=True
            )
        ]
        ground_truth[number] = {
            "boxes_xyxy": np.array([box for box, _ in boxes], np.float32).reshape(-1, 4),
            "labels": np.array([label for _, label in boxes], np.int64),
            "hois": np.array(hois, np.int64).reshape(-1, 3),
        }
        if hois:
            predictions.append(generated_predictions(rng, ground_truth[number], num_pairs))
        else:
            predictions.append({name: value[:2] for name, value in predictions[0].items()})
    rare = [triplets[number] for number in document["rare"]]
    non_rare = [triplets[number] for number in document["non_rare"]]
    return EvaluationTask(ground_truth, predictions, validity, rare, non_rare)


@pytest.mark.skipif(not REAL, reason="DROPKEY_HICODET_JSON names no file of fredzzhang/hicodet")
def test_as_the_plain_protocol_on_real_annotations():
    right, wrong = assert_as_plain(task_of_hicodet(REAL, num_pairs=6))
    assert right > 2000
    assert wrong > 20000


# --- files


def test_built_from_files_it_writes_a_result_for_every_triplet(write_interactions, tmp_path):
    _, annotations, classes = write_interactions()
    evaluator = build_evaluator(annotations, classes, output_dir=tmp_path / "out")
    pair = ([5, 6, 25, 36], [20, 10, 50, 30], 1, [0.1, 0.9, 0.1])
    outputs = [output(pair, num_verbs=3), output(num_verbs=3)]
    evaluator.process([{"image_id": 0}, {"image_id": 1}], outputs)
    assert evaluator.evaluate()["hoi"]["mAP_full"] == pytest.approx(1)
    rows = json.loads((tmp_path / "out" / RESULTS_FILE).read_text())
    assert len(rows) == 2
    assert rows[0] == {
        "subject": "person",
        "object": "dog",
        "verb": "wash",
        "rare": True,
        "interactions": 1,
        "predictions": 1,
        "true_positives": 1,
        "ap": pytest.approx(1),
        "ap_known_object": pytest.approx(1),
        "max_recall": 1,
    }


# --- bad input


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("verb_scores", [[0.1, 0.2], [0.3, math.nan]], "pair 1: verb_scores holds nan in column 1"),
        ("verb_scores", [[0.1, math.inf], [0.3, 0.1]], "pair 0: verb_scores holds inf in column 1"),
        ("obj_boxes", [TOY, [0, 0, math.nan, 5]], "pair 1: .*boxes holds nan in column 6"),
        ("obj_labels", [KITE, 3], "holds 1 to 3, .* 3 objects; set model.num_object_classes to 3"),
        ("obj_labels", [-1, KITE], "obj_labels holds -1 to 1, the ground truth has 3 objects"),
        ("verb_scores", [[0.1] * 3] * 2, "3 verbs, .* truth 2; set model.num_verb_classes to 2"),
    ],
)
def test_bad_predictions_are_named(name, value, message):
    evaluator = evaluator_of({4: holds_kite()})
    prediction = output(*[(MAN, TOY, KITE, [0.9, 0.8])] * 2) | {name: torch.tensor(value)}
    with pytest.raises(UserError, match=f"^image 4.*{message}"):
        evaluator.process([{"image_id": 4}], [prediction])


def test_subjects_of_another_class_are_not_what_is_predicted():
    ground_truth = {0: holds_kite(), 1: image([MAN, TOY], [BALL, KITE], [(0, 1, HOLD)])}
    evaluator = HicoDetEvaluator(ground_truth, VALIDITY, [], [], subject_label=BALL)
    evaluator.process([{"image_id": 1}], [output((MAN, TOY, KITE, [0.9, 0]))])
    assert [result.max_recall for result in evaluator.results_of(evaluator.gather())] == [0, 1]


def test_a_file_without_interactions_is_read_and_has_nothing_to_measure(write_interactions):
    images = [{"file_name": "a.jpg"}]
    _, annotations, classes = write_interactions(images=images)
    evaluator = build_evaluator(annotations, classes)
    scores = [0.5, 0.25, 0.1]
    evaluator.process([{"image_id": 0}], [output((MAN, TOY, 1, scores), num_verbs=3)])
    assert math.isnan(evaluator.evaluate()["hoi"]["mAP_full"])

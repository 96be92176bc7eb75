#!/usr/bin/env python
"""Benchmark of the HICO-DET evaluator, on generated predictions of that set's size.

tools/benchmark/evaluator.py
tools/benchmark/evaluator.py --reference ../qpic --repeats 1

With --reference QPIC's own evaluator takes turns with ours, about a minute each, and the largest
difference between their numbers is printed. Each turn goes from the first image to the last number.
"""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads give way

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from checkout import file_of_checkout, load_file
from report import argument_parser, positive, run_benchmark, speed_table
from timing import Measurement, Step, measure

from projects.qpic.evaluation import HicoDetEvaluator
from projects.qpic.ground_truth import Triplet

OURS, OFFICIAL = "HicoDetEvaluator", "QPIC's evaluator"

# HICO-DET's.
NUM_CLASSES, NUM_VERBS, NUM_TRIPLETS, NUM_RARE = 80, 117, 600, 138
PERSON = 0
NUM_IMAGES = 9546  # with interactions, in the test set
MEAN_INTERACTIONS = 3.4  # per image of the test set
NUM_PAIRS = 64  # predicted per image

# By our names in the Default setting.
OFFICIAL_NAMES = {
    "mAP_full": "mAP",
    "mAP_rare": "mAP rare",
    "mAP_non_rare": "mAP non-rare",
    "mean_max_recall": "mean max recall",
}


@dataclass(frozen=True)
class EvaluationTask:
    """Arguments of ``HicoDetEvaluator``, and a prediction for each image of its ground truth."""

    ground_truth: dict[int, dict[str, Any]]
    predictions: list[dict[str, Tensor]]
    validity: np.ndarray
    rare: list[Triplet]
    non_rare: list[Triplet]


def generated_task(num_images: int) -> EvaluationTask:
    """Generate a task of HICO-DET's size: 80 object classes, 117 verbs, 600 triplets, 138 rare.

    Half of the predicted pairs are moved copies of annotated ones, often with the right object;
    their verbs have higher scores than the others', which are noise.
    """
    rng = np.random.default_rng(0)
    validity = generated_validity(rng)
    triplets = [
        (PERSON, int(obj), int(verb)) for verb, obj in rng.permutation(np.argwhere(validity))
    ]
    ground_truth, predictions = {}, []
    for image_id in range(num_images):
        annotations = generated_annotations(rng, triplets)
        ground_truth[image_id] = annotations
        predictions.append(generated_predictions(rng, annotations))
    return EvaluationTask(
        ground_truth, predictions, validity, triplets[:NUM_RARE], triplets[NUM_RARE:]
    )


def generated_validity(rng: np.random.Generator) -> np.ndarray:
    """Which verbs go with which object (V, C): at least three with each, as in HICO-DET."""
    order = rng.random((NUM_VERBS, NUM_CLASSES))
    order[order <= np.sort(order, axis=0)[2]] -= 1
    return order <= np.sort(order, axis=None)[NUM_TRIPLETS - 1]


def generated_annotations(rng: np.random.Generator, triplets: list[Triplet]) -> dict[str, Any]:
    """Boxes, labels and interactions of an image: subjects first, then as many objects."""
    count = 1 + rng.poisson(MEAN_INTERACTIONS - 1)
    # Common and rare ones differ by orders of magnitude, as in HICO-DET.
    chosen = (len(triplets) * rng.random(count) ** 3).astype(int)
    corners = rng.uniform(0, 400, (2 * count, 2))
    sizes = rng.uniform(20, 200, (2 * count, 2))
    return {
        "boxes_xyxy": np.concatenate([corners, corners + sizes], axis=1).astype(np.float32),
        "labels": np.array([PERSON] * count + [triplets[-1 - row][1] for row in chosen]),
        "hois": np.array(
            [(place, count + place, triplets[-1 - row][2]) for place, row in enumerate(chosen)]
        ),
    }


def generated_predictions(
    rng: np.random.Generator, annotations: Mapping[str, Any], num_pairs: int = NUM_PAIRS
) -> dict[str, Tensor]:
    """Pairs as a model predicts them, the first half near annotated ones."""
    boxes, labels, hois = (annotations[name] for name in ("boxes_xyxy", "labels", "hois"))
    near = hois[rng.integers(len(hois), size=num_pairs)]
    shift = rng.normal(0, 8, (2, num_pairs, 4))
    shift[:, num_pairs // 2 :] *= 20
    others = rng.integers(NUM_CLASSES, size=num_pairs)
    obj_labels = np.where(rng.random(num_pairs) < 0.8, labels[near[:, 1]], others)
    scores = rng.random((num_pairs, NUM_VERBS)) ** 4
    scores[np.arange(num_pairs // 2), near[: num_pairs // 2, 2]] += rng.random(num_pairs // 2)
    return {
        "sub_boxes": torch.from_numpy(boxes[near[:, 0]] + shift[0]).float(),
        "obj_boxes": torch.from_numpy(boxes[near[:, 1]] + shift[1]).float(),
        "obj_labels": torch.from_numpy(obj_labels),
        "verb_scores": torch.from_numpy(scores / 2).float(),
    }


@dataclass(frozen=True)
class Outcome:
    """Numbers of the Default setting, and true (True) and false positives by falling score."""

    numbers: dict[str, float]
    right: dict[Triplet, np.ndarray]


def benchmark_evaluators(
    num_images: int, repeats: int, reference: str | None = None
) -> dict[str, Measurement]:
    """Measure the evaluators on generated predictions; each ``result`` is an ``Outcome``.

    With ``reference``, a folder, QPIC's evaluator comes first; a UserError if it is no checkout.
    """
    task = generated_task(num_images)
    steps: dict[str, Step] = {OURS: partial(outcome_of_ours, task)}
    if reference is not None:
        file = file_of_checkout(reference, "hitachi-rd-cv/qpic", "datasets/hico_eval.py")
        evaluator = load_file(file).HICOEvaluator
        inputs = as_official_inputs(task)
        steps = {OFFICIAL: lambda: outcome_of_official(evaluator(*inputs)), **steps}
    return measure(steps, num_images, repeats)


def outcome_of_ours(task: EvaluationTask) -> Outcome:
    """Evaluate a task with ``HicoDetEvaluator``, image by image."""
    evaluator = HicoDetEvaluator(task.ground_truth, task.validity, task.rare, task.non_rare)
    for image_id, prediction in zip(task.ground_truth, task.predictions, strict=True):
        evaluator.process([{"image_id": image_id}], [prediction])
    results = evaluator.results_of(evaluator.gather())
    numbers = evaluator.summary(results)["hoi"]
    return Outcome(numbers, {result.triplet: result.right for result in results})


def as_official_inputs(task: EvaluationTask) -> tuple[Any, ...]:
    """A task as the arguments of QPIC's evaluator, which changes them."""
    predictions = []
    for prediction in task.predictions:
        labels = prediction["obj_labels"]
        pairs = torch.arange(len(labels))
        predictions.append(
            {
                "labels": torch.cat([torch.full_like(labels, PERSON), labels]),
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
    return predictions, truths, PERSON, task.rare, task.non_rare, task.validity


def outcome_of_official(evaluator: Any) -> Outcome:
    """Evaluate with an instance of QPIC's evaluator."""
    with contextlib.redirect_stdout(io.StringIO()):
        numbers = evaluator.evaluate()
    right = {}
    for triplet in evaluator.gt_triplets:
        order = np.argsort(-np.array(evaluator.score[triplet]))
        flags = np.array(evaluator.tp[triplet], bool)
        right[tuple(map(int, triplet))] = flags[order] if len(order) else flags
    return Outcome({ours: float(numbers[name]) for ours, name in OFFICIAL_NAMES.items()}, right)


def differences(ours: Outcome, official: Outcome) -> str:
    """Say how far two outcomes are apart."""
    largest = np.nanmax([abs(ours.numbers[n] - official.numbers[n]) for n in OFFICIAL_NAMES])
    triplets = ours.right.keys() | official.right.keys()
    differing = sum(
        not np.array_equal(ours.right.get(t, [None]), official.right.get(t, [None]))
        for t in triplets
    )
    return (
        f"largest difference: {largest:.1e}; true and false positives differ in "
        f"{differing} of {len(triplets)} triplets"
    )


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    measured = benchmark_evaluators(arguments.images, arguments.repeats, arguments.reference)
    print(speed_table({"evaluation": measured}))
    if OFFICIAL in measured:
        print(f"\n{differences(measured[OURS].result, measured[OFFICIAL].result)}")


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's error."""
    parser = argument_parser(__doc__)
    parser.set_defaults(threads=1)
    parser.add_argument("--reference", metavar="FOLDER", help="checkout of QPIC")
    parser.add_argument("--images", type=positive, default=NUM_IMAGES, metavar="N")
    return run_benchmark(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())

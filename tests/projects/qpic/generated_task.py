"""Generated annotations and predictions that are distributed as HICO-DET's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projects.qpic.ground_truth import Triplet

# HICO-DET's.
NUM_CLASSES, NUM_VERBS, NUM_TRIPLETS, NUM_RARE = 80, 117, 600, 138
PERSON = 0
MEAN_INTERACTIONS = 3.4  # per image of the test set
NUM_PAIRS = 64  # predicted per image


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

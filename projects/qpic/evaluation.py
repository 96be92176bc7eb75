"""HICO-DET's mean average precision of predicted human-object interactions."""

import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dropkey_core.engine import ImageEvaluator, UserError
from projects.detr.picture import unresized
from projects.qpic.average_precision import (
    eleven_point_ap,
    find_true_positives,
    strongest_interactions,
)
from projects.qpic.classes import read_classes
from projects.qpic.ground_truth import NO_OBJECT, Triplet, image_truth
from projects.qpic.interaction_file import read_interactions
from projects.qpic.picture import Pair, draw_pairs

logger = logging.getLogger(__name__)

RESULTS_FILE = "interaction_average_precision.json"
MAX_PREDICTIONS = 100  # QPIC's; per image


def build_evaluator(
    annotations: str | os.PathLike[str],
    classes: str | os.PathLike[str],
    output_dir: str | os.PathLike[str] | None = None,
) -> "HicoDetEvaluator":
    """Build the evaluator of a set that lies in files; for errors see how they are read.

    Args:
        annotations: see ``read_interactions``.
        classes: see ``read_classes``.
        output_dir: see ``HicoDetEvaluator``.
    """
    known = read_classes(classes)
    ground_truth = {
        record["image_id"]: {
            # single precision, as in QPIC's dataset
            "boxes_xyxy": np.array(record["boxes_xyxy"], np.float32).reshape(-1, 4),
            "labels": record["labels"],
            "hois": record["hois"],
        }
        for record in read_interactions(annotations, known)
    }
    return HicoDetEvaluator(
        ground_truth,
        known.validity(),
        [(known.person, *combination) for combination in known.rare_triplets],
        [(known.person, *combination) for combination in known.non_rare_triplets],
        subject_label=known.person,
        output_dir=output_dir,
        object_names=known.object_names,
        verb_names=known.verb_names,
    )


class Kept(NamedTuple):
    """What is kept of an image's predictions that count, K of them by falling score."""

    row: np.ndarray  # (K,) of the triplet, by its first appearance in the ground truth
    score: np.ndarray  # (K,)
    right: np.ndarray  # (K,) bool, True for true positives
    known: np.ndarray  # (K,) bool, True = counts in the Known Object setting


@dataclass(frozen=True)
class TripletResult:
    """How well one triplet was found.

    Args:
        triplet: labels of subject and object, verb.
        num_truths: interactions of the ground truth.
        scores: (P,) of its predictions in the Default setting, falling.
        right: (P,) bool, True for true positives, False for false ones.
        ap: average precision in the Default setting, from 0 to 1.
        ap_known_object: the same in the Known Object setting.
    """

    triplet: Triplet
    num_truths: int
    scores: np.ndarray
    right: np.ndarray
    ap: float
    ap_known_object: float

    @property
    def max_recall(self) -> float:
        """The part of the interactions that was found at all."""
        return float(self.right.sum() / self.num_truths)


class HicoDetEvaluator(ImageEvaluator):
    """HICO-DET's mean average precision of predicted interactions; detectron2's contract.

    Of every image the 100 strongest combinations of a pair and a verb are kept, and each triplet
    (subject label, object label, verb) of the ground truth gets an average precision over eleven
    recalls; ``find_true_positives`` says what counts as right. The measure is over *all* images of
    the ground truth: one that was not processed counts as one where nothing was found.

    Both settings of Chao et al., Learning to Detect Human-Object Interactions, WACV 2018
    (arXiv:1702.05448), section 5, come from the same pass:

    - **Default**: a triplet's predictions on all images count.
    - **Known Object**: only those on images that contain the triplet's object category, see
      ``ImageTruth``.

    The Default numbers are those of QPIC's evaluator, also where it differs from the definitions:

    - predictions on images without any annotated box do not count;
    - three of the eleven recalls lie a little too high, see ``RECALLS``;
    - an interaction that an image lists twice can be found once only, but is asked for twice;
    - predictions of different images with equal scores come in the order of numpy's fast sort.

    Where QPIC's evaluator fails (an image with boxes and no prediction), changes the scores it is
    given, or takes all of an image for wrong because one annotated box is not finite, this one does
    not; such a box is never found, and that is said.

    Args:
        ground_truth: by image id ``boxes_xyxy`` (n, 4) in pixels, ``labels`` (n,), ``hois`` (m, 3)
            of subject, object and verb, see ``image_truth``. Images count in this order.
        validity: (V, C) bool or 0 and 1, which verb goes with which object class.
        rare_triplets: (subject label, object label, verb) of the rare ones.
        non_rare_triplets: the others. A triplet in neither list counts in the full mean alone.
        subject_label: object class of those who act.
        output_dir: folder for ``interaction_average_precision.json``, the result of every triplet.
        object_names: of the C classes, for that file, which else has numbers.
        verb_names: likewise.
    """

    def __init__(
        self,
        ground_truth: Mapping[int, Mapping[str, Any]],
        validity: Any,
        rare_triplets: Iterable[Triplet],
        non_rare_triplets: Iterable[Triplet],
        *,
        subject_label: int = 0,
        output_dir: str | os.PathLike[str] | None = None,
        object_names: Sequence[str | int] | None = None,
        verb_names: Sequence[str | int] | None = None,
    ) -> None:
        self.possible = np.ascontiguousarray(np.asarray(validity).astype(bool).T)  # (C, V)
        self.num_classes, self.num_verbs = self.possible.shape
        self.annotations = ground_truth
        self.truth = {image_id: image_truth(known) for image_id, known in ground_truth.items()}
        # How many interactions of each triplet are asked for, by first appearance.
        self.num_truths = Counter(t for truth in self.truth.values() for t in truth.triplets)
        self.rare = set(rare_triplets)
        self.non_rare = set(non_rare_triplets)
        self.subject_label = subject_label
        self.object_names = object_names or range(self.num_classes)
        self.verb_names = verb_names or range(self.num_verbs)
        self._rows = {triplet: row for row, triplet in enumerate(self.num_truths)}
        self._row_of_cell = np.full((self.num_classes, self.num_verbs), -1)  # -1: nothing to find
        for (subject, obj, verb), row in self._rows.items():
            if subject == subject_label:
                self._row_of_cell[obj, verb] = row
        self._say_what_is_odd()
        super().__init__(output_dir, self.truth)

    @property
    def classes(self) -> dict[str, list[str]]:
        """Names of objects and verbs by class index."""
        names = {"objects": self.object_names, "verbs": self.verb_names}
        return {kind: [str(name) for name in of_kind] for kind, of_kind in names.items()}

    def keep(self, sample: dict[str, Any], output: dict[str, Tensor]) -> Kept:
        """Keep the strongest interactions of an image, and which of them are right.

        Args:
            sample: with ``image_id``.
            output: Q pairs: ``sub_boxes`` and ``obj_boxes`` (Q, 4) in pixels of the original image,
                ``obj_labels`` (Q,) class indices, ``verb_scores`` (Q, V); Q may be 0. They are left
                as they are.

        Raises:
            UserError: an unknown label, another number of verbs, a score or a box that is not
                finite; with the image.
        """
        image_id = int(sample["image_id"])
        scores = as_array(output["verb_scores"])
        labels = as_array(output["obj_labels"])
        boxes = np.hstack([as_array(output[name]) for name in ("sub_boxes", "obj_boxes")])
        if scores.shape[1] != self.num_verbs:
            raise UserError(
                f"image {image_id}: the model has {scores.shape[1]} verbs, the ground truth "
                f"{self.num_verbs}; set model.num_verb_classes to {self.num_verbs}"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise UserError(
                f"image {image_id}: obj_labels holds {labels.min()} to {labels.max()}, the ground "
                f"truth has {self.num_classes} objects; set model.num_object_classes to "
                f"{self.num_classes}"
            )
        check_finite(image_id, "verb_scores", scores)
        check_finite(image_id, "sub_boxes and obj_boxes", boxes)

        cells, scores = strongest_interactions(scores, labels, self.possible, MAX_PREDICTIONS)
        pairs, verbs = np.divmod(cells, self.num_verbs)
        rows, truth = self._row_of_cell[labels[pairs], verbs], self.truth[image_id]
        counts = (rows >= 0) & truth.has_boxes
        rows, scores, pairs = rows[counts], scores[counts], pairs[counts]
        wanted = np.array([self._rows[triplet] for triplet in truth.triplets], np.int64)
        right = find_true_positives(rows, boxes[pairs], wanted, truth.boxes, truth.first_copy)
        return Kept(rows, scores, right, np.isin(labels[pairs], truth.objects))

    def measure(self, kept: dict[int, Kept]) -> dict[str, dict[str, float]]:
        """Measure predictions by image id, and print a table in per cent.

        Returns:
            ``{"hoi": {...}, "hoi_known_object": {...}}``, each with ``mAP_full``, ``mAP_rare`` and
            ``mAP_non_rare``; ``hoi``, the Default setting, also with ``mean_max_recall``. All from
            0 to 1; NaN for a list none of whose triplets occurs.
        """
        results = self.results_of(kept)
        self.write_json(RESULTS_FILE, [self._as_plain_values(one) for one in results], indent=1)
        summary = self.summary(results)
        print(table({"Default": summary["hoi"], "Known Object": summary["hoi_known_object"]}))
        return summary

    def draw(
        self,
        samples: Sequence[dict[str, Any]],
        outputs: Sequence[dict[str, Tensor]],
        score_threshold: float = 0.3,
    ) -> np.ndarray:
        """Draw on images what was found with a score so high, and what is there: (H, W, 3) uint8.

        Args:
            samples: of a test set's mapper.
            outputs: what the model made of each, see ``projects.qpic.qpic.interactions``.
            score_threshold: of verbs, in [0, 1].
        """
        from projects.qpic.predictor import Interactions

        names = self.classes.values()
        pictures = [
            Interactions.of(unresized(sample), output, score_threshold, *names).picture(
                self.true_pairs(sample["image_id"])
            )
            for sample, output in zip(samples, outputs, strict=True)
        ]
        return np.asarray(
            draw_pairs(pictures, f"verbs with a score of {score_threshold:g} or more")
        )

    def true_pairs(self, image_id: int) -> list[Pair]:
        """The pairs of the ground truth on an image with their verbs, without object too."""
        known = self.annotations[image_id]
        boxes = [tuple(box) for box in np.asarray(known["boxes_xyxy"]).tolist()]
        classes = self.classes
        verbs_of: dict[tuple[int, int], dict[str, float | None]] = {}
        for subject, thing, verb in known["hois"]:
            verbs_of.setdefault((subject, thing), {})[classes["verbs"][verb]] = None
        pairs = []
        for (subject, thing), verbs in verbs_of.items():
            if thing == NO_OBJECT:
                pairs.append(Pair(boxes[subject], None, "", verbs))
            else:
                name = classes["objects"][known["labels"][thing]]
                pairs.append(Pair(boxes[subject], boxes[thing], name, verbs))
        return pairs

    def summary(self, results: list[TripletResult]) -> dict[str, dict[str, float]]:
        """The means of ``results_of`` that ``evaluate`` returns."""
        listed = self.rare | self.non_rare
        if unlisted := [one.triplet for one in results if one.triplet not in listed]:
            logger.warning(
                f"{len(unlisted)} triplets are neither rare nor non-rare and count in the full "
                f"mean alone; the first is {unlisted[0]}"
            )
        parts = {
            "mAP_full": results,
            "mAP_rare": [one for one in results if one.triplet in self.rare],
            "mAP_non_rare": [one for one in results if one.triplet in self.non_rare],
        }
        default = {name: mean([one.ap for one in part]) for name, part in parts.items()}
        default["mean_max_recall"] = mean([one.max_recall for one in results])
        return {
            "hoi": default,
            "hoi_known_object": {
                name: mean([one.ap_known_object for one in part]) for name, part in parts.items()
            },
        }

    def results_of(self, kept: dict[int, Kept]) -> list[TripletResult]:
        """The result of every triplet, by first appearance."""
        nothing = Kept(np.zeros(0, np.int64), np.zeros(0, np.float32), *np.zeros((2, 0), bool))
        parts = [kept[image_id] for image_id in self.truth if image_id in kept]
        rows, score, right, known = map(np.concatenate, zip(nothing, *parts, strict=True))
        by_triplet = np.argsort(rows, kind="stable")
        ends = np.cumsum(np.bincount(rows, minlength=len(self.num_truths)))
        results = []
        for (triplet, num_truths), places in zip(
            self.num_truths.items(), np.split(by_triplet, ends[:-1]), strict=False
        ):
            places = places[np.argsort(-score[places])]  # as in QPIC's, not stable
            results.append(
                TripletResult(
                    triplet=triplet,
                    num_truths=num_truths,
                    scores=score[places],
                    right=right[places],
                    ap=eleven_point_ap(right[places], num_truths),
                    ap_known_object=eleven_point_ap(right[places[known[places]]], num_truths),
                )
            )
        return results

    def _as_plain_values(self, result: TripletResult) -> dict[str, Any]:
        subject, obj, verb = result.triplet
        return {
            "subject": self.object_names[subject],
            "object": self.object_names[obj],
            "verb": self.verb_names[verb],
            "rare": result.triplet in self.rare,
            "interactions": result.num_truths,
            "predictions": len(result.right),
            "true_positives": int(result.right.sum()),
            "ap": result.ap,
            "ap_known_object": result.ap_known_object,
            "max_recall": result.max_recall,
        }

    def _say_what_is_odd(self) -> None:
        alone = sum(
            hoi[1] == NO_OBJECT for known in self.annotations.values() for hoi in known["hois"]
        )
        if alone:
            logger.info(
                f"left out {alone} interactions without an object, which HICO-DET's protocol does "
                "not know"
            )
        odd = [
            f"image {image_id}, box {number}"
            for image_id, known in self.annotations.items()
            for number, box in enumerate(known["boxes_xyxy"])
            if not np.isfinite(box).all()
        ]
        if odd:
            logger.warning(
                f"{len(odd)} boxes of the ground truth are not finite and cannot be found; the "
                f"first is {odd[0]}"
            )


def as_array(tensor: Tensor) -> np.ndarray:
    """The tensor as numpy array; half precision as single, which numpy knows and sorts fast."""
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    return tensor.numpy(force=True)


def check_finite(image_id: int, name: str, values: np.ndarray) -> None:
    """Raise UserError for NaN and infinity, with the image and the first bad pair."""
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        pair, column = bad[0]
        raise UserError(
            f"image {image_id}, pair {pair}: {name} holds {values[pair, column]} in column {column}"
        )


def mean(values: list[float]) -> float:
    """Their mean, NaN for none."""
    return float(np.mean(values)) if values else math.nan


def table(settings: dict[str, dict[str, float]]) -> str:
    """mAP by setting as lines of text, in per cent."""
    names = ["mAP_full", "mAP_rare", "mAP_non_rare"]
    rows = [["mAP in per cent", *(name.removeprefix("mAP_") for name in names)]]
    rows += [
        [setting, *(f"{100 * means[n]:.2f}" for n in names)] for setting, means in settings.items()
    ]
    return "\n".join(f"{row[0]:<16}" + "".join(f"{cell:>10}" for cell in row[1:]) for row in rows)

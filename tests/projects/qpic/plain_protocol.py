"""HICO-DET's evaluation said once more: plain, slow, and without a line of the evaluator.

Works on lists and tuples, one image, one prediction and one interaction at a time.
"""

import numpy as np


def overlap(a, b):
    """Intersection over union of two boxes that include their last pixel."""
    left, top, right, bottom = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    if right <= left or bottom <= top:
        return 0
    shared = (right - left + 1) * (bottom - top + 1)
    size = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return shared / (size[0] + size[1] - shared)


def hundred_best(prediction, validity):
    """(score, pair, verb) of an image, strongest first."""
    candidates = []
    for pair, scores in enumerate(prediction["verb_scores"]):
        for verb, score in enumerate(scores):
            valid = validity[verb][prediction["obj_labels"][pair]]
            candidates.append((score if valid else 0.0, pair, verb))
    return sorted(candidates, key=lambda candidate: -candidate[0])[:100]


def judge_image(annotations, prediction, validity, subject_label):
    """(triplet, score, is right) of an image's predictions, strongest first."""
    boxes, labels = annotations["boxes_xyxy"], annotations["labels"]
    taken = set()
    for score, pair, verb in hundred_best(prediction, validity):
        object_label = prediction["obj_labels"][pair]
        best, best_overlap = None, 0.5
        for subject, obj, true_verb in annotations["hois"]:
            if obj == -1 or true_verb != verb:
                continue
            if labels[subject] != subject_label or labels[obj] != object_label:
                continue
            smaller = min(
                overlap(prediction["sub_boxes"][pair], boxes[subject]),
                overlap(prediction["obj_boxes"][pair], boxes[obj]),
            )
            if smaller > best_overlap or (best is None and smaller == best_overlap):
                best, best_overlap = (subject, obj, verb), smaller
        yield (subject_label, object_label, verb), score, best is not None and best not in taken
        taken.add(best)


def eleven_points(right, wanted):
    """AP of predictions by falling score; QPIC's recalls are products in floating point."""
    best = [0.0] * 11
    found = 0
    for rank, is_right in enumerate(right, start=1):
        found += is_right
        for k in range(11):
            if found / wanted >= 0.1 * k:
                best[k] = max(best[k], found / rank)
    return sum(best) / 11


def evaluate(ground_truth, predictions, validity, subject_label):
    """Everything HICO-DET asks for, as QPIC's evaluator has it.

    Args:
        ground_truth: by image id, in order.
        predictions: by image id.

    Returns:
        AP by setting, then by triplet; and (score, is right) of each triplet's predictions in the
        Default setting by falling score.
    """
    wanted, judged, holders = {}, {}, {}
    for image_id, annotations in ground_truth.items():
        labels, hois = annotations["labels"], annotations["hois"]
        actors = {hoi[0] for hoi in hois} - {hoi[1] for hoi in hois}
        holders[image_id] = {c for box, c in enumerate(labels) if box not in actors}
        for subject, obj, verb in hois:
            if obj != -1:
                triplet = (labels[subject], labels[obj], verb)
                wanted[triplet] = wanted.get(triplet, 0) + 1
    for image_id, annotations in ground_truth.items():
        if image_id in predictions and annotations["labels"]:
            for triplet, score, right in judge_image(
                annotations, predictions[image_id], validity, subject_label
            ):
                judged.setdefault(triplet, []).append((score, right, image_id))
    ap = {"default": {}, "known_object": {}}
    order = {}
    for triplet, count in wanted.items():
        entries = judged.get(triplet, [])
        # The order of equal scores is numpy's.
        falling = [entries[n] for n in np.argsort([-score for score, *_ in entries])]
        known = [entry for entry in falling if triplet[1] in holders[entry[2]]]
        order[triplet] = [entry[:2] for entry in falling]
        ap["default"][triplet] = eleven_points([e[1] for e in falling], count)
        ap["known_object"][triplet] = eleven_points([e[1] for e in known], count)
    return ap, order

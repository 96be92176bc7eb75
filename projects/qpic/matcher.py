"""Matching cost of a query and a human-object pair (QPIC, arXiv 2103.05399, 3.3).

Shapes: Q queries, R queries of all decoder layers and images, C object classes, V verbs, T pairs of
the whole batch.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from projects.detr.matcher import pairwise_giou

ROUNDING = 1e-4  # the official code adds it to every count that it divides by


def has_object(obj_boxes_cxcywh: Tensor) -> Tensor:
    """Which pairs have an object, (..., 4) -> (...) bool: its box is not all zeros."""
    return (obj_boxes_cxcywh != 0).any(-1)


def verb_cost(pred_verb_logits: Tensor, verb_labels: Tensor) -> Tensor:
    """Minus the mean agreement of predicted probabilities with a pair's verbs.

    Half of it is the mean probability of the verbs that the pair has, half the mean of one minus
    the probability over those it has not; both counts enlarged by ``ROUNDING``.

    Args:
        pred_verb_logits: (..., V).
        verb_labels: (T, V) float, 1 = the pair has this verb, else 0.

    Returns:
        (..., T) in (-1, 0].
    """
    probability = pred_verb_logits.sigmoid()
    present, absent = (
        (labels / (labels.sum(1, keepdim=True) + ROUNDING)).T  # (V, T), each column sums to about 1
        for labels in (verb_labels, 1 - verb_labels)
    )
    return -(probability @ present + (1 - probability) @ absent) / 2


def box_costs(
    sub_boxes: Tensor, obj_boxes: Tensor, true_sub_boxes: Tensor, true_obj_boxes: Tensor
) -> tuple[Tensor, Tensor]:
    """L1 distance and minus generalised IoU, each the larger of the subject's and the object's.

    The official treatment of a pair without object is kept: its object costs no L1, but its
    GIoU cost is the subject's minus the GIoU of the predicted object with the all-zero box, a
    point in the image's corner. Queries with an object box near that corner are preferred.

    Predicted boxes are (R, 4), true ones (T, 4), all cxcywh in [0, 1], an object's box zeros where
    the pair has none. Returns two tensors (R, T).
    """
    exists = has_object(true_obj_boxes)
    sub_l1 = torch.cdist(sub_boxes, true_sub_boxes, p=1)
    obj_l1 = torch.cdist(obj_boxes, true_obj_boxes, p=1) * exists
    sub_giou = -pairwise_giou(sub_boxes, true_sub_boxes)
    obj_giou = -pairwise_giou(obj_boxes, true_obj_boxes) + sub_giou * ~exists
    return torch.maximum(sub_l1, obj_l1), torch.maximum(sub_giou, obj_giou)


def interaction_cost(
    outputs: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    object_weight: float,
    verb_weight: float,
    l1_weight: float,
    giou_weight: float,
) -> Tensor:
    """What it costs to let a query answer for a pair.

    Class terms are probabilities, neither logarithms nor focal, commensurable with the boxes'.

    Args:
        outputs: ``pred_obj_logits`` (..., Q, C + 1), ``pred_verb_logits`` (..., Q, V),
            ``pred_sub_boxes`` and ``pred_obj_boxes`` (..., Q, 4), cxcywh in [0, 1].
        targets: of all pairs ``obj_labels`` (T,) int64, C = no object, ``verb_labels`` (T, V),
            ``sub_boxes_cxcywh`` and ``obj_boxes_cxcywh`` (T, 4), zeros = no object.
        object_weight: of minus the probability of the object's class.
        verb_weight: of ``verb_cost``.
        l1_weight: of the L1 distance of the boxes, see ``box_costs``.
        giou_weight: of minus their generalised IoU.

    Returns:
        (..., Q, T) float32.
    """
    flat = {name: values.float().flatten(0, -2) for name, values in outputs.items()}  # (R, ...)
    l1, giou = box_costs(
        flat["pred_sub_boxes"],
        flat["pred_obj_boxes"],
        targets["sub_boxes_cxcywh"],
        targets["obj_boxes_cxcywh"],
    )
    object_probability = flat["pred_obj_logits"].softmax(-1)[:, targets["obj_labels"]]
    cost = (
        verb_weight * verb_cost(flat["pred_verb_logits"], targets["verb_labels"])
        - object_weight * object_probability
        + l1_weight * l1
        + giou_weight * giou
    )
    return cost.view(*outputs["pred_obj_logits"].shape[:-1], -1)

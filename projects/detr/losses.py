"""DETR's set loss: match queries to objects, then judge class and box (arXiv 2005.12872, Eq. 2).

Shapes: N decoder layers, B images, Q queries, T objects of the whole batch, M matched pairs.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert, generalized_box_iou_loss, sigmoid_focal_loss

from dropkey_core.engine import per_total, total_over_processes
from projects.detr.matcher import FOCAL_ALPHA, FOCAL_GAMMA, assign, detection_cost


def classification_loss(
    pred_logits: Tensor,
    labels: Tensor,
    no_object_weight: float,
    total_weight: Tensor | None = None,
) -> Tensor:
    """Weighted cross-entropy per decoder layer.

    The mean is weighted: the sum over all queries of the batch divided by the sum of the weights,
    which are 1 for a class and ``no_object_weight`` for "no object". The batch is that of all
    processes together; the official code takes the mean of each process, and its mean over them.

    Args:
        pred_logits: (N, B, Q, C + 1), the last logit "no object".
        labels: (N, B, Q) int64 class indices, C = "no object".
        no_object_weight: weight of the queries without object.
        total_weight: the sum of the weights, a scalar, if another batch's is meant.

    Returns:
        (N,).
    """
    no_object = pred_logits.shape[-1] - 1
    entropy = F.cross_entropy(pred_logits.flatten(0, 2), labels.flatten(), reduction="none")
    weight = torch.where(labels == no_object, no_object_weight, 1.0)
    if total_weight is None:
        total_weight = total_over_processes(weight.sum((1, 2)))
    return per_total((entropy.view_as(weight) * weight).sum((1, 2)), total_weight)


def focal_loss(pred_logits: Tensor, labels: Tensor, num_objects: Tensor) -> Tensor:
    """Focal loss per decoder layer (arXiv 1708.02002, Eq. 5), a sigmoid for each class.

    FL = -alpha_t (1 - p_t)^gamma log p_t, summed over all queries and classes and divided by the
    number of objects. p_t is p where the class is the query's and 1 - p elsewhere, alpha_t 0.25
    and 0.75, gamma 2. Few queries have an object: those that surely have none weigh next to
    nothing here.

    Args:
        pred_logits: (N, B, Q, C + 1), the last logit not used.
        labels: (N, B, Q) int64 class indices, C = "no object".
        num_objects: scalar.

    Returns:
        (N,).
    """
    logits = pred_logits[..., :-1]
    answers = F.one_hot(labels, pred_logits.shape[-1])[..., :-1].to(logits.dtype)
    losses = sigmoid_focal_loss(logits, answers, FOCAL_ALPHA, FOCAL_GAMMA)
    return per_total(losses.sum((1, 2, 3)), num_objects)


def box_losses(pred_boxes: Tensor, boxes_cxcywh: Tensor) -> tuple[Tensor, Tensor]:
    """L1 and generalised-IoU loss of each matched box.

    Args:
        pred_boxes: (N, M, 4) cxcywh in [0, 1].
        boxes_cxcywh: (N, M, 4) the objects' boxes.

    Returns:
        L1, the sum over the four numbers of a box, and 1 - GIoU, both (N, M).
    """
    l1 = (pred_boxes - boxes_cxcywh).abs().sum(-1)
    giou = generalized_box_iou_loss(
        box_convert(pred_boxes, "cxcywh", "xyxy"), box_convert(boxes_cxcywh, "cxcywh", "xyxy")
    )
    return l1, giou


def number_over_processes(count: int, device: torch.device) -> Tensor:
    """The sum of ``count`` over all processes, at least 1, as a float32 scalar on ``device``."""
    return total_over_processes(torch.tensor(float(count), device=device)).clamp(min=1)


def sum_of_weights(
    counts: Sequence[int], num_queries: int, no_object_weight: float, device: torch.device
) -> Tensor:
    """What ``classification_loss`` divides by, known from the number of objects of each image.

    As many queries of an image are matched as there are objects, at most all Q.
    """
    matched = sum(min(count, num_queries) for count in counts)
    rest = num_queries * len(counts) - matched
    return total_over_processes(torch.tensor(matched + no_object_weight * rest, device=device))


def times(totals: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """What the losses are divided by where each object is there ``number`` times."""
    return {name: number * totals[name] for name in ("objects", "weights")}


def by_layer(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take apart losses (N,) of all decoder layers: ``_0``, ``_1``, ... but none for the last."""
    return {
        name if i == len(values) - 1 else f"{name}_{i}": value
        for name, values in losses.items()
        for i, value in enumerate(values)
    }


class DetectionLoss(nn.Module):
    """The weighted losses of all decoder layers, each matched to the objects anew.

    The weights are those of ``projects.detr.build_model``, the same in loss and matching, and so is
    ``focal``: each class has a sigmoid of its own (see ``focal_loss``), the logit of "no object"
    is not used and neither is ``no_object_weight``.
    """

    def __init__(
        self,
        class_weight: float = 1.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        no_object_weight: float = 0.1,
        focal: bool = False,
    ) -> None:
        super().__init__()
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight
        self.no_object_weight = no_object_weight
        self.focal = focal

    def totals(
        self, labels: Sequence[Tensor], num_queries: int, device: torch.device
    ) -> dict[str, Tensor]:
        """What the losses of a batch are divided by, scalars: ``objects`` and ``weights``.

        Args:
            labels: per image (t,).
            num_queries: Q.
            device: where the scalars shall be.
        """
        counts = [len(image_labels) for image_labels in labels]
        weights = sum_of_weights(counts, num_queries, self.no_object_weight, device)
        return {"objects": number_over_processes(sum(counts), device), "weights": weights}

    def forward(
        self,
        outputs: dict[str, Tensor],
        labels: Sequence[Tensor],
        boxes_cxcywh: Sequence[Tensor],
        totals: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Match and judge.

        Args:
            outputs: see ``Detr.predict_batch``.
            labels: per image (t,) int64 class indices.
            boxes_cxcywh: per image (t, 4) float32 in [0, 1].
            totals: of the batch that these images are a part of; by default their own.

        Returns:
            Weighted scalars ``loss_ce``, ``loss_bbox``, ``loss_giou`` of the last layer and the
            same names with ``_0``, ``_1``, ... of the earlier ones. Box losses are divided by the
            number of objects in the batches of all processes, at least 1. (At least one for each
            process in the official code: there a few objects count less in many processes.)
        """
        outputs = {name: outputs[name].float() for name in ("pred_logits", "pred_boxes")}
        images, queries, objects = self.match(outputs, labels, boxes_cxcywh)
        pred_logits, pred_boxes = outputs["pred_logits"], outputs["pred_boxes"]
        all_labels, all_boxes = torch.cat(list(labels)), torch.cat(list(boxes_cxcywh))
        device = pred_logits.device

        layers = torch.arange(len(pred_logits), device=device)[:, None]
        matched = (layers, images, queries)  # (N, M)
        no_object = pred_logits.shape[-1] - 1
        query_labels = torch.full(pred_logits.shape[:-1], no_object, device=device)
        query_labels[matched] = all_labels[objects]

        totals = totals or {"objects": number_over_processes(len(all_labels), device)}
        num_objects = totals["objects"]
        l1, giou = box_losses(pred_boxes[matched], all_boxes[objects])
        if self.focal:
            ce = focal_loss(pred_logits, query_labels, num_objects)
        else:
            ce = classification_loss(
                pred_logits, query_labels, self.no_object_weight, totals.get("weights")
            )
        losses = {
            "loss_ce": self.class_weight * ce,
            "loss_bbox": self.l1_weight * per_total(l1.sum(1), num_objects),
            "loss_giou": self.giou_weight * per_total(giou.sum(1), num_objects),
        }
        return by_layer(losses)

    @torch.no_grad()
    def match(
        self, outputs: dict[str, Tensor], labels: Sequence[Tensor], boxes_cxcywh: Sequence[Tensor]
    ) -> list[Tensor]:
        """Which query answers for which object: images, queries, objects, see ``assign``."""
        weights = (self.class_weight, self.l1_weight, self.giou_weight)
        objects = torch.cat(list(labels)), torch.cat(list(boxes_cxcywh))
        predicted = outputs["pred_logits"], outputs["pred_boxes"]
        cost = detection_cost(*predicted, *objects, *weights, self.focal)
        return [t.to(cost.device) for t in assign(cost, [len(own) for own in labels])]

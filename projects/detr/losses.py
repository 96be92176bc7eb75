"""DETR's set loss: match queries to objects, then judge class and box (arXiv 2005.12872, Eq. 2).

Shapes: N decoder layers, B images, Q queries, T objects of the whole batch, M matched pairs.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert, generalized_box_iou_loss

from dropkey_core.engine import per_total, total_over_processes
from projects.detr.matcher import assign, detection_cost


def classification_loss(pred_logits: Tensor, labels: Tensor, no_object_weight: float) -> Tensor:
    """Weighted cross-entropy per decoder layer.

    The mean is weighted: the sum over all queries of the batch divided by the sum of the weights,
    which are 1 for a class and ``no_object_weight`` for "no object". The batch is that of all
    processes together; the official code takes the mean of each process, and its mean over them.

    Args:
        pred_logits: (N, B, Q, C + 1), the last logit "no object".
        labels: (N, B, Q) int64 class indices, C = "no object".
        no_object_weight: weight of the queries without object.

    Returns:
        (N,).
    """
    no_object = pred_logits.shape[-1] - 1
    entropy = F.cross_entropy(pred_logits.flatten(0, 2), labels.flatten(), reduction="none")
    weight = torch.where(labels == no_object, no_object_weight, 1.0)
    total_weight = total_over_processes(weight.sum((1, 2)))
    return per_total((entropy.view_as(weight) * weight).sum((1, 2)), total_weight)


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


def by_layer(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take apart losses (N,) of all decoder layers: ``_0``, ``_1``, ... but none for the last."""
    return {
        name if i == len(values) - 1 else f"{name}_{i}": value
        for name, values in losses.items()
        for i, value in enumerate(values)
    }


class DetectionLoss(nn.Module):
    """The weighted losses of all decoder layers, each matched to the objects anew.

    The weights are those of ``projects.detr.build_model``, the same in loss and matching.
    """

    def __init__(
        self,
        class_weight: float = 1.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        no_object_weight: float = 0.1,
    ) -> None:
        super().__init__()
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight
        self.no_object_weight = no_object_weight

    def forward(
        self, outputs: dict[str, Tensor], labels: Sequence[Tensor], boxes_cxcywh: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Match and judge.

        Args:
            outputs: see ``Detr.predict_batch``.
            labels: per image (t,) int64 class indices.
            boxes_cxcywh: per image (t, 4) float32 in [0, 1].

        Returns:
            Weighted scalars ``loss_ce``, ``loss_bbox``, ``loss_giou`` of the last layer and the
            same names with ``_0``, ``_1``, ... of the earlier ones. Box losses are divided by the
            number of objects in the batches of all processes, at least 1. (At least one for each
            process in the official code: there a few objects count less in many processes.)
        """
        pred_logits, pred_boxes = outputs["pred_logits"].float(), outputs["pred_boxes"].float()
        counts = [len(image_labels) for image_labels in labels]
        all_labels, all_boxes = torch.cat(list(labels)), torch.cat(list(boxes_cxcywh))

        with torch.no_grad():
            weights = (self.class_weight, self.l1_weight, self.giou_weight)
            cost = detection_cost(pred_logits, pred_boxes, all_labels, all_boxes, *weights)
            images, queries, objects = (t.to(cost.device) for t in assign(cost, counts))

        matched = (torch.arange(len(cost), device=cost.device)[:, None], images, queries)  # (N, M)
        no_object = pred_logits.shape[-1] - 1
        query_labels = torch.full(pred_logits.shape[:-1], no_object, device=cost.device)
        query_labels[matched] = all_labels[objects]

        num_objects = number_over_processes(sum(counts), cost.device)
        l1, giou = box_losses(pred_boxes[matched], all_boxes[objects])
        ce = classification_loss(pred_logits, query_labels, self.no_object_weight)
        losses = {
            "loss_ce": self.class_weight * ce,
            "loss_bbox": self.l1_weight * per_total(l1.sum(1), num_objects),
            "loss_giou": self.giou_weight * per_total(giou.sum(1), num_objects),
        }
        return by_layer(losses)

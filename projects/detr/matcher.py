"""Hungarian matching of queries to objects (DETR, arXiv 2005.12872, Eq. 1).

Shapes: N decoder layers, B images, Q queries, T objects of the whole batch, t of one image.
"""

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou, sigmoid_focal_loss

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0  # arXiv 1708.02002


def pairwise_giou(boxes_cxcywh: Tensor, others_cxcywh: Tensor) -> Tensor:
    """Generalised IoU of every box (n, 4) with every other (m, 4), both cxcywh: (n, m)."""
    return generalized_box_iou(
        box_convert(boxes_cxcywh, "cxcywh", "xyxy"), box_convert(others_cxcywh, "cxcywh", "xyxy")
    )


def detection_cost(
    pred_logits: Tensor,
    pred_boxes: Tensor,
    labels: Tensor,
    boxes_cxcywh: Tensor,
    class_cost: float = 1.0,
    l1_cost: float = 5.0,
    giou_cost: float = 2.0,
    focal: bool = False,
) -> Tensor:
    """What it costs to let a query answer for an object.

    The class term is minus the softmax probability (not its logarithm), so that it is
    commensurable with the box terms. Or, for focal classification, what the focal loss would lose
    by it: FL(p) of the class as the answer less FL(p) as not the answer (Deformable DETR's cost).

    Args:
        pred_logits: (..., Q, C + 1) class logits, the last one "no object".
        pred_boxes: (..., Q, 4) cxcywh in [0, 1].
        labels: (T,) int64 class indices of the objects.
        boxes_cxcywh: (T, 4) their boxes in [0, 1].
        class_cost: weight of the class term.
        l1_cost: weight of the L1 distance between the boxes.
        giou_cost: weight of minus their generalised IoU.
        focal: whether a class has a sigmoid of its own.

    Returns:
        (..., Q, T) float32.
    """
    boxes = pred_boxes.float().flatten(0, -2)
    logits = pred_logits.float().flatten(0, -2)
    gain = focal_gain(logits) if focal else logits.softmax(-1)
    cost = (
        l1_cost * torch.cdist(boxes, boxes_cxcywh, p=1)
        - class_cost * gain[:, labels]
        - giou_cost * pairwise_giou(boxes, boxes_cxcywh)
    )
    return cost.view(*pred_logits.shape[:-1], len(labels))


def focal_gain(logits: Tensor) -> Tensor:
    """The focal loss of each class as not the answer less that as the answer, of any shape."""
    absent, present = (
        sigmoid_focal_loss(logits, torch.full_like(logits, answer), FOCAL_ALPHA, FOCAL_GAMMA)
        for answer in (0.0, 1.0)
    )
    return absent - present


def assign(cost: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Match queries and objects one to one at the smallest total cost, image by image.

    Args:
        cost: (N, B, Q, T) costs against the objects of the whole batch, image after image.
        counts: objects of each image, B numbers that sum to T.

    Returns:
        images, queries, objects: int64 on the CPU, the first (M,), the others (N, M), with
        M = sum of min(Q, t) over the images. Pair m of layer n joins query ``queries[n, m]`` of
        image ``images[m]`` to object ``objects[n, m]`` of the batch. Queries ascend within an
        image. With more objects than queries, the dearest objects stay unmatched.
    """
    cost = torch.nan_to_num(cost).cpu()  # one transfer; NaN would end the solver, not the cause
    images, queries, objects = [], [], []
    for image, image_cost in enumerate(cost.split(list(counts), dim=-1)):
        offset = sum(counts[:image])
        pairs = [linear_sum_assignment(layer_cost[image].numpy()) for layer_cost in image_cost]
        images.append(torch.full((len(pairs[0][0]),), image))
        queries.append(torch.stack([torch.from_numpy(rows) for rows, _ in pairs]))
        objects.append(torch.stack([torch.from_numpy(columns) for _, columns in pairs]) + offset)
    return torch.cat(images), torch.cat(queries, dim=1), torch.cat(objects, dim=1)

"""QPIC's set loss: match queries to pairs, then judge object, verbs and both boxes.

Source: arXiv 2103.05399, section 3.3, with the normalisers of the official code.

Shapes: N decoder layers, B images, Q queries, C object classes, V verbs, T pairs of the whole
batch, p of one image, M matched pairs.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropkey_core.engine import per_total, total_over_processes
from projects.detr.losses import (
    box_losses,
    by_layer,
    classification_loss,
    number_over_processes,
    sum_of_weights,
)
from projects.detr.matcher import assign
from projects.qpic.matcher import ROUNDING, has_object, interaction_cost

PREDICTIONS = ("pred_obj_logits", "pred_verb_logits", "pred_sub_boxes", "pred_obj_boxes")
TARGETS = ("obj_labels", "verb_labels", "sub_boxes_cxcywh", "obj_boxes_cxcywh")


def verb_focal_loss(
    pred_verb_logits: Tensor, verb_labels: Tensor, positive: Tensor | None = None
) -> Tensor:
    """Focal loss (exponent 2, no class balance) per decoder layer.

    A verb that a query has costs -(1 - p)^2 log p, another -p^2 log(1 - p), with p its predicted
    probability. The sum over all cells (query, verb) is divided by the number of those that the
    query has, not by that of pairs, and by nothing if there are none. Both are over the batches of
    all processes; the official code divides in each process for itself.

    The official code takes logarithms of float32 probabilities: from logits above about 17 or
    below -103 on it returns NaN or inf for the whole batch. Here they come straight from the
    logits, so that every finite logit gives a finite loss and gradient; elsewhere both agree up to
    the rounding of 1 - p.

    Args:
        pred_verb_logits: (N, B, Q, V).
        verb_labels: (N, B, Q, V), 1 = the query has this verb, else 0.
        positive: the number of cells with a verb, a scalar, if another batch's is meant.

    Returns:
        (N,).
    """
    toward = torch.where(verb_labels == 1, pred_verb_logits, -pred_verb_logits)
    focal = -F.logsigmoid(toward) * torch.sigmoid(-toward) ** 2
    if positive is None:
        positive = total_over_processes((verb_labels == 1).sum((1, 2, 3)))
    return per_total(focal.sum((1, 2, 3)), positive.clamp(min=1))


class InteractionLoss(nn.Module):
    """The weighted losses of all decoder layers, each matched to the pairs anew.

    The weights are those of ``projects.qpic.build_model``, the same in loss and matching.
    """

    def __init__(
        self,
        object_weight: float = 1.0,
        verb_weight: float = 1.0,
        l1_weight: float = 2.5,
        giou_weight: float = 1.0,
        no_object_weight: float = 0.1,
    ) -> None:
        super().__init__()
        self.object_weight = object_weight
        self.verb_weight = verb_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight
        self.no_object_weight = no_object_weight

    def totals(
        self,
        targets: Sequence[Mapping[str, Tensor]],
        num_queries: int,
        no_object: int,
        device: torch.device,
    ) -> dict[str, Tensor]:
        """What the losses of a batch are divided by, scalars on ``device``.

        They are ``pairs``, ``objects``, ``verbs`` and ``weights``, where a pair of class
        ``no_object`` weighs as a query without pair. Where an image has more pairs than queries all
        its pairs count, for which of them are matched is not known before; ``forward`` without
        totals counts the matched ones, as the official code.
        """
        counts = [len(target["obj_labels"]) for target in targets]
        named = [int((target["obj_labels"] != no_object).sum()) for target in targets]
        objects = sum(has_object(target["obj_boxes_cxcywh"]).sum() for target in targets)
        verbs = sum((target["verb_labels"] == 1).sum() for target in targets)
        return {
            "pairs": number_over_processes(sum(counts), device),
            "objects": total_over_processes(torch.as_tensor(objects).to(device)) + ROUNDING,
            "verbs": total_over_processes(torch.as_tensor(verbs).to(device)),
            "weights": sum_of_weights(named, num_queries, self.no_object_weight, device),
        }

    def forward(
        self,
        outputs: Mapping[str, Tensor],
        targets: Sequence[Mapping[str, Tensor]],
        totals: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Match and judge.

        Args:
            outputs: see ``Qpic.predict_batch``.
            targets: per image ``obj_labels`` (p,) int64, C = no object, ``verb_labels`` (p, V)
                float32, 1 = has this verb, ``sub_boxes_cxcywh`` and ``obj_boxes_cxcywh`` (p, 4)
                float32 in [0, 1], zeros = no object.
            totals: of the batch that these images are a part of; by default their own.

        Returns:
            Weighted scalars ``loss_obj_ce``, ``loss_verb_ce``, ``loss_sub_bbox``,
            ``loss_obj_bbox``, ``loss_sub_giou``, ``loss_obj_giou`` of the last layer, and the same
            names with ``_0``, ``_1``, ... of the earlier ones. The subjects' box losses are divided
            by the number of pairs, at least 1, those of the objects by the number of matched pairs
            that have one, plus 1e-4; both counted over the batches of all processes.
        """
        predicted = {name: outputs[name].float() for name in PREDICTIONS}  # (N, B, Q, ...)
        true = {name: torch.cat([target[name] for target in targets]) for name in TARGETS}
        counts = [len(target["obj_labels"]) for target in targets]
        images, queries, pairs = self.match(predicted, true, counts)
        num_layers, *_, num_logits = predicted["pred_obj_logits"].shape
        device = pairs.device
        matched = (torch.arange(num_layers, device=device)[:, None], images, queries)  # (N, M)
        true = {name: values[pairs] for name, values in true.items()}  # (N, M, ...)

        no_object = num_logits - 1
        obj_labels = torch.full(predicted["pred_obj_logits"].shape[:-1], no_object, device=device)
        obj_labels[matched] = true["obj_labels"]
        verb_labels = torch.zeros_like(predicted["pred_verb_logits"])
        verb_labels[matched] = true["verb_labels"]

        (sub_l1, sub_giou), (obj_l1, obj_giou) = (
            box_losses(predicted[f"pred_{part}_boxes"][matched], true[f"{part}_boxes_cxcywh"])
            for part in ("sub", "obj")
        )
        exists = has_object(true["obj_boxes_cxcywh"])  # (N, M)
        totals = totals or {
            "pairs": number_over_processes(sum(counts), device),
            "objects": total_over_processes(exists.sum(1)) + ROUNDING,
        }
        num_pairs, num_objects = totals["pairs"], totals["objects"]
        obj_ce = classification_loss(
            predicted["pred_obj_logits"], obj_labels, self.no_object_weight, totals.get("weights")
        )
        verb_ce = verb_focal_loss(predicted["pred_verb_logits"], verb_labels, totals.get("verbs"))
        losses = {
            "loss_obj_ce": self.object_weight * obj_ce,
            "loss_verb_ce": self.verb_weight * verb_ce,
            "loss_sub_bbox": self.l1_weight * per_total(sub_l1.sum(1), num_pairs),
            "loss_obj_bbox": self.l1_weight * per_total((obj_l1 * exists).sum(1), num_objects),
            "loss_sub_giou": self.giou_weight * per_total(sub_giou.sum(1), num_pairs),
            "loss_obj_giou": self.giou_weight * per_total((obj_giou * exists).sum(1), num_objects),
        }
        return by_layer(losses)

    @torch.no_grad()
    def match(
        self, predicted: Mapping[str, Tensor], true: Mapping[str, Tensor], counts: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Match with the weights of the losses, as in the official recipe; see ``assign``."""
        weights = (self.object_weight, self.verb_weight, self.l1_weight, self.giou_weight)
        cost = interaction_cost(predicted, true, *weights)
        images, queries, pairs = (t.to(cost.device) for t in assign(cost, counts))
        return images, queries, pairs

"""QPIC (arXiv 2103.05399): human-object interactions as a set of pairs, decoded by DETR's body.

Shapes: B images, H x W pixels, Q queries, C object classes, V verbs, D embedding channels,
N decoder layers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from dropkey_core.engine import in_float32
from projects.detr.detr import BodyParts, BoxHead, DetrBody, largest_size
from projects.qpic.losses import TARGETS, InteractionLoss


class Qpic(DetrBody):
    """A human box, an object box, the object's class and the verbs between them for every query.

    Args:
        parts: all but the heads.
        num_object_classes: C; one more logit stands for "no object".
        num_verb_classes: V; a pair may have several verbs.
        loss: judges the outputs in training.
    """

    #: Parameters that start afresh when a checkpoint holds them for another number of classes.
    reinitialised_on_mismatch = ("obj_class_embed.", "verb_class_embed.")

    def __init__(
        self,
        parts: BodyParts,
        num_object_classes: int,
        num_verb_classes: int,
        loss: InteractionLoss,
    ) -> None:
        super().__init__(parts)
        self.obj_class_embed = nn.Linear(parts.embed_dim, num_object_classes + 1)
        self.verb_class_embed = nn.Linear(parts.embed_dim, num_verb_classes)
        self.sub_bbox_embed = BoxHead(parts.embed_dim)
        self.obj_bbox_embed = BoxHead(parts.embed_dim)
        self.loss = loss

    def totals(self, samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """What a part of ``samples`` must know of all, see ``InteractionLoss`` and ``Detr``."""
        no_object = self.obj_class_embed.out_features - 1
        totals = self.loss.totals(samples, self.num_queries, no_object, self.device)
        return {**totals, "size": torch.tensor(largest_size(samples))}

    def forward(
        self, samples: Sequence[dict[str, Any]], totals: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor] | list[dict]:
        """Find pairs (eval mode), or judge what is found (training mode).

        Args:
            samples: as ``Detr.forward`` takes them, with the targets of ``InteractionLoss``.
            totals: in training, of the batch that these samples are a part of.

        Returns:
            In training the weighted losses by name (see ``InteractionLoss``). Else a list with,
            for each image, what ``interactions`` returns.
        """
        size = None if totals is None else totals["size"].tolist()
        outputs = self.predict_batch(*self.batch(samples, size))
        if not self.training:
            return interactions(outputs, [(s["height"], s["width"]) for s in samples])
        targets = [{name: sample[name].to(self.device) for name in TARGETS} for sample in samples]
        with in_float32(self.device):
            return self.loss(outputs, targets, totals)

    def predict_batch(
        self, images: Tensor, padding_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Classes, verbs and boxes of a padded batch (see ``decode``), from every decoder layer.

        Returns:
            ``pred_obj_logits`` (N, B, Q, C + 1), the last logit "no object"; ``pred_verb_logits``
            (N, B, Q, V), a sigmoid each; ``pred_sub_boxes`` and ``pred_obj_boxes`` (N, B, Q, 4),
            cxcywh in [0, 1] of the unpadded image; layers first to last.
        """
        queries = self.decode(images, padding_mask)  # (N, B, Q, D)
        queries = queries.to(self.query_embed.weight.dtype)
        with in_float32(self.device):  # as in ``Detr``
            return {
                "pred_obj_logits": self.obj_class_embed(queries),
                "pred_verb_logits": self.verb_class_embed(queries),
                "pred_sub_boxes": self.sub_bbox_embed(queries),
                "pred_obj_boxes": self.obj_bbox_embed(queries),
            }


def interactions(
    outputs: dict[str, Tensor], image_sizes: Sequence[tuple[int, int]]
) -> list[dict[str, Tensor]]:
    """One human-object pair per query of the last layer, with a score for every verb.

    Args:
        outputs: see ``Qpic.predict_batch``.
        image_sizes: (height, width) in pixels per image.

    Returns:
        Per image ``sub_boxes`` and ``obj_boxes`` (Q, 4), xyxy in pixels, not clipped;
        ``obj_labels`` (Q,), the best real class; ``verb_scores`` (Q, V) in [0, 1], the verb's
        sigmoid times that class's softmax.
    """
    obj_scores, obj_labels = outputs["pred_obj_logits"][-1].float().softmax(-1)[..., :-1].max(-1)
    verb_scores = outputs["pred_verb_logits"][-1].float().sigmoid() * obj_scores[..., None]
    scale = obj_scores.new_tensor([(w, h, w, h) for h, w in image_sizes])[:, None]  # (B, 1, 4)
    sub_boxes, obj_boxes = (
        box_convert(outputs[name][-1].float(), "cxcywh", "xyxy") * scale
        for name in ("pred_sub_boxes", "pred_obj_boxes")
    )
    names = ("sub_boxes", "obj_boxes", "obj_labels", "verb_scores")
    return [
        dict(zip(names, image, strict=True))
        for image in zip(sub_boxes, obj_boxes, obj_labels, verb_scores, strict=True)
    ]

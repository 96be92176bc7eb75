"""DETR whose queries are boxes, with what helps such queries to learn a small set.

Shapes: B images, L cells of the feature map, G groups of Q queries, C classes, D embedding
channels, N decoder layers. Boxes are cxcywh in [0, 1] of the unpadded image.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dropkey_core.engine import in_float32
from projects.detr.anchors import (
    ABSENT,
    CellDetector,
    best_boxes,
    box_head,
    box_logits,
    cell_centres,
    random_boxes,
)
from projects.detr.box_decoder import Cells, Visibility
from projects.detr.denoising import NoisyQueries, apart, noisy_queries
from projects.detr.detr import PRIOR_LOGIT, BodyParts, Detr
from projects.detr.losses import DetectionLoss, times

CONTENT_STD = 0.1  # of the queries' content at first: their boxes shall tell them apart
CELLS_PER_OBJECT = 4  # that are taught to find it


def image_sizes(images: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Heights and widths (B, 2) in pixels of the images in a padded batch (B, 3, H, W)."""
    if padding_mask is None:
        return torch.tensor(images.shape[-2:], device=images.device).expand(len(images), 2)
    inside = ~padding_mask
    return torch.stack([inside[:, :, 0].sum(1), inside[:, 0].sum(1)], dim=1)


class BoxDetr(Detr):
    """``Detr`` whose queries are a content and a box each, see ``BoxDecoder``.

    The boxes are learned, or chosen for each image (see ``CellDetector``; each object teaches the
    4 cells that fit it best, matched one to one with four copies of it, as H-DETR does it with
    queries, arXiv 2207.13080). In training there are noisy queries besides, see ``noisy_queries``.

    Args:
        parts: all but the heads; the decoder is a ``BoxDecoder``.
        num_classes: C; one more logit stands for "no object".
        loss: judges the outputs in training.
        num_denoising: groups of noisy queries in training; 0 for none.
        select: choose the boxes of the queries from the cells.
    """

    reinitialised_on_mismatch = ("class_embed.", "label_embed.", "cell_detector.class_embed.")

    def __init__(
        self,
        parts: BodyParts,
        num_classes: int,
        loss: DetectionLoss,
        num_denoising: int = 0,
        select: bool = False,
    ) -> None:
        super().__init__(parts, num_classes, loss)
        embed_dim = parts.embed_dim
        self.num_denoising = num_denoising
        self.bbox_embed = nn.ModuleList(
            box_head(embed_dim) for _ in parts.transformer.decoder.layers
        )
        nn.init.normal_(self.query_embed.weight, std=CONTENT_STD)
        self.label_embed: nn.Embedding | None = None
        self.cell_detector: CellDetector | None = None
        self.query_boxes: nn.Parameter | None = None
        if num_denoising:
            self.label_embed = nn.Embedding(num_classes + 1, embed_dim)
            nn.init.normal_(self.label_embed.weight, std=CONTENT_STD)
        if select:
            self.cell_detector = CellDetector(embed_dim, num_classes)
            nn.init.constant_(self.cell_detector.class_embed.bias, PRIOR_LOGIT)
        else:
            boxes = random_boxes(self.num_groups * self.num_queries)
            self.query_boxes = nn.Parameter(box_logits(boxes))

    def predict_batch(
        self, images: Tensor, padding_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See ``Detr.predict_batch``."""
        return self.detect(images, padding_mask)[0]

    def losses(
        self,
        images: Tensor,
        padding_mask: Tensor | None,
        labels: Sequence[Tensor],
        boxes_cxcywh: Sequence[Tensor],
        totals: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Judge queries, noisy queries (``noisy_...``) and cells (``cells_...``)."""
        noisy, num_noisy = None, 0
        if self.num_denoising:
            num_classes = self.class_embed.out_features - 1
            noisy = noisy_queries(labels, boxes_cxcywh, self.num_denoising, num_classes)
            num_noisy = noisy.labels.shape[1]
        outputs, cells = self.detect(images, padding_mask, noisy)
        matched = {name: x[:, :, num_noisy:] for name, x in outputs.items()}
        totals = totals or self.loss.totals(labels, self.num_queries, self.device)
        losses = self.judge_groups(matched, labels, boxes_cxcywh, totals)
        with in_float32(self.device):
            if noisy is not None:
                denoised = {name: x[:, :, :num_noisy] for name, x in outputs.items()}
                denoised["pred_logits"] = denoised["pred_logits"].masked_fill(
                    ~noisy.exists[..., None], ABSENT
                )
                divided_by = times(totals, self.num_denoising)
                found = self.loss.judge(denoised, noisy.pairs, labels, boxes_cxcywh, divided_by)
                losses |= {f"noisy_{name}": loss for name, loss in found.items()}
            if cells is not None:
                copies = [own.repeat(CELLS_PER_OBJECT) for own in labels]
                box_copies = [own.repeat(CELLS_PER_OBJECT, 1) for own in boxes_cxcywh]
                found = self.loss(cells, copies, box_copies, times(totals, CELLS_PER_OBJECT))
                losses |= {f"cells_{name}": loss for name, loss in found.items()}
        return losses

    def detect(
        self, images: Tensor, padding_mask: Tensor | None, noisy: NoisyQueries | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """Detect by queries, the noisy ones first, and by cells if queries are chosen from them."""
        features = self.cell_features(images, padding_mask)
        keys = features.key_padding_mask
        sizes_in_pixels = image_sizes(images, padding_mask)
        centres = cell_centres(sizes_in_pixels, features.size, self.backbone[0].stride)
        # As the boxes' own centres are encoded, so that a query finds the cell under it.
        place = self.transformer.decoder.encoding.of_coordinates(centres.flip(-1)).flatten(-2)
        place = place.to(features.features.dtype)
        memory = self.transformer.encoder(features.features, place, keys)
        detector = self.cell_detector
        cells = None if detector is None else detector(memory, centres, keys)
        content, boxes, sizes = self.queries(images.shape[0], cells)
        blank = None
        if noisy is not None:
            blank = torch.cat([~noisy.exists, noisy.exists.new_zeros(boxes.shape[:2])], dim=1)
            content = torch.cat([self.label_embed(noisy.labels), content], dim=1)
            boxes = torch.cat([noisy.boxes, boxes], dim=1)
            each = noisy.labels.shape[1] // self.num_denoising
            sizes = [each] * self.num_denoising + sizes
        decoded, boxes = self.transformer.decoder(
            content,
            boxes,
            Cells(memory, place, keys),
            self.bbox_embed,
            Visibility(apart(sizes, self.device), blank),
        )
        with in_float32(self.device):
            logits = self.class_embed(decoded.to(self.class_embed.weight.dtype))
        return {"pred_logits": logits, "pred_boxes": boxes}, cells

    def queries(
        self, batch: int, cells: dict[str, Tensor] | None
    ) -> tuple[Tensor, Tensor, list[int]]:
        """Content (B, G Q, D) and boxes (B, G Q, 4) that queries begin as, and sizes of groups."""
        groups = self.active_groups
        if cells is not None:
            boxes = best_boxes(cells, self.num_queries).repeat(1, groups, 1)
        else:
            boxes = self.query_boxes[: groups * self.num_queries].sigmoid().expand(batch, -1, -1)
        each = boxes.shape[1] // groups  # fewer than Q where there are fewer cells
        content = self.query_embed.weight.unflatten(0, (self.num_groups, self.num_queries))
        content = content[:groups, :each].flatten(0, 1).expand(batch, -1, -1)
        return content, boxes, [each] * groups

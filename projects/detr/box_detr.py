"""DETR whose queries are boxes, with what helps such queries to learn a small set.

Shapes: B images, L cells of the feature map, Q queries, C classes, D embedding channels,
N decoder layers. Boxes are cxcywh in [0, 1] of the unpadded image.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dropkey_core.engine import in_float32
from projects.detr.anchors import (
    CellDetector,
    best_boxes,
    box_head,
    box_logits,
    cell_centres,
    random_boxes,
)
from projects.detr.box_decoder import Cells
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
    queries, arXiv 2207.13080).

    Args:
        parts: all but the heads; the decoder is a ``BoxDecoder``.
        num_classes: C; one more logit stands for "no object".
        loss: judges the outputs in training.
        select: choose the boxes of the queries from the cells.
    """

    reinitialised_on_mismatch = ("class_embed.", "cell_detector.class_embed.")

    def __init__(
        self, parts: BodyParts, num_classes: int, loss: DetectionLoss, select: bool = False
    ) -> None:
        super().__init__(parts, num_classes, loss)
        embed_dim = parts.embed_dim
        self.bbox_embed = nn.ModuleList(
            box_head(embed_dim) for _ in parts.transformer.decoder.layers
        )
        nn.init.normal_(self.query_embed.weight, std=CONTENT_STD)
        self.cell_detector: CellDetector | None = None
        self.query_boxes: nn.Parameter | None = None
        if select:
            self.cell_detector = CellDetector(embed_dim, num_classes)
            nn.init.constant_(self.cell_detector.class_embed.bias, PRIOR_LOGIT)
        else:
            self.query_boxes = nn.Parameter(box_logits(random_boxes(self.num_queries)))

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
        """Judge queries, and cells (``cells_...``) if queries are chosen from them."""
        outputs, cells = self.detect(images, padding_mask)
        totals = totals or self.loss.totals(labels, self.num_queries, self.device)
        with in_float32(self.device):
            losses = self.loss(outputs, labels, boxes_cxcywh, totals)
            if cells is not None:
                copies = [own.repeat(CELLS_PER_OBJECT) for own in labels]
                box_copies = [own.repeat(CELLS_PER_OBJECT, 1) for own in boxes_cxcywh]
                found = self.loss(cells, copies, box_copies, times(totals, CELLS_PER_OBJECT))
                losses |= {f"cells_{name}": loss for name, loss in found.items()}
        return losses

    def detect(
        self, images: Tensor, padding_mask: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """Detect by queries, and by cells if queries are chosen from them."""
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
        content, boxes = self.queries(images.shape[0], cells)
        decoded, boxes = self.transformer.decoder(
            content, boxes, Cells(memory, place, keys), self.bbox_embed
        )
        with in_float32(self.device):
            logits = self.class_embed(decoded.to(self.class_embed.weight.dtype))
        return {"pred_logits": logits, "pred_boxes": boxes}, cells

    def queries(self, batch: int, cells: dict[str, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Content (B, Q, D) and boxes (B, Q, 4) to begin as; fewer where there are fewer cells."""
        if cells is not None:
            boxes = best_boxes(cells, self.num_queries)
        else:
            boxes = self.query_boxes.sigmoid().expand(batch, -1, -1)
        content = self.query_embed.weight[: boxes.shape[1]].expand(batch, -1, -1)
        return content, boxes

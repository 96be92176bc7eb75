"""DETR (arXiv 2005.12872): objects as a set, decoded from learned queries.

Shapes: B images, H x W pixels, h x w cells of the feature map, L = h w, Q queries, C classes,
D embedding channels, N decoder layers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert

from dropkey_core.engine import in_float32
from projects.detr.losses import DetectionLoss
from projects.detr.releases import dilation_problem, release_of
from projects.detr.transformer import Transformer

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PRIOR_LOGIT = -4.6  # of a class under focal classification at first: 0.01 (arXiv 1708.02002, 4.1)


class BodyParts(NamedTuple):
    """What a ``DetrBody`` is made of.

    Attributes:
        backbone: (B, 3, H, W) -> (B, ``num_channels``, h, w); has the attributes ``num_channels``
            and ``dilation``.
        position_encoding: (B, h, w) padding mask -> (B, h, w, D).
        transformer: encoder and decoder.
        embed_dim: D.
        num_queries: Q, the most objects (or pairs) that can be found in an image.
        canvas: the least height and width, in pixels, that images are padded to.
    """

    backbone: nn.Module
    position_encoding: nn.Module
    transformer: Transformer
    embed_dim: int
    num_queries: int
    canvas: int = 0


class CellFeatures(NamedTuple):
    """What the encoder gets of a batch.

    Attributes:
        features: (B, L, D).
        position: (B, L, D) encoding of the cells' positions.
        padding_mask: (B, h, w) bool, True = padding; None = no padding anywhere.
        size: h and w.
    """

    features: Tensor
    position: Tensor
    padding_mask: Tensor | None
    size: Sequence[int]

    @property
    def key_padding_mask(self) -> Tensor | None:
        """(B, L) bool, True = ignore; None = nothing to ignore."""
        return None if self.padding_mask is None else self.padding_mask.flatten(1)


class DetrBody(nn.Module):
    """Everything of DETR but its heads: from images to decoded queries.

    Parameters are named as in the official checkpoints; the backbone is slot 0 of a list whose
    slot 1 is the position encoding, which has no parameters.
    """

    def __init__(self, parts: BodyParts) -> None:
        super().__init__()
        self.transformer = parts.transformer
        self.num_queries = parts.num_queries
        self.canvas = parts.canvas
        self.query_embed = nn.Embedding(self.num_queries, parts.embed_dim)
        self.input_proj = nn.Conv2d(parts.backbone.num_channels, parts.embed_dim, kernel_size=1)
        self.backbone = nn.ModuleList([parts.backbone, parts.position_encoding])
        # Non-persistent: official checkpoints hold no such entries.
        self.register_buffer("pixel_mean", 255 * torch.tensor(IMAGENET_MEAN), persistent=False)
        self.register_buffer("pixel_std", 255 * torch.tensor(IMAGENET_STD), persistent=False)

    def checkpoint_problem(self, file: Path, content: Mapping[str, Any]) -> str | None:
        """Why a checkpoint with this content was trained on another feature map, if it was.

        ``load_weights`` asks it, since names and shapes are the same for each.
        """
        return dilation_problem(release_of(file, content), self.backbone[0].dilation)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def batch(
        self, samples: Sequence[dict[str, Any]], size: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Normalise each ``image`` (3, h, w) uint8 RGB; pad to one size, at the right and bottom.

        Args:
            samples: one dict per image.
            size: H and W; by default the largest of these images. At least ``canvas``.

        Returns:
            images (B, 3, H, W) float32, channels last, zero where padded, and padding_mask
            (B, H, W) bool, True = padding, or None where all images have that size.
        """
        device = self.device
        sizes = [tuple(sample["image"].shape[-2:]) for sample in samples]
        size = largest_size(samples) if size is None else size
        height, width = (max(side, self.canvas) for side in size)
        # Channels last, and each row of pixels as one run of 3 W numbers: several times as fast.
        rows = torch.zeros((len(samples), height, width * 3), device=device)
        mean, std = self.pixel_mean.repeat(width), self.pixel_std.repeat(width)
        for canvas, sample, (h, w) in zip(rows, samples, sizes, strict=True):
            pixels = sample["image"].to(device, non_blocking=True).permute(1, 2, 0)
            run = canvas[:h, : w * 3]
            run.copy_(pixels.reshape(h, w * 3)).sub_(mean[: w * 3]).div_(std[: w * 3])
        images = rows.view(len(samples), height, width, 3).permute(0, 3, 1, 2)
        if set(sizes) == {(height, width)}:
            return images, None
        padding_mask = torch.ones((len(samples), height, width), dtype=torch.bool, device=device)
        for image_mask, (h, w) in zip(padding_mask, sizes, strict=True):
            image_mask[:h, :w] = False
        return images, padding_mask

    def decode(self, images: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Decode the queries of a batch.

        Args:
            images: (B, 3, H, W) normalised.
            padding_mask: (B, H, W) bool, True = padding; None = no padding anywhere.

        Returns:
            (N, B, Q, D) output of each decoder layer, first to last.
        """
        cells = self.cell_features(images, padding_mask)
        return self.transformer(
            cells.features,
            cells.position,
            self.query_embed.weight,
            cells.key_padding_mask,
        )

    def cell_features(self, images: Tensor, padding_mask: Tensor | None) -> CellFeatures:
        """What the backbone makes of a batch, see ``decode``."""
        backbone, position_encoding = self.backbone
        features = self.input_proj(backbone(images))  # (B, D, h, w)
        cells = features.shape[-2:]
        if padding_mask is None:
            cell_mask = None
            position = position_encoding(features.new_zeros((1, *cells), dtype=torch.bool))
            position = position.expand(len(images), -1, -1, -1)
        else:
            # Nearest-neighbour sampling; in whole numbers, or exported files round ties otherwise.
            rows, columns = (
                torch.arange(cells[axis], device=images.device)
                * padding_mask.shape[axis]
                // cells[axis]
                for axis in (-2, -1)
            )
            cell_mask = padding_mask[:, rows[:, None], columns]
            position = position_encoding(cell_mask)
        return CellFeatures(
            features.flatten(2).transpose(1, 2),  # (B, L, D)
            position.flatten(1, 2).to(features.dtype),  # (B, L, D)
            cell_mask,
            cells,
        )


def largest_size(samples: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """The height and the width to which the images of ``samples`` are padded."""
    heights, widths = zip(*(sample["image"].shape[-2:] for sample in samples), strict=True)
    return max(heights), max(widths)


class BoxHead(nn.Module):
    """Three linear layers from a query to its box."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        sizes = [embed_dim, embed_dim, embed_dim, 4]
        self.layers = nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:]))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., 4), cxcywh in [0, 1]."""
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(x))))).sigmoid()


class Detr(DetrBody):
    """DETR for detection: a class and a box for every query.

    Args:
        parts: all but the heads.
        num_classes: C; one more logit stands for "no object".
        loss: judges the outputs in training.
    """

    #: Parameters that start afresh when a checkpoint holds them for another number of classes.
    reinitialised_on_mismatch = ("class_embed.",)

    def __init__(self, parts: BodyParts, num_classes: int, loss: DetectionLoss) -> None:
        super().__init__(parts)
        self.class_embed = nn.Linear(parts.embed_dim, num_classes + 1)
        self.bbox_embed = BoxHead(parts.embed_dim)
        self.loss = loss
        if loss.focal:
            nn.init.constant_(self.class_embed.bias, PRIOR_LOGIT)

    def totals(self, samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """What a part of ``samples`` must know of all: see ``DetectionLoss.totals``; the ``size``.

        Of other processes' samples, too, but for the size to which images are padded, (2,) int64.
        """
        labels = [sample["labels"] for sample in samples]
        totals = self.loss.totals(labels, self.num_queries, self.device)
        return {**totals, "size": torch.tensor(largest_size(samples))}

    def forward(
        self, samples: Sequence[dict[str, Any]], totals: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor] | list[dict]:
        """Detect objects (eval mode), or judge the detections (training mode).

        Args:
            samples: one dict per image. ``image``: uint8 (3, h, w), RGB; ``height``, ``width``:
                size of the original image in pixels, to which the boxes returned refer; in
                training also ``labels`` (t,) int64 and ``boxes_cxcywh`` (t, 4) float32 in [0, 1].
            totals: in training, of the batch that these samples are a part of.

        Returns:
            In training the weighted losses by name (see ``DetectionLoss``). Else a list with, for
            each image, what ``detections`` returns.
        """
        size = None if totals is None else totals["size"].tolist()
        images, padding_mask = self.batch(samples, size)
        if not self.training:
            outputs = self.predict_batch(images, padding_mask)
            sizes = [(s["height"], s["width"]) for s in samples]
            return detections(outputs, sizes, self.loss.focal)
        labels = [sample["labels"].to(self.device) for sample in samples]
        boxes_cxcywh = [sample["boxes_cxcywh"].to(self.device) for sample in samples]
        return self.losses(images, padding_mask, labels, boxes_cxcywh, totals)

    def losses(
        self,
        images: Tensor,
        padding_mask: Tensor | None,
        labels: Sequence[Tensor],
        boxes_cxcywh: Sequence[Tensor],
        totals: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Judge what is found on a padded batch, see ``forward``."""
        outputs = self.predict_batch(images, padding_mask)
        with in_float32(self.device):
            return self.loss(outputs, labels, boxes_cxcywh, totals)

    def predict_batch(
        self, images: Tensor, padding_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Class logits and boxes of a padded batch (see ``decode``), from every decoder layer.

        Returns:
            ``pred_logits`` (N, B, Q, C + 1), the last logit "no object"; ``pred_boxes``
            (N, B, Q, 4), cxcywh in [0, 1] of the unpadded image; layers first to last.
        """
        queries = self.decode(images, padding_mask)  # (N, B, Q, D)
        queries = queries.to(self.query_embed.weight.dtype)
        with in_float32(self.device):  # bfloat16 would place boxes by three pixels in 640
            logits, boxes = self.class_embed(queries), self.bbox_embed(queries)
        return {"pred_logits": logits, "pred_boxes": boxes}


def detections(
    outputs: dict[str, Tensor], image_sizes: Sequence[tuple[int, int]], focal: bool = False
) -> list[dict[str, Tensor]]:
    """One detection per query of the last layer: its best real class and its box in pixels.

    Args:
        outputs: see ``Detr.predict_batch``.
        image_sizes: (height, width) in pixels per image.
        focal: whether a class has a sigmoid of its own.

    Returns:
        Per image ``scores`` (Q,) in [0, 1], ``labels`` (Q,) class indices and ``boxes_xyxy``
        (Q, 4) in pixels, not clipped.
    """
    logits = outputs["pred_logits"][-1].float()
    probability = logits.sigmoid() if focal else logits.softmax(-1)
    scores, labels = probability[..., :-1].max(-1)
    boxes_xyxy = box_convert(outputs["pred_boxes"][-1].float(), "cxcywh", "xyxy")
    scale = boxes_xyxy.new_tensor([(w, h, w, h) for h, w in image_sizes])
    return [
        {"scores": s, "labels": c, "boxes_xyxy": b}
        for s, c, b in zip(scores, labels, boxes_xyxy * scale[:, None], strict=True)
    ]

"""Queries as boxes (DAB-DETR, arXiv 2201.12329), and their choice from the cells of the image.

Shapes: B images, L cells of the feature map, Q queries, C classes, D embedding channels. Boxes are
cxcywh in [0, 1] of the unpadded image.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from dropkey_core.engine import in_float32

ANCHOR_SIDE = 0.15  # of an image's side: width and height that boxes start from
EDGE = 1e-4  # how near to 0 and 1 a coordinate may come, so that its logit is finite
CANDIDATES = 4  # cells for each query, among which the distinct ones are looked for
SAME_IOU = 0.8  # above it boxes are nearly the same
ABSENT = -30.0  # logit of a class that cannot be there: neither loss nor gradient in float32


def box_logits(boxes_cxcywh: Tensor) -> Tensor:
    """The inverse of the sigmoid, (..., 4) -> (..., 4)."""
    return boxes_cxcywh.clamp(EDGE, 1 - EDGE).logit()


def refined(boxes_cxcywh: Tensor, step: Tensor) -> Tensor:
    """Move boxes (..., 4) by a step in their logits: b' = sigmoid(step + logit(b))."""
    return (box_logits(boxes_cxcywh) + step).sigmoid()


def perceptron(*sizes: int) -> nn.Sequential:
    """Linear layers of these widths with ReLUs between."""
    layers: list[nn.Module] = []
    for width, following in pairwise(sizes):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def box_head(embed_dim: int) -> nn.Sequential:
    """Three layers from a query (..., D) to a step of its box, (..., 4), that begins as none."""
    head = perceptron(embed_dim, embed_dim, embed_dim, 4)
    nn.init.zeros_(head[-1].weight)
    nn.init.zeros_(head[-1].bias)
    return head


def random_boxes(number: int) -> Tensor:
    """Boxes (number, 4) anywhere, of ``ANCHOR_SIDE``."""
    return torch.cat([torch.rand(number, 2), torch.full((number, 2), ANCHOR_SIDE)], dim=1)


def cell_centres(image_sizes: Tensor, cells: Sequence[int], stride: int) -> Tensor:
    """Where the cells of a feature map lie in images that are padded at the right and bottom.

    Exact where an image's last cell reaches over its edge, which matters on small maps.

    Args:
        image_sizes: (B, 2) heights and widths in pixels, without padding.
        cells: h and w of the map.
        stride: pixels along a cell.

    Returns:
        (B, h w, 2) x and y in [0, 1] of the unpadded image; 1 for what lies in padding.
    """
    rows, columns = (
        ((torch.arange(number, device=image_sizes.device) + 0.5) * stride / side).clamp(max=1)
        for number, side in zip(cells, image_sizes[:, :, None].unbind(1), strict=True)
    )  # (B, h), (B, w)
    shape = (image_sizes.shape[0], *cells)
    grid = columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)
    return torch.stack(grid, dim=-1).flatten(1, 2)


class CellDetector(nn.Module):
    """A class and a box for every cell of the encoder's memory, from which queries are chosen.

    The queries begin as the boxes of the Q cells with the highest class scores (the two stages of
    Deformable DETR, arXiv 2010.04159, A.4; Efficient DETR, 2104.01318), without gradient into the
    choice.

    Args:
        embed_dim: D.
        num_classes: C.
    """

    def __init__(self, embed_dim: int, num_classes: int) -> None:
        super().__init__()
        self.class_embed = nn.Linear(embed_dim, num_classes + 1)
        self.box_head = box_head(embed_dim)

    def forward(
        self, memory: Tensor, centres: Tensor, padding_mask: Tensor | None
    ) -> dict[str, Tensor]:
        """Detect at every cell.

        Args:
            memory: (B, L, D).
            centres: (B, L, 2), see ``cell_centres``; a cell's box begins about its own.
            padding_mask: (B, L) bool, True = padding, where no class is; None = no padding.

        Returns:
            ``pred_logits`` (1, B, L, C + 1) and ``pred_boxes`` (1, B, L, 4), as of one layer.
        """
        with in_float32(memory.device):
            memory = memory.float()
            logits = self.class_embed(memory)
            start = torch.cat([centres, torch.full_like(centres, ANCHOR_SIDE)], dim=-1)
            boxes = refined(start, self.box_head(memory))
        if padding_mask is not None:
            logits = logits.masked_fill(padding_mask[..., None], ABSENT)
        return {"pred_logits": logits[None], "pred_boxes": boxes[None]}


def best_boxes(cells: dict[str, Tensor], number: int) -> Tensor:
    """The boxes (B, Q, 4) of the cells that are surest of a class and distinct.

    Of boxes that are nearly the same the surest comes first and the others after all distinct
    ones: queries that begin as the same box learn late which of them shall speak (DDQ, arXiv
    2303.12776, section 3.2).

    Args:
        cells: see ``CellDetector.forward``.
        number: Q; all cells where there are fewer.
    """
    scores = cells["pred_logits"][0, ..., :-1].amax(-1)  # (B, L)
    number = min(number, scores.shape[1])
    surest = scores.topk(min(CANDIDATES * number, scores.shape[1]), dim=1).indices
    boxes = cells["pred_boxes"][0].detach().gather(1, surest[..., None].expand(-1, -1, 4))
    is_repeated = (overlaps(boxes) > SAME_IOU).tril(-1).any(-1)  # by a surer one
    place = torch.arange(boxes.shape[1], device=boxes.device)
    place = torch.where(is_repeated, place + boxes.shape[1], place)
    chosen = place.topk(number, dim=1, largest=False).indices
    return boxes.gather(1, chosen[..., None].expand(-1, -1, 4))


def overlaps(boxes_cxcywh: Tensor) -> Tensor:
    """IoU of each box of an image with each other, (B, K, 4) -> (B, K, K)."""
    low, high = box_convert(boxes_cxcywh, "cxcywh", "xyxy").chunk(2, dim=-1)
    shared = torch.minimum(high[:, :, None], high[:, None]) - torch.maximum(
        low[:, :, None], low[:, None]
    )
    shared = shared.clamp(min=0).prod(-1)
    areas = (high - low).prod(-1)
    return shared / (areas[:, :, None] + areas[:, None] - shared).clamp(min=EDGE**2)

"""A decoder whose queries are boxes, refined from layer to layer (DAB-DETR, arXiv 2201.12329).

Shapes: B images, L cells of the feature map, Q queries, D embedding channels, N layers. Boxes are
cxcywh in [0, 1] of the unpadded image.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropkey_core.attention import MultiheadAttention
from dropkey_core.engine import in_float32
from projects.detr.anchors import perceptron, refined
from projects.detr.position_encoding import SinePositionEncoding
from projects.detr.transformer import DecoderLayer


class ConditionalAttention(MultiheadAttention):
    """Attention in which content meets content and place meets place (arXiv 2108.06152, Eq. 5).

    In each head the query is [content; place] and so is the key, each part projected by itself, so
    that the logit is q_c k_c + q_p k_p without mixed terms. Values are content alone. Keys drop as
    in ``MultiheadAttention``, and weights shown or captured are those of both parts.

    Args:
        embed_dim: D, width of content, place and output.
        num_heads: number of heads.
        dropping: ``drop_ratio`` and ``unit`` of ``MultiheadAttention``.
    """

    def __init__(self, embed_dim: int, num_heads: int, **dropping: Any) -> None:
        super().__init__(embed_dim, num_heads, batch_first=True, **dropping)
        self.query_place = nn.Linear(embed_dim, embed_dim)
        self.key_place = nn.Linear(embed_dim, embed_dim)

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Project (B, L, 2 D) queries and keys, [content, place], each within its head."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        joined = [
            self._join(F.linear(content, weight, bias), place_projection(place))
            for (content, place), weight, bias, place_projection in zip(
                (query.chunk(2, -1), key.chunk(2, -1)),
                weights[:2],
                biases[:2],
                (self.query_place, self.key_place),
                strict=True,
            )
        ]
        return [*joined, F.linear(value, weights[2], biases[2])]

    def _join(self, content: Tensor, place: Tensor) -> Tensor:
        """Put the parts of each head side by side, twice (B, L, D) -> (B, L, 2 D)."""
        parts = [x.unflatten(-1, (self.num_heads, -1)) for x in (content, place)]
        return torch.cat(parts, dim=-1).flatten(-2)

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, L, D / H or twice it)


class Cells(NamedTuple):
    """What the decoder looks at.

    Attributes:
        memory: (B, L, D) the encoder's output.
        place: (B, L, D) its position encoding.
        padding_mask: (B, L) bool, True = ignore; None = nothing to ignore.
    """

    memory: Tensor
    place: Tensor
    padding_mask: Tensor | None


class BoxDecoderLayer(DecoderLayer):
    """``DecoderLayer`` whose cross-attention is conditional."""

    def forward(self, x: Tensor, box_embedding: Tensor, centre: Tensor, cells: Cells) -> Tensor:
        """Let each query gather what it needs from the others and from the image.

        Args:
            x: (B, Q, D) content of the queries.
            box_embedding: (B, Q, D) of their boxes, added to queries and keys among themselves.
            centre: (B, Q, D) of the boxes' centres, the place from which they look at cells.
            cells: what they look at.

        Returns:
            (B, Q, D).
        """

        def attend_to_image(x: Tensor) -> Tensor:
            return self.multihead_attn(
                torch.cat([x, centre.to(x.dtype)], dim=-1),
                torch.cat([cells.memory, cells.place], dim=-1),
                cells.memory,
                key_padding_mask=cells.padding_mask,
                need_weights=False,
            )[0]

        return self.refine(x, box_embedding, attend_to_image)


class BoxDecoder(nn.Module):
    """A stack of layers that each see the boxes of the layer before, and refine them.

    With A the boxes (x, y, w, h), C the content and PE sines of each coordinate (DAB-DETR, section
    4.2): self-attention adds MLP(PE(A)) to the content; cross-attention looks from
    PE(x, y) * MLP(C) (Conditional DETR's scale). Boxes move by A' = sigmoid(MLP(C') + logit(A)),
    section 4.3, without gradient from one layer's to those of the next.

    Args:
        layers: N layers.
        norm: of what every layer returns.
        encoding: of coordinates, the same as that of the cells.
    """

    def __init__(
        self, layers: Sequence[BoxDecoderLayer], norm: nn.LayerNorm, encoding: SinePositionEncoding
    ) -> None:
        super().__init__()
        (embed_dim,) = norm.normalized_shape
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.encoding = encoding
        self.box_embedding = perceptron(2 * embed_dim, embed_dim, embed_dim)
        self.centre_scale = perceptron(embed_dim, embed_dim, embed_dim)

    def forward(
        self, x: Tensor, boxes: Tensor, cells: Cells, box_heads: nn.ModuleList
    ) -> tuple[Tensor, Tensor]:
        """Decode queries.

        Args:
            x: (B, Q, D) content that they start from.
            boxes: (B, Q, 4) float32 that they start from.
            cells: what they look at.
            box_heads: the step of each layer's boxes, (B, Q, D) -> (B, Q, 4).

        Returns:
            (N, B, Q, D) normalised output and (N, B, Q, 4) float32 boxes of each layer.
        """
        outputs, all_boxes = [], []
        for layer, head in zip(self.layers, box_heads, strict=True):
            waves = self.encoding.of_coordinates(boxes.flip(-1)).flatten(-2)  # h, w, y, x
            centre = waves[..., waves.shape[-1] // 2 :] * self.centre_scale(x)
            x = layer(x, self.box_embedding(waves), centre, cells)
            outputs.append(self.norm(x))
            with in_float32(x.device):
                all_boxes.append(refined(boxes, head(outputs[-1].float())))
            boxes = all_boxes[-1].detach()
        return torch.stack(outputs), torch.stack(all_boxes)

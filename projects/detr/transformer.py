"""DETR's encoder and decoder (arXiv 2005.12872, A.3), their attention regularised by DropKey.

Shapes: B images, L cells of the feature map, Q object queries, D embedding channels, N layers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dropkey_core.attention import MultiheadAttention


class ResidualLayer(nn.Module):
    """What encoder and decoder layers share: a feed-forward network and residual connections.

    Args:
        embed_dim: D.
        ffn_dim: hidden width of the feed-forward network.
        dropout: ratio of the feed-forward and residual dropouts.
        pre_norm: normalise the input of each sub-layer instead of its sum with the residual.

    Attributes:
        checkpointed: compute what is inside again for the gradient rather than keep it.
    """

    checkpointed = False

    def __init__(self, embed_dim: int, ffn_dim: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.linear1 = nn.Linear(embed_dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.pre_norm = pre_norm

    def __call__(self, *inputs: Any) -> Any:
        """Call ``forward``, activations checkpointed if asked for; random draws are repeated."""
        if self.checkpointed and self.training and torch.is_grad_enabled():
            return checkpoint(super().__call__, *inputs, use_reentrant=False)
        return super().__call__(*inputs)

    def residual(self, x: Tensor, norm: nn.Module, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """Add what ``sublayer`` makes of ``x``, (B, *, D), to ``x``."""
        if self.pre_norm:
            return x + self.dropout(sublayer(norm(x)))
        return norm(x + self.dropout(sublayer(x)))

    def feed_forward(self, x: Tensor) -> Tensor:
        """Two linear maps with a ReLU between, (B, *, D) -> (B, *, D)."""
        return self.linear2(self.dropout(F.relu(self.linear1(x))))


class EncoderLayer(ResidualLayer):
    """Self-attention (batch first) over the feature map, then a feed-forward network.

    The arguments after the attention are those of ``ResidualLayer``.
    """

    def __init__(
        self, self_attn: MultiheadAttention, ffn_dim: int, dropout: float, pre_norm: bool
    ) -> None:
        super().__init__(self_attn.embed_dim, ffn_dim, dropout, pre_norm)
        self.self_attn = self_attn
        self.norm1 = nn.LayerNorm(self_attn.embed_dim)
        self.norm2 = nn.LayerNorm(self_attn.embed_dim)

    def forward(self, x: Tensor, position: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """Refine the feature map.

        Args:
            x: (B, L, D) features.
            position: (B, L, D) position encoding, added to queries and keys.
            key_padding_mask: (B, L) bool, True = ignore; None = nothing to ignore.

        Returns:
            (B, L, D).
        """

        def attend(x: Tensor) -> Tensor:
            query = x + position
            return self.self_attn(
                query, query, x, key_padding_mask=key_padding_mask, need_weights=False
            )[0]

        x = self.residual(x, self.norm1, attend)
        return self.residual(x, self.norm2, self.feed_forward)


class DecoderLayer(ResidualLayer):
    """Self-attention among queries, attention to the feature map, a feed-forward network.

    Args:
        self_attn: attention among the queries, batch first.
        cross_attn: attention from the queries to the feature map, batch first.
        ffn_dim: see ``ResidualLayer``, as the following.
    """

    def __init__(
        self,
        self_attn: MultiheadAttention,
        cross_attn: MultiheadAttention,
        ffn_dim: int,
        dropout: float,
        pre_norm: bool,
    ) -> None:
        super().__init__(self_attn.embed_dim, ffn_dim, dropout, pre_norm)
        self.self_attn = self_attn
        self.multihead_attn = cross_attn  # the official checkpoints' name
        self.norm1 = nn.LayerNorm(self_attn.embed_dim)
        self.norm2 = nn.LayerNorm(self_attn.embed_dim)
        self.norm3 = nn.LayerNorm(self_attn.embed_dim)

    def forward(
        self,
        x: Tensor,
        query_position: Tensor,
        memory: Tensor,
        memory_with_position: Tensor,
        key_padding_mask: Tensor | None,
    ) -> Tensor:
        """Let each query gather what it needs from the others and from the image.

        Args:
            x: (B, Q, D) what the queries hold so far.
            query_position: (Q, D) or (B, Q, D) learned query embedding, added to queries and keys.
            memory: (B, L, D) the encoder's output.
            memory_with_position: (B, L, D) the same plus its position encoding, the keys.
            key_padding_mask: (B, L) bool, True = ignore; None = nothing to ignore.

        Returns:
            (B, Q, D).
        """

        def attend_to_image(x: Tensor) -> Tensor:
            return self.multihead_attn(
                x + query_position,
                memory_with_position,
                memory,
                key_padding_mask=key_padding_mask,
                need_weights=False,
            )[0]

        return self.refine(x, query_position, attend_to_image)

    def refine(
        self, x: Tensor, query_position: Tensor, attend_to_image: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """The three sub-layers, of which the second is ``attend_to_image``; see ``forward``."""

        def attend_to_queries(x: Tensor) -> Tensor:
            query = x + query_position
            return self.self_attn(query, query, x, need_weights=False)[0]

        x = self.residual(x, self.norm1, attend_to_queries)
        x = self.residual(x, self.norm2, attend_to_image)
        return self.residual(x, self.norm3, self.feed_forward)


class Encoder(nn.Module):
    """A stack of encoder layers, and a norm of what the last returns (pre-norm models need it)."""

    def __init__(self, layers: Sequence[EncoderLayer], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, x: Tensor, position: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """Map features (B, L, D) to the decoder's memory (B, L, D); see ``EncoderLayer``."""
        for layer in self.layers:
            x = layer(x, position, key_padding_mask)
        return x if self.norm is None else self.norm(x)


class Decoder(nn.Module):
    """A stack of decoder layers that returns what every layer says, through one norm for all."""

    def __init__(self, layers: Sequence[DecoderLayer], norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(
        self,
        query_position: Tensor,
        memory: Tensor,
        position: Tensor,
        key_padding_mask: Tensor | None,
    ) -> Tensor:
        """Decode the queries, which start from zero.

        Args:
            query_position: (Q, D) learned query embedding.
            memory: (B, L, D) the encoder's output.
            position: (B, L, D) its position encoding.
            key_padding_mask: (B, L) bool, True = ignore; None = nothing to ignore.

        Returns:
            (N, B, Q, D) normalised output of each layer, first to last.
        """
        keys = memory + position
        x = memory.new_zeros(memory.shape[0], *query_position.shape)  # (B, Q, D)
        outputs = []
        for layer in self.layers:
            x = layer(x, query_position, memory, keys, key_padding_mask)
            outputs.append(self.norm(x))
        return torch.stack(outputs)


class Transformer(nn.Module):
    """Encoder and decoder together, every matrix initialised after Glorot."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        query_position: Tensor,
        key_padding_mask: Tensor | None,
    ) -> Tensor:
        """Decode the objects of a feature map ``x`` (B, L, D); see ``Decoder``."""
        memory = self.encoder(x, position, key_padding_mask)
        return self.decoder(query_position, memory, position, key_padding_mask)

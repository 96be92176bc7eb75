"""METRO's transformer: blocks of post-norm layers as in BERT, their attention with DropKey.

Source: arXiv 2012.09760, with the details of the official code.

Shapes: B images, N tokens (joints, then vertices of the coarsest mesh), D embedding channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropkey_core.attention import MultiheadAttention
from dropkey_core.engine import in_float32

NORM_EPS = 1e-12  # BERT's
INIT_STD = 0.02  # of every weight matrix and of the positions


class PostNormLayer(nn.Module):
    """Self-attention, then a feed-forward network with GELU, each added and then normalised.

    Args:
        self_attn: the attention, batch first.
        ffn_dim: hidden width of the feed-forward network.
        dropout: ratio of the dropout of either sub-layer's output; the hidden units have none.
    """

    def __init__(self, self_attn: MultiheadAttention, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        embed_dim = self_attn.embed_dim
        self.self_attn = self_attn
        self.norm1 = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.linear1 = nn.Linear(embed_dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        attended, _ = self.self_attn(x, x, x, need_weights=False)
        x = self.norm1(x + self.dropout(attended))
        return self.norm2(x + self.dropout(self.linear2(F.gelu(self.linear1(x)))))


class EncoderBlock(nn.Module):
    """A stack of layers between two changes of width: METRO's progressive reduction.

    A linear shortcut leads from the block's input to its output, past the layers. No norm follows
    the sum of embedding and position.

    Args:
        input_dim: width of the tokens that come in.
        output_dim: width of those that leave.
        num_tokens: N; every token has a learned position.
        layers: first to last, all of one width D.
        dropout: ratio of the dropout before the first layer.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        num_tokens: int,
        layers: Sequence[PostNormLayer],
        dropout: float,
    ) -> None:
        super().__init__()
        embed_dim = layers[0].self_attn.embed_dim
        self.embedding = nn.Linear(input_dim, embed_dim)
        self.position = nn.Parameter(torch.empty(num_tokens, embed_dim))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(embed_dim, output_dim)
        self.shortcut = nn.Linear(input_dim, output_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights and positions from a normal distribution; biases are 0, norms do nothing."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=INIT_STD)
            elif ".norm" in name and name.endswith("weight"):
                nn.init.ones_(parameter)
            else:
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, input_dim) -> (B, N, output_dim), coordinates in the end: not in bfloat16."""
        x = self.dropout(self.embedding(tokens) + self.position)  # (B, N, D)
        for layer in self.layers:
            x = layer(x)
        dtype = self.position.dtype
        with in_float32(x.device):
            return self.head(x.to(dtype)) + self.shortcut(tokens.to(dtype))

"""Performer: attention linear in the number of tokens, for tokens-to-token as published.

Performer (arXiv 2009.14794) replaces exp(q k) by phi(q) phi(k), so no query has weights over the
keys and there is nothing that DropKey could drop.

Shapes: B images, L tokens, C channels in, E = embed_dim channels out, M = E / 2 random features.
"""

import math

import torch
from torch import Tensor, nn

EPSILON = 1e-8  # keeps the division finite where all features of a query underflow


class TokenPerformer(nn.Module):
    """One performer layer of T2T-ViT's soft split, with a single head; official parameter names.

    The width changes from C to E, so the values take the place of the layer's input in the
    residual sum.

    Args:
        in_dim: C.
        embed_dim: E, an even number.
        dropout: ratio after the projection and at the end of the feed-forward network.
    """

    def __init__(self, in_dim: int, embed_dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(in_dim)
        self.kqv = nn.Linear(in_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.dp = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.mlp = nn.Sequential(
            nn.Linear(embed_dim, embed_dim),
            nn.GELU(),
            nn.Linear(embed_dim, embed_dim),
            nn.Dropout(dropout),
        )
        num_features = embed_dim // 2
        directions = nn.init.orthogonal_(torch.empty(num_features, embed_dim))  # (M, E)
        # Frozen, and a parameter because official checkpoints hold it.
        self.w = nn.Parameter(directions * math.sqrt(num_features), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, E); float32 under autocast, but for the feed-forward network.

        A query's square stands in an exponent, and values begin the residual sum: both would lose
        what bfloat16 rounds off.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = self.norm1(x.to(self.w.dtype))
            k, q, v = self.kqv(x).chunk(3, dim=-1)  # in this order, (B, L, E) each
            x = v + self.dp(self.proj(self.attend(q, k, v)))
        return x + self.mlp(self.norm2(x))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """phi(q) (phi(k)^T v) / phi(q) (phi(k)^T 1), (B, L, E) each."""
        q_features, k_features = self.features(q), self.features(k)  # (B, L, M)
        context = k_features.transpose(1, 2) @ v  # (B, M, E)
        norm = q_features @ k_features.sum(dim=1)[..., None]  # (B, L, 1)
        return q_features @ context / (norm + EPSILON)

    def features(self, x: Tensor) -> Tensor:
        """phi(x) = exp(w x - |x|^2 / 2) / sqrt(M), random features: (B, L, E) -> (B, L, M).

        The mean of phi(q) phi(k) over directions w is exp(q k) (arXiv 2009.14794, equation 5).
        """
        half_square = x.square().sum(dim=-1, keepdim=True) / 2  # (B, L, 1)
        return torch.exp(x @ self.w.T - half_square) / math.sqrt(len(self.w))

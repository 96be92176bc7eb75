"""T2T-ViT (arXiv 2101.11986): a deep, narrow vision transformer over tokens-to-token.

Names of parameters and numbers are those of yitu-opensource/T2T-ViT.

Shapes: B images of S x S pixels, L tokens with the class token, E = embed_dim, H = num_heads,
D = E / H.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from dropkey_core.engine import UserError
from projects.classification.t2t_tokens import OFFICIAL_SPLITS, TokensToToken

WAVELENGTHS = 10_000.0  # longest over shortest wavelength of the position table


class T2TAttention(nn.Module):
    """Self-attention of T2T-ViT's backbone, to be equipped by ``dropkey_core.apply_dropkey``.

    Args:
        embed_dim: E.
        num_heads: H, a divisor of E.
    """

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, E) -> (B, L, E)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, L, 3, H, D)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # (B, H, L, D) each
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))


class T2TBlock(nn.Module):
    """Attention and feed-forward network, each normalised before and added to its input.

    Args:
        embed_dim: E.
        num_heads: H.
        mlp_ratio: hidden width of the feed-forward network over E.
        drop_path: probability that a sample skips a branch (stochastic depth).
    """

    def __init__(self, embed_dim: int, num_heads: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attn = T2TAttention(embed_dim, num_heads)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.mlp = Mlp(embed_dim, int(embed_dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, E) -> (B, L, E)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class T2TViT(nn.Module):
    """T2T-ViT; the defaults but for the sizes are the official ones.

    Args:
        num_classes: size of the head.
        image_size: S.
        embed_dim: E.
        depth: number of blocks.
        num_heads: H, a divisor of E.
        mlp_ratio: see ``T2TBlock``.
        drop_path: of the last block; from block to block it grows linearly from 0.
        splits: see ``TokensToToken``, as the following three.
        tokens: ``performer`` or ``transformer``.
        token_dim: width between the splits.
        token_dropout: of the performer layers.

    Raises:
        UserError: sizes that do not fit each other.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        *,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 3.0,
        drop_path: float = 0.0,
        splits: Sequence[Sequence[int]] = OFFICIAL_SPLITS,
        tokens: str = "performer",
        token_dim: int = 64,
        token_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads or embed_dim % 2:
            raise UserError(
                f"embed_dim must be even and a multiple of num_heads={num_heads}, got {embed_dim}"
            )
        if token_dim % 2:
            raise UserError(f"token_dim must be even, got {token_dim}")
        if depth < 1:
            raise UserError(f"depth must be at least 1, got {depth}")
        self.num_classes = num_classes
        self.embed_dim = embed_dim
        self.tokens_to_token = TokensToToken(embed_dim, token_dim, splits, tokens, token_dropout)
        side = self.tokens_to_token.grid_size(image_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        # Frozen, and a parameter because official checkpoints hold it.
        table = sinusoid_table(side**2 + 1, embed_dim)[None]
        self.pos_embed = nn.Parameter(table, requires_grad=False)
        self.blocks = nn.ModuleList(
            T2TBlock(embed_dim, num_heads, mlp_ratio, drop_path * i / max(depth - 1, 1))
            for i in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.apply(init_linear)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> logits (B, num_classes)."""
        return self.head(self.forward_features(images)[:, 0])

    def forward_features(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> normalised tokens (B, L, E), the class token first."""
        x = self.tokens_to_token(images)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def no_weight_decay(self) -> set[str]:
        """What weight decay spares in the official recipe besides biases and norms."""
        return {"cls_token"}


def init_linear(module: nn.Module) -> None:
    """Begin with small weights and biases of 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def sinusoid_table(num_positions: int, embed_dim: int) -> Tensor:
    """Sines in even channels, cosines in odd ones, of ever longer waves (arXiv 1706.03762, 3.5).

    Returns:
        (num_positions, embed_dim) float32.
    """
    positions = torch.arange(num_positions, dtype=torch.float64)[:, None]
    pairs = torch.arange(0, embed_dim, 2, dtype=torch.float64)
    angles = positions / WAVELENGTHS ** (pairs / embed_dim)  # (num_positions, embed_dim / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).float()

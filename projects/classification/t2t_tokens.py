"""Tokens-to-token: how T2T-ViT (arXiv 2101.11986, section 3.1) turns an image into tokens.

A soft split cuts overlapping patches out of a map and makes each a token; a layer of attention
lets them exchange what they hold, and the tokens, put back in their places, are the next map.

Shapes: B images of S x S pixels, L tokens, C channels, E = embed_dim, T = token_dim.
"""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from dropkey_core.engine import UserError
from projects.classification.performer import TokenPerformer

# (kernel, stride, padding) of each soft split in the official networks: 224 pixels -> 14 x 14
OFFICIAL_SPLITS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))


class TokenAttention(nn.Module):
    """Softmax attention of one head that narrows its tokens; the values are the residual.

    Args:
        in_dim: C.
        embed_dim: T. The scale is C^-0.5 all the same, as in the official network.
    """

    def __init__(self, in_dim: int, embed_dim: int) -> None:
        super().__init__()
        self.scale = in_dim**-0.5
        self.qkv = nn.Linear(in_dim, 3 * embed_dim, bias=False)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, T)."""
        q, k, v = self.qkv(x)[:, None].chunk(3, dim=-1)  # (B, 1, L, T) each
        out = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return (v + self.proj(out))[:, 0]


class TokenTransformer(nn.Module):
    """One layer of the transformer variant of tokens-to-token (``t2t_vit_t_*``); official names.

    Args:
        in_dim: C.
        embed_dim: T.
        dropout: not used: the official layer has none. It is there for ``TokenPerformer``'s sake.
    """

    def __init__(self, in_dim: int, embed_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(in_dim)
        self.attn = TokenAttention(in_dim, embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.mlp = Mlp(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, T)."""
        x = self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


TOKEN_LAYERS: dict[str, Callable[[int, int, float], nn.Module]] = {
    "performer": TokenPerformer,
    "transformer": TokenTransformer,
}


class TokensToToken(nn.Module):
    """Soft splits with a layer of attention between each two, then a projection.

    Args:
        embed_dim: E, width of the resulting tokens.
        token_dim: T, width in between.
        splits: kernel, stride and padding of each soft split, at least one.
        tokens: kind of the layers in between, of ``TOKEN_LAYERS``.
        dropout: of these layers.

    Raises:
        UserError: an unknown kind, or splits that are not triples.
    """

    def __init__(
        self,
        embed_dim: int,
        token_dim: int = 64,
        splits: Sequence[Sequence[int]] = OFFICIAL_SPLITS,
        tokens: str = "performer",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if tokens not in TOKEN_LAYERS:
            raise UserError(f"tokens must be one of {', '.join(TOKEN_LAYERS)}, got {tokens!r}")
        self.splits = checked_splits(splits)
        width = 3  # the image's channels
        for i, (kernel, _, _) in enumerate(self.splits[:-1], start=1):
            layer = TOKEN_LAYERS[tokens](width * kernel**2, token_dim, dropout)
            self.add_module(f"attention{i}", layer)  # attention1, attention2: official names
            width = token_dim
        self.project = nn.Linear(width * self.splits[-1][0] ** 2, embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, L, E), row by row."""
        x = images
        for i, split in enumerate(self.splits[:-1], start=1):
            side = split_side(x.shape[-1], split)
            x = self.get_submodule(f"attention{i}")(soft_split(x, split))  # (B, L, T)
            x = x.transpose(1, 2).unflatten(2, (side, side))  # (B, T, side, side)
        return self.project(soft_split(x, self.splits[-1]))

    def grid_size(self, image_size: int) -> int:
        """Number of tokens along each side of an image of S = ``image_size`` pixels.

        Raises:
            UserError: if a split's kernel is larger than what it gets.
        """
        side = image_size
        for split in self.splits:
            side, before = split_side(side, split), side
            if side < 1:
                raise UserError(
                    f"image_size {image_size} is too small for the soft splits {self.splits}: "
                    f"{split} gets a map of {before} x {before}; set smaller kernels or strides in "
                    "model.architecture_options.splits"
                )
        return side


def checked_splits(splits: Sequence[Sequence[int]]) -> tuple[tuple[int, int, int], ...]:
    """Plain triples out of what a config holds."""
    triples = [tuple(map(int, split)) for split in splits]
    for triple in triples or [()]:
        if len(triple) != 3 or triple[0] < 1 or triple[1] < 1 or triple[2] < 0:
            raise UserError(
                "splits must be a list of [kernel, stride, padding] such as [3, 2, 1], "
                f"got {[list(triple) for triple in triples]}"
            )
    return tuple((kernel, stride, padding) for kernel, stride, padding in triples)


def split_side(side: int, split: tuple[int, int, int]) -> int:
    """Number of patches along a side of ``side`` cells."""
    kernel, stride, padding = split
    return (side + 2 * padding - kernel) // stride + 1


def soft_split(x: Tensor, split: tuple[int, int, int]) -> Tensor:
    """Overlapping patches, each a token: (B, C, S, S) -> (B, L, C * kernel^2)."""
    kernel, stride, padding = split
    return F.unfold(x, kernel, stride=stride, padding=padding).transpose(1, 2)

"""Token-aware average pooling, TAP (TAP and ADL, arXiv 2303.11126).

Each token is averaged with its neighbourhood before it enters attention, over as wide an area as a
small network finds fit for it, so that attention rests on many tokens rather than on a few.

Shapes: B = batch, N = tokens, C = embed_dim, K = num_scales, (H, W) = grid of patches.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropkey_core.equip.apply import Select
from dropkey_core.equip.equipped import original_name
from dropkey_core.variants import blocks

# What blocks call the normalisation before their attention.
_NORMS = ("norm1", "ln_1", "layernorm_before")


class TokenPooling(nn.Module):
    """Mixes each token with means over its neighbourhood, by weights of its own.

    Branch 0 is the token itself, branch i >= 1 the mean over 3 x 3 tokens at distances i; tokens
    beyond the border count as zeros. One weight for each position and branch, shared by the
    channels. Prefix tokens (class token, registers) come first and stay as they are.

    Args:
        embed_dim: width C of the tokens.
        num_scales: number K of branches.
        grid: rows and columns of patches. None: a square.
        num_prefix_tokens: tokens before the patches. None: what ``grid`` leaves, or without it
            none or one, whichever leaves a square.

    Attributes:
        predictor: convolution, batch normalisation, convolution: the logits of the weights.

    Raises:
        ValueError: ``num_scales`` below 2.
    """

    def __init__(
        self,
        embed_dim: int,
        num_scales: int = 4,
        grid: tuple[int, int] | None = None,
        num_prefix_tokens: int | None = None,
    ) -> None:
        super().__init__()
        if num_scales < 2:
            raise ValueError(f"num_scales must be at least 2, got {num_scales}: 1 pools nothing")
        self.predictor = nn.Sequential(
            nn.Conv2d(embed_dim, num_scales, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(num_scales),
            nn.Conv2d(num_scales, num_scales, kernel_size=3, padding=1, bias=False),
        )
        self.num_scales = num_scales
        self.grid = grid
        self.num_prefix_tokens = num_prefix_tokens

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool tokens.

        Args:
            tokens: (B, N, C), patches row by row after the prefix tokens, or (B, H, W, C).

        Returns:
            tokens of the same shape

        Raises:
            ValueError: the patches are on no such grid.
        """
        if tokens.dim() == 4:
            return self._pool(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (B, H, W, C)
        num_prefix_tokens, grid = self._layout(tokens.shape[1])
        patches = tokens[:, num_prefix_tokens:].transpose(1, 2).unflatten(2, grid)  # (B, C, H, W)
        pooled = self._pool(patches).flatten(2).transpose(1, 2)  # (B, H * W, C)
        return torch.cat((tokens[:, :num_prefix_tokens], pooled), 1)

    def extra_repr(self) -> str:
        """Return what the module's ``repr`` says of its settings."""
        grid = "" if self.grid is None else f", grid={tuple(self.grid)}"
        return f"num_scales={self.num_scales}{grid}, num_prefix_tokens={self.num_prefix_tokens}"

    def _pool(self, patches: Tensor) -> Tensor:
        """Return sum over k of weight k times branch k, (B, C, H, W)."""
        weights = self.predictor(patches).softmax(1).to(patches.dtype)  # (B, K, H, W)
        pooled = weights[:, :1] * patches
        for dilation in range(1, self.num_scales):
            weight = weights[:, dilation : dilation + 1]
            pooled = pooled + weight * _dilated_mean(patches, dilation)
        return pooled

    def _layout(self, num_tokens: int) -> tuple[int, tuple[int, int]]:
        """Return how many of the tokens are prefix tokens, and the grid of the others."""
        if self.num_prefix_tokens is not None:
            prefix = self.num_prefix_tokens
        elif self.grid is not None:
            prefix = num_tokens - self.grid[0] * self.grid[1]
        else:
            prefix = 0 if math.isqrt(num_tokens) ** 2 == num_tokens else 1
        num_patches = num_tokens - prefix
        side = math.isqrt(max(num_patches, 0))
        height, width = self.grid or (side, side)
        if prefix < 0 or height * width != num_patches or not num_patches:
            expected = "a square" if self.grid is None else f"a {height} x {width} grid"
            raise ValueError(
                f"token pooling needs patches on {expected}, got {num_tokens} tokens with "
                f"num_prefix_tokens {self.num_prefix_tokens}: set grid=(rows, columns) and "
                "num_prefix_tokens"
            )
        return prefix, (height, width)


def apply_token_pooling(
    network: nn.Module,
    num_scales: int = 4,
    *,
    grid: tuple[int, int] | None = None,
    num_prefix_tokens: int | None = None,
    select: Select | None = None,
) -> list[str]:
    """Pool the tokens that enter the self-attention of an equipped network; in place.

    The attention of a block sees norm1(pooled x); what its result is added to stays x. Each block
    gets a ``TokenPooling`` of its own, ``<block>.token_pooling``, whose initial values come from
    torch's generator. State dicts get its ``predictor.0.weight``, ``predictor.1.*`` (a
    BatchNorm2d) and ``predictor.2.weight``.

    Args:
        network: a model with attention that drops keys, in blocks that normalise before it;
            ``apply_dropkey(network, 0.0)`` makes it one without another effect.
        num_scales: number of branches, see ``TokenPooling``.
        grid: rows and columns of patches, of blocks that get tokens in a row. None: a square.
        num_prefix_tokens: tokens before the patches. None: as many as the network says or has
            parameters for (``cls_token`` and the like), or else see ``TokenPooling``.
        select: gets name and module of each attention; the blocks of those for which it returns
            True are changed. None: what ``self_attention`` returns.

    Returns:
        names of the blocks that now pool, in the order of the network

    Raises:
        ValueError: nothing drops keys; class or outlook attention was chosen; a block has no
            normalisation, or pools already; attention that expects the batch second. The network
            is then as it was.
    """
    grid = None if grid is None else (int(grid[0]), int(grid[1]))
    planned = {}
    for name, attention in blocks.self_attention(network, select).items():
        outer = blocks.block_name(network, name)
        block = network.get_submodule(outer)
        norm = _norm_before(outer, block, attention)
        prefix = num_prefix_tokens
        if prefix is None:
            prefix = blocks.num_prefix_tokens(network, outer) or None
        pooling = TokenPooling(norm.normalized_shape[-1], num_scales, grid, prefix)
        planned[outer] = (block, norm, attention, pooling)
    for outer, (block, norm, attention, pooling) in planned.items():
        like = next(attention.parameters())
        pooling.to(like.device, like.dtype).train(attention.training)
        block.add_module("token_pooling", pooling)
        hooks = _PoolBeforeNorm(pooling, outer)
        # First of all hooks: what is pooled is the block's input, before its scale is adjusted.
        norm.register_forward_pre_hook(hooks.pool, prepend=True)
        attention.register_forward_pre_hook(hooks.check)
    return list(planned)


def remove_token_pooling(network: nn.Module) -> None:
    """Undo ``apply_token_pooling``; nothing happens to a model without it."""
    for module in list(network.modules()):
        blocks.remove_hooks(module, _PoolBeforeNorm)
        if isinstance(getattr(module, "token_pooling", None), TokenPooling):
            del module.token_pooling


class _PoolBeforeNorm:
    """The hooks of one block.

    Attributes:
        pooling: the block's; the same object as ``block.token_pooling``.
        name: of the block.
        has_pooled: since attention last ran.
    """

    def __init__(self, pooling: TokenPooling, name: str) -> None:
        self.pooling = pooling
        self.name = name
        self.has_pooled = False

    def pool(self, norm: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self.has_pooled = True
        return (self.pooling(args[0]), *args[1:])

    def check(self, attention: nn.Module, args: tuple[Any, ...]) -> None:
        """Refuse blocks that normalise after attention, where its output would be pooled."""
        if not self.has_pooled:
            raise RuntimeError(
                f"token pooling needs blocks that normalise before their attention, "
                f"{self.name or 'the model'} does not: call remove_token_pooling"
            )
        self.has_pooled = False


def _norm_before(name: str, block: nn.Module, attention: nn.Module) -> Any:
    who = f"{name or 'the model'} ({type(block).__name__})"
    if hasattr(block, "token_pooling"):
        raise ValueError(f"{who} has token_pooling already: call remove_token_pooling first")
    if not getattr(attention, "batch_first", True):
        raise ValueError(
            f"token pooling needs tokens (B, N, C), but {who} has {original_name(attention)} with "
            "batch_first=False"
        )
    for norm in (getattr(block, attribute, None) for attribute in _NORMS):
        if hasattr(norm, "normalized_shape"):
            return norm
    raise ValueError(
        f"token pooling goes before the normalisation of a block, {who} has none called "
        f"{' or '.join(_NORMS)}: leave it out with select"
    )


def _dilated_mean(x: Tensor, dilation: int) -> Tensor:
    """Return the mean over 3 x 3 places at distances ``dilation``, zeros beyond the border.

    Rows first, then columns: four additions rather than nine.
    """
    height, width = x.shape[-2:]
    x = F.pad(x, (dilation,) * 4)  # (B, C, H + 2 * dilation, W + 2 * dilation)
    rows = [x[..., i * dilation : i * dilation + height, :] for i in range(3)]
    x = rows[0] + rows[1] + rows[2]  # (B, C, H, W + 2 * dilation)
    columns = [x[..., i * dilation : i * dilation + width] for i in range(3)]
    return (columns[0] + columns[1] + columns[2]) / 9

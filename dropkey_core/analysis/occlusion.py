"""Occlusion: a model without a part of its patches (arXiv 2208.02646, Table 3).

Random patches are taken away before the first attention block, from each image others. In a
sequence their tokens leave it, so that no attention sees them, and the class token stays; in a grid
(VOLO, Swin, any model with token-aware pooling), which must stay complete, their tokens become 0.

Shapes: B images, N tokens, P of them prefix tokens, C channels.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dropkey_core.equip.apply import attention_that_drops
from dropkey_core.equip.depth import block_around
from dropkey_core.variants.blocks import num_prefix_tokens
from dropkey_core.variants.token_pooling import TokenPooling


class PatchOrder:
    """In which order the patches of each image are taken away; the same until it is forgotten.

    Args:
        seed: decides all the orders.
    """

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._order: Tensor | None = None

    def forget(self) -> None:
        """Let the next images have orders of their own."""
        self._order = None

    def __call__(self, num_images: int, num_patches: int) -> Tensor:
        """(B, patches) int64: for each image a permutation of the patches."""
        if self._order is None:
            # Image by image, so that the batch size does not matter.
            noise = [torch.rand(num_patches, generator=self._generator) for _ in range(num_images)]
            self._order = torch.stack(noise).argsort(dim=1)
        return self._order


def occluded_forward(model: nn.Module, batch: Any, ratio: float, order: PatchOrder) -> Any:
    """Call ``model`` on ``batch`` without ``ratio`` of the patches, rounded to whole patches.

    Args:
        model: with equipped attention in blocks that take the tokens (B, N, C) or (B, h, w, C)
            first.
        batch: what it is called with.
        ratio: in [0, 1); 0 calls the model as it is.
        order: decides which patches; the first ones are taken away.

    Raises:
        ValueError: nothing drops keys, or not in blocks; a model that needs all of its tokens, as
            DETR for its positions and METRO for its vertices.
    """
    if not ratio:
        return model(batch)
    pools = any(isinstance(module, TokenPooling) for module in model.modules())

    def replace(tokens: Tensor, prefix: int) -> Tensor:
        is_sequence = tokens.ndim == 3
        patches = tokens[:, prefix:]
        order_of_patches = order(len(tokens), patches[0, ..., 0].numel()).to(tokens.device)
        if is_sequence and not pools:
            return without_patches(tokens, prefix, ratio, order_of_patches)
        empty = with_empty_patches(patches, ratio, order_of_patches)
        return torch.cat([tokens[:, :prefix], empty], dim=1)

    with _replaced_first_tokens(model, replace):
        try:
            return model(batch)
        except RuntimeError as error:  # of shapes that do not fit
            raise ValueError(
                f"{type(model).__name__} cannot do without a part of its tokens, as a classifier "
                f"can: {str(error).splitlines()[0]}"
            ) from error


@contextmanager
def _replaced_first_tokens(
    model: nn.Module, replace: Callable[[Tensor, int], Tensor]
) -> Iterator[None]:
    """Replace the tokens that the first block to be called gets.

    A block is the element of the innermost container (``ModuleList``, ``Sequential``) around an
    attention that drops keys.

    Args:
        model: any module with equipped attention in blocks.
        replace: (tokens, P) -> tokens, for a sequence (B, N, C) or a grid (B, h, w, C), whose P
            is 0.

    Raises:
        ValueError: nothing drops keys, or not in blocks.
    """
    names = dict.fromkeys(block_around(model, name) for name in attention_that_drops(model))
    blocks = [name for name in names if name is not None]
    if not blocks:
        raise ValueError(
            f"{type(model).__name__} has no blocks: its attention is in no ModuleList or Sequential"
        )
    # A model may hold an averaged copy of itself: only the blocks that are called count.
    called: list[str] = []

    def hook_of(name: str) -> Callable[..., Any]:
        prefix = num_prefix_tokens(model, name)

        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            called.append(name)
            if len(called) > 1:
                return None
            tokens, *rest = inputs
            return replace(tokens, prefix if tokens.ndim == 3 else 0), *rest

        return hook

    hooks = [model.get_submodule(b).register_forward_pre_hook(hook_of(b)) for b in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def without_patches(tokens: Tensor, prefix: int, ratio: float, order: Tensor) -> Tensor:
    """Take patches out of sequences; the others stay in their order.

    Args:
        tokens: (B, N, C).
        prefix: P, tokens before the patches, which stay.
        ratio: part to take away.
        order: (B, N - P), permutations.

    Returns:
        (B, N - k, C), k = ratio (N - P), rounded; a patch is left in any case
    """
    num_gone = _num_gone(ratio, order.shape[1])
    kept = order[:, num_gone:].sort(dim=1).values + prefix  # (B, N - P - k)
    patches = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))
    return torch.cat([tokens[:, :prefix], patches], dim=1)


def with_empty_patches(tokens: Tensor, ratio: float, order: Tensor) -> Tensor:
    """Set the tokens of patches to 0.

    Args:
        tokens: (B, h, w, C), or a sequence of patches (B, h w, C).
        ratio: part to take away.
        order: (B, h w), permutations.
    """
    gone = order[:, : _num_gone(ratio, order.shape[1])]
    kept = torch.ones_like(order, dtype=tokens.dtype).scatter(1, gone, 0.0)  # (B, h w)
    return tokens * kept.unflatten(1, tokens.shape[1:-1])[..., None]


def _num_gone(ratio: float, num_patches: int) -> int:
    return min(math.floor(ratio * num_patches + 0.5), num_patches - 1)

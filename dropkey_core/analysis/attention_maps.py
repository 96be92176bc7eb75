"""Attention maps of the class token, layer by layer (arXiv 2208.02646, Figure 5).

Shapes: B images of H x W pixels, h x w patches.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from dropkey_core.analysis.layers import class_token_layers, look, short_names


def class_attention_maps(model: nn.Module, inputs: Any, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return where the class token looks in each layer that has one.

    Args:
        model: with equipped attention, in eval mode.
        inputs: what it is called with.
        size: (H, W) of the images in it; says how many of the patches are in a row.

    Returns:
        layer -> (B, heads, h, w), the weights of the patches

    Raises:
        ValueError: nothing is equipped, no class token, or patches that form no grid.
    """
    with torch.no_grad():
        _, layers = look(model, inputs)
    layers = class_token_layers(layers)
    maps = {}
    for name, layer in zip(short_names([x.name for x in layers]), layers, strict=True):
        weights = layer.patch_weights
        assert weights is not None
        # In class attention over a sequence the class token is one of the keys, too.
        prefix = 1 if layer.is_class_attention and not layer.num_prefix else 0
        weights = weights[..., prefix:]
        maps[name] = weights.unflatten(-1, grid_of(weights.shape[-1], size)).float().cpu()
    return maps


def grid_of(num_patches: int, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches that are as nearly square as can be.

    Args:
        num_patches: h w.
        size: (H, W) of the image.

    Raises:
        ValueError: with no rows and columns patches would have sides of less than 2 : 1.
    """
    wanted = math.log(size[0] / size[1])
    rows = [h for h in range(1, num_patches + 1) if num_patches % h == 0]
    off = {h: abs(math.log(h / (num_patches // h)) - wanted) for h in rows}
    best = min(off, key=lambda h: off[h])
    if off[best] > math.log(2):
        raise ValueError(
            f"{num_patches} patches form no grid on an image of {size[1]} x {size[0]} pixels "
            "(width x height)"
        )
    return best, num_patches // best

"""Scale adjustment of DeepViT: both branches of a block see a x and are divided by a.

    x + attention(norm1(a x)) / a, then x + mlp(norm2(a x)) / a

Behind a LayerNorm the first a changes next to nothing, so the branches weigh 1 / a times as much
beside the residual path.
"""

from typing import Any

from torch import Tensor, nn

from dropkey_core.variants.hooks import remove_hooks

_NORMS = ("norm1", "norm2")
_BRANCHES = ("attn", "mlp")


class _BranchScale:
    """The hooks of one block. ``Any`` is what ``register_forward_hook`` wants of them."""

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio

    def multiply_input(self, norm: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0] * self.ratio, *args[1:])

    def divide_output(self, branch: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor):
            return output / self.ratio
        return (output[0] / self.ratio, *output[1:])


def adjust_scale(block: nn.Module, ratio: float, name: str) -> None:
    """Let the branches of a block see ``ratio`` x, and divide them by ``ratio``; in place.

    Args:
        block: pre-normalised, with ``norm1``, ``attn``, ``norm2`` and ``mlp``.
        ratio: above 0; DeepViT's S and L have 0.5.
        name: of the block, for the message.

    Raises:
        ValueError: the block has other parts.
    """
    missing = [part for part in (*_NORMS, *_BRANCHES) if not hasattr(block, part)]
    if missing:
        raise ValueError(
            f"scale_adjustment {ratio:g} needs blocks with norm1, attn, norm2 and mlp; "
            f"{name or 'the model'} ({type(block).__name__}) lacks {', '.join(missing)}: "
            "leave scale_adjustment at 1"
        )
    hooks = _BranchScale(ratio)
    for part in _NORMS:
        getattr(block, part).register_forward_pre_hook(hooks.multiply_input)
    for part in _BRANCHES:
        getattr(block, part).register_forward_hook(hooks.divide_output)


def remove_scale_adjustment(model: nn.Module) -> None:
    """Undo ``adjust_scale`` in all blocks of a model."""
    for module in model.modules():
        remove_hooks(module, _BranchScale)

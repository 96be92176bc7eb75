"""Tokens of a vision transformer: patches of an image, and prefix tokens before them.

Shapes: B images, N tokens, P of them prefix tokens (class, distillation, registers), C channels;
a grid has h x w tokens and no prefix.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, nn

from dropkey_core.equip.apply import attention_that_drops
from dropkey_core.equip.depth import block_around

# Parameters (..., tokens, C) that models put before the patches, by their names in timm,
# torchvision, transformers and official networks.
_PREFIX_NAMES = (
    "cls_token",
    "class_token",
    "dist_token",
    "distillation_token",
    "reg_token",
    "register_tokens",
)


def num_prefix_tokens(model: nn.Module, name: str) -> int:
    """Return how many tokens stand before the patches in a sequence.

    The nearest module around it decides that says so (timm's ``num_prefix_tokens``) or that has
    parameters which are named as such tokens are.

    Args:
        model: any module.
        name: of a module in it that gets the sequence.
    """
    while True:
        name = name.rpartition(".")[0]
        around = model.get_submodule(name)
        known = getattr(around, "num_prefix_tokens", None)
        if isinstance(known, int):
            return known
        lengths = {
            parameter_name.rpartition(".")[2]: parameter.shape[-2]
            for parameter_name, parameter in around.named_parameters()
            if parameter_name.rpartition(".")[2] in _PREFIX_NAMES
        }
        if lengths or not name:
            return sum(lengths.values())


@contextmanager
def replaced_first_tokens(
    model: nn.Module, replace: Callable[[Tensor, int], Tensor]
) -> Iterator[Callable[[], None]]:
    """Put other tokens in the place of those that the first block of each forward pass gets.

    Args:
        model: any module with equipped attention in blocks.
        replace: (tokens, P) -> tokens, for a sequence (B, N, C) or a grid (B, h, w, C), whose P
            is 0.

    A block is the element of the innermost container (``ModuleList``, ``Sequential``) around an
    attention that drops keys.

    Yields:
        a function to call before each forward pass: the first block called after it is meant

    Raises:
        ValueError: nothing drops keys, or not in blocks.
    """
    names = dict.fromkeys(block_around(model, name) for name in attention_that_drops(model))
    blocks = [name for name in names if name is not None]
    if not blocks:
        raise ValueError(
            f"{type(model).__name__} has no blocks: its attention is in no ModuleList or Sequential"
        )
    # Held in a list for the hooks; a model may hold an averaged copy of itself, and only the
    # blocks that are called count.
    armed = [False]

    def hook_of(name: str) -> Callable[..., Any]:
        prefix = num_prefix_tokens(model, name)

        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if not armed[0]:
                return None
            armed[0] = False
            tokens, *rest = inputs
            return replace(tokens, prefix if tokens.ndim == 3 else 0), *rest

        return hook

    def arm() -> None:
        armed[0] = True

    hooks = [model.get_submodule(b).register_forward_pre_hook(hook_of(b)) for b in blocks]
    try:
        yield arm
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def captured_dimensions(model: nn.Module) -> Iterator[dict[str, int]]:
    """Collect the number of axes of what each attention that drops keys gets.

    Yields:
        name of the attention -> 3 for a sequence, 4 for a grid; those that were not called are
        missing
    """
    dimensions: dict[str, int] = {}

    def hook_of(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            with suppress(StopIteration):
                tensors = (x for x in (*inputs, *named.values()) if isinstance(x, Tensor))
                dimensions[name] = next(tensors).ndim

        return hook

    hooks = [
        module.register_forward_pre_hook(hook_of(name), with_kwargs=True)
        for name, module in attention_that_drops(model).items()
    ]
    try:
        yield dimensions
    finally:
        for hook in hooks:
            hook.remove()

"""Capturing what attention does while a model runs: weights, and the shapes around it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dropkey_core.attention.modules import Observe
from dropkey_core.equip.apply import attention_that_drops
from dropkey_core.equip.equipped import temporary_attributes


@contextmanager
def captured_attention(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Collect the weights of all attention that drops keys, in training or evaluation.

    The weights are those that average the values: after the softmax, with keys dropped while
    training, with ``inference`` or ``reweigh`` at work where they are set. Outputs stay as they
    are, but for rounding and, since attention is computed explicitly, time and memory. Gradients
    flow into what is collected where they flow at all.

    Args:
        model: any module with attention that drops keys; a ratio of 0 is enough, and
            ``apply_dropkey(model, 0.0)`` equips a model without another effect.

    Yields:
        name of the attention in the model -> its weights (B, H, Lq, Lk), a tensor for each call;
        attention in windows or neighbourhoods has other axes before the last two

    Raises:
        ValueError: nothing drops keys.
    """
    modules = attention_that_drops(model)
    collected: dict[str, list[Tensor]] = {name: [] for name in modules}
    with ExitStack() as stack:
        for name, module in modules.items():
            observe = _observer(collected[name], vars(module).get("observe"))
            stack.enter_context(temporary_attributes(module, {"observe": observe}))
        yield collected


def _observer(collected: list[Tensor], outer: Observe | None) -> Observe:
    """Return what collects weights, and shows them to who observed before."""

    def observe(weights: Tensor) -> None:
        collected.append(weights)
        if outer is not None:
            outer(weights)

    return observe


@contextmanager
def captured_shape(module: nn.Module) -> Iterator[list[torch.Size]]:
    """Collect the shape of what a module returns, for each call inside the context."""
    collected: list[torch.Size] = []
    hook = module.register_forward_hook(lambda _, __, output: collected.append(output.shape))
    try:
        yield collected
    finally:
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
            tensors = [x for x in (*inputs, *named.values()) if isinstance(x, Tensor)]
            if tensors:
                dimensions[name] = tensors[0].ndim

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

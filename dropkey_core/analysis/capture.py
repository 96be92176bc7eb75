"""Capturing the attention weights of a model while it runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dropkey_core.attention.observation import Observe
from dropkey_core.equip.apply import attention_that_drops


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
    outer = {name: vars(module).get("observe") for name, module in modules.items()}
    for name, module in modules.items():
        module.observe = _observer(collected[name], outer[name])  # type: ignore[assignment]
    try:
        yield collected
    finally:
        for name, module in modules.items():
            del module.observe
            if outer[name] is not None:
                module.observe = outer[name]  # type: ignore[assignment]


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

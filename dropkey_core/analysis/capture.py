"""What happens inside a model while it runs, kept from outside and without a change to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def captured_weights(attention: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the weights (B, heads, Lq, Lk) of each call of an attention inside the context.

    What the call itself computes stays as it is: the weights are computed beside it.
    """
    collected: list[Tensor] = []

    def compute_weights(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        wanted = {**kwargs, "need_weights": True, "average_attn_weights": False}
        collected.append(module.forward(*args, **wanted)[1])  # forward() calls no hook again

    hook = attention.register_forward_pre_hook(compute_weights, with_kwargs=True)
    try:
        yield collected
    finally:
        hook.remove()


@contextmanager
def captured_shape(module: nn.Module) -> Iterator[list[torch.Size]]:
    """Collect the shape of what a module returns, for each call inside the context."""
    collected: list[torch.Size] = []
    hook = module.register_forward_hook(lambda _, __, output: collected.append(output.shape))
    try:
        yield collected
    finally:
        hook.remove()

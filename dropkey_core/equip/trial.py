"""Trial runs of a model: mode, buffers, hooks and random state are restored afterwards."""

import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dropkey_core.equip.watch import stop_watching


@contextmanager
def trial(model: nn.Module, training: bool) -> Iterator[None]:
    """Put a model into one mode for a while, without gradients; then undo what runs change.

    Put back are the mode of each module, all buffers (running statistics, caches), and the random
    state of torch, Python and numpy. Equipped attention forgets that it has dropped keys: training
    may run in other kernels, on another device. Compiled code is run as it was written, so that
    hooks see it, and who watches for the first training forward still waits for it afterwards.

    Args:
        model: any module.
        training: True for training mode, False for evaluation mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(module, _copied(module._buffers)) for module in model.modules()]
    hooks = [(module, dict(module._forward_hooks)) for module in model.modules()]
    equipped = [vars(m)["_dropkey"] for m in model.modules() if "_dropkey" in vars(m)]
    attended = [equipment.has_attended for equipment in equipped]
    for module in model.modules():
        stop_watching(module)
    model.train(training)
    try:
        with (
            torch.no_grad(),
            _same_random_state(model),
            torch.compiler.set_stance("force_eager"),
        ):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for module, of_module in buffers:
            _put_back(module, of_module)
        for equipment, has_attended in zip(equipped, attended, strict=True):
            equipment.has_attended = has_attended
        for module, before in hooks:
            module._forward_hooks.clear()
            module._forward_hooks.update(before)


def call(model: nn.Module, inputs: Any) -> Any:
    """Call a model with a tuple of arguments, a dictionary of named ones, or one argument."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def _copied(buffers: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return name -> (the buffer itself, a copy of its numbers)."""
    return {n: (x, None if x is None else x.detach().clone()) for n, x in buffers.items()}


def _put_back(module: nn.Module, buffers: dict[str, tuple[Any, Any]]) -> None:
    module._buffers.clear()
    for name, (buffer, numbers) in buffers.items():
        module._buffers[name] = buffer
        if buffer is not None and not buffer.is_meta and not torch.equal(buffer, numbers):
            with torch.no_grad():
                buffer.copy_(numbers)


@contextmanager
def _same_random_state(model: nn.Module) -> Iterator[None]:
    devices = {p.device for p in model.parameters() if p.device.type not in ("cpu", "meta")}
    kind = next(iter(devices)).type if devices else "cuda"
    numpy_random = getattr(sys.modules.get("numpy"), "random", None)
    python_state = random.getstate()
    numpy_state = numpy_random and numpy_random.get_state()
    try:
        with torch.random.fork_rng([device.index for device in devices], device_type=kind):
            yield
    finally:
        random.setstate(python_state)
        if numpy_random:
            numpy_random.set_state(numpy_state)

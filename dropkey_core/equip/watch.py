"""Forward hook that warns of equipped attention which the first training step does not reach.

Code around attention may use its parts (``attn.qkv``, ``attn.proj``) and never call it, or may have
put another ``forward`` in its place. Then nothing is dropped, which only a run can tell.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

# More names than these would hide the message.
_MOST_NAMES = 8


class FirstForward:
    """Forward hook of a stack that tells once which of its attention was not reached.

    It does nothing in evaluation, without gradients, in compiled code and while all ratios are 0,
    as at the start of a ramp; it removes itself when it has seen the first other training forward.

    Args:
        sites: name in the model -> equipped attention.
    """

    def __init__(self, sites: dict[str, nn.Module]) -> None:
        self.sites = sites

    def __call__(self, owner: nn.Module, args: Any, output: Any) -> None:
        """See which attention the forward that has just ended did not reach."""
        is_trial = not owner.training or not torch.is_grad_enabled()
        drops = any(vars(site).get("drop_ratio") for site in self.sites.values())
        if is_trial or not drops or torch.compiler.is_compiling():
            return
        stop_watching(owner)
        compiled = [m for m in owner.modules() if _is_compiled(m)]
        hidden = {inner for outer in compiled for inner in outer.modules()}
        missed = [n for n, m in self.sites.items() if m not in hidden and _is_missed(m)]
        if missed:
            warnings.warn(_explain(owner, missed), stacklevel=2)


def watch_first_forward(model: nn.Module, stacks: Mapping[str, str]) -> None:
    """Tell once, in the first training forward of each stack, which attention was not reached.

    Args:
        model: where the attention is.
        stacks: name of equipped attention -> name of the module that owns its stack.

    Warns:
        UserWarning: in that forward, if there is any.
    """
    for module in model.modules():
        stop_watching(module)
    for stack in dict.fromkeys(stacks.values()):
        sites = {name: model.get_submodule(name) for name in stacks if stacks[name] == stack}
        sites = {name: module for name, module in sites.items() if hasattr(module, "_dropkey")}
        owner = model.get_submodule(stack)
        if sites and owner not in sites.values():
            owner.register_forward_hook(FirstForward(sites))


def stop_watching(owner: nn.Module) -> None:
    """Take the hook away that ``watch_first_forward`` may have put on a module."""
    for key, hook in list(owner._forward_hooks.items()):
        if isinstance(hook, FirstForward):
            del owner._forward_hooks[key]


def _is_missed(module: nn.Module) -> bool:
    equipment = vars(module).get("_dropkey")  # gone after remove_dropkey
    if equipment is None or not module.training or module.drop_ratio == 0.0:
        return False
    return not equipment.has_attended


def _is_compiled(module: nn.Module) -> bool:
    """Return whether a module runs compiled, in which calls leave no mark."""
    return module._compiled_call_impl is not None or hasattr(module, "_orig_mod")


def _explain(owner: nn.Module, missed: list[str]) -> str:
    more = f" and {len(missed) - _MOST_NAMES} more" if len(missed) > _MOST_NAMES else ""
    return (
        f"apply_dropkey: the first training forward of {type(owner).__name__} reached no attention "
        f"in {', '.join(missed[:_MOST_NAMES])}{more}, so nothing was dropped there; either this "
        "batch had no use for it, or the code around it uses its parts without calling it, where "
        "DropKey cannot act"
    )

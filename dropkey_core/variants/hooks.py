"""Removable forward hooks that a copied or unpickled model still knows."""

from torch import nn


def remove_hooks(module: nn.Module, owner: type) -> None:
    """Remove the forward hooks of a module that are methods of an instance of ``owner``.

    Handles would do for the model itself, but copies of it have none.

    Args:
        module: whose hooks, not those of its children, are looked at.
        owner: a class.
    """
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(getattr(hook, "__self__", None), owner):
                del hooks[key]

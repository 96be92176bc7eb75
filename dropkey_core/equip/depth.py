"""Execution order of a model's attention: stacks, and their layers from first to last.

The rule, which knows names and containers only (``ModuleList``, ``Sequential``, ``ModuleDict``):

* a *layer* is the element of the innermost container that holds the attention, so self- and
  cross-attention of ``decoder.layers.3`` are one layer, and ``layers.1.blocks.0`` is one of Swin;
* a *stack* is all the layers whose outermost container belongs to the same module: the stages of
  Swin and VOLO, which hang on one model, are one stack; encoder and decoder, which have their
  layers each, are two;
* attention in no container is a layer by itself, of the stack of the nearest module around it that
  has one, or else of the model;
* layers run in the order in which they were registered.
"""

from collections.abc import Iterable

from torch import nn

_CONTAINERS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)


def layers_of_stacks(model: nn.Module, names: Iterable[str]) -> dict[str, list[list[str]]]:
    """Sort attention modules into stacks and layers.

    Args:
        model: where they are.
        names: their names in it, in the order in which they were registered.

    Returns:
        name of the module that owns the stack ("" is the model) -> its layers, first to last ->
        the names of the attention modules in the layer
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    containers = {name: _containers_around(name, modules) for name in names}
    owners = {name: _parent(around[0]) for name, around in containers.items() if around}
    known = set(owners.values())
    stacks: dict[str, dict[str, list[str]]] = {}
    for name, around in containers.items():
        owner = owners[name] if around else _nearest(name, known)
        layer = _element(name, around[-1]) if around else name
        stacks.setdefault(owner, {}).setdefault(layer, []).append(name)
    return {owner: list(layers.values()) for owner, layers in stacks.items()}


def block_around(model: nn.Module, name: str) -> str | None:
    """Return the name of the block that a module is in: the element of the innermost container.

    Args:
        model: where it is.
        name: of the module, such as "blocks.3.attn"; its block is "blocks.3".

    Returns:
        the name, which may be the module's own; None if it is in no container
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    around = _containers_around(name, modules)
    return _element(name, around[-1]) if around else None


def _containers_around(name: str, modules: dict[str, nn.Module]) -> list[str]:
    """Return the names of the containers that a module is in, outermost first."""
    around = [name]
    while around[0]:
        around.insert(0, _parent(around[0]))
    return [outer for outer in around[:-1] if isinstance(modules[outer], _CONTAINERS)]


def _nearest(name: str, owners: set[str]) -> str:
    while name and name not in owners:
        name = _parent(name)
    return name


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _element(name: str, container: str) -> str:
    """Return the name of the element of ``container`` that a module is in."""
    prefix = f"{container}." if container else ""
    return prefix + name[len(prefix) :].split(".")[0]

"""Execution order of a model's attention: stacks, and their layers from first to last.

The rule, which knows names and containers only (``ModuleList``, ``Sequential``, ``ModuleDict``):

* a *layer* is the element of the innermost container that holds the attention, so self- and
  cross-attention of ``decoder.layers.3`` are one layer, and ``layers.1.blocks.0`` is one of Swin;
* where that container is a layer itself, it holds attention and a feed-forward network as elements
  of their own (T5's ``block.3.layer``, ``layers.3`` in lucidrains' repositories): the layer is then
  the element of the next container around it;
* a *stack* is all the layers whose outermost container belongs to the same module: the stages of
  Swin and VOLO, which hang on one model, are one stack; encoder and decoder, which have their
  layers each, are two;
* a ``ModuleDict`` of stacks names them: each of its elements is a stack, or has stacks;
* a stack that runs between the layers of the stack of a module around it is a part of that one, as
  the middle of a U-Net;
* attention in no container is a layer by itself, of the stack of the nearest module around it that
  has one, or else of the model;
* layers run in the order in which they are given: that of registration, or the ``first_calls`` of
  a run. A layer that runs many times (ALBERT) has the place of its first run.
"""

from collections.abc import Iterable
from typing import Any

from torch import nn

from dropkey_core.equip.trial import call, trial

_CONTAINERS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)


def layers_of_stacks(model: nn.Module, names: Iterable[str]) -> dict[str, list[list[str]]]:
    """Sort attention modules into stacks and layers.

    Args:
        model: where they are.
        names: their names in it, in the order in which they run or were registered.

    Returns:
        name of the module that owns the stack ("" is the model) -> its layers, first to last ->
        the names of the attention modules in the layer
    """
    names = list(names)
    containers = _Containers(model, names)
    owners = {name: containers.owner_of(name) for name in names}
    known = {owner for owner in owners.values() if owner is not None}
    owned = [_nearest(n, known) if owner is None else owner for n, owner in owners.items()]
    stacks: dict[str, dict[str, list[str]]] = {}
    for name, owner in zip(names, _with_those_between(owned), strict=True):
        layers = stacks.setdefault(owner, {})
        layers.setdefault(containers.layer_of(name), []).append(name)
    return {owner: list(layers.values()) for owner, layers in stacks.items()}


def first_calls(model: nn.Module, names: Iterable[str], inputs: Any) -> list[str]:
    """Run a model once in evaluation mode, and tell which modules are called, in which order.

    The model is afterwards as it was, see ``trial``.

    Args:
        model: any module.
        names: of modules in it.
        inputs: what it is called with: a tuple of arguments, a dictionary of named ones, or one.

    Returns:
        the names of those that were called, ordered by their first call

    Raises:
        ValueError: the model cannot be run on them.
    """
    called: dict[str, None] = {}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda *_, name=name: called.setdefault(name), prepend=True
        )
        for name in names
    ]
    try:
        with trial(model, training=False):
            call(model, inputs)
    except Exception as error:
        raise ValueError(
            f"{type(model).__name__} cannot be run on example_inputs: {type(error).__name__}: "
            f"{error}; give a tuple of its arguments, a dictionary of named ones, or the only one"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return list(called)


def block_around(model: nn.Module, name: str) -> str | None:
    """Return the name of the block that a module is in: the element of the innermost container.

    Args:
        model: where it is.
        name: of the module, such as "blocks.3.attn"; its block is "blocks.3".

    Returns:
        the name, which may be the module's own; None if it is in no container
    """
    around = _Containers(model, [name]).around[name]
    return _element(name, around[-1]) if around else None


class _Containers:
    """The containers around attention modules, outermost first.

    Args:
        model: where they are.
        names: of the attention modules.

    Attributes:
        around: name of the attention -> names of its containers, outermost first.
        layers: containers that are a layer each.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.around = {name: self._around(name) for name in names}
        innermost = {around[-1] for around in self.around.values() if len(around) > 1}
        self.layers = {container for container in innermost if self._is_layer(container)}

    def layer_of(self, name: str) -> str:
        """Return the name of the layer that an attention module is in."""
        around = self.around[name]
        if len(around) > 1 and around[-1] in self.layers:
            around = around[:-1]
        return _element(name, around[-1]) if around else name

    def owner_of(self, name: str) -> str | None:
        """Return the name of the module that owns the stack; None if it is in no container."""
        around, least = self.around[name], ""
        while around and self._names_stacks(around[0]):
            least, around = _element(name, around[0]), around[1:]
        return max(_parent(around[0]), least, key=len) if around else None

    def _around(self, name: str) -> list[str]:
        around = [name]
        while around[0]:
            around.insert(0, _parent(around[0]))
        return [outer for outer in around[:-1] if isinstance(self.modules[outer], _CONTAINERS)]

    def _is_layer(self, container: str) -> bool:
        """Return whether a container has attention in some elements and weights in others only."""
        inside = {name for name, around in self.around.items() if container in around}
        holding = {_element(name, container) for name in inside}
        elements = {
            f"{container}.{n}": child for n, child in self.modules[container].named_children()
        }
        weighty = {name for name, child in elements.items() if _has_weights(name, child, inside)}
        return not weighty & holding and bool(weighty)

    def _names_stacks(self, container: str) -> bool:
        """Return whether a container is a dictionary of stacks rather than one of layers."""
        if type(self.modules[container]) is not nn.ModuleDict:
            return False
        inside = [name for name, around in self.around.items() if around[:1] == [container]]
        inside = [name for name in inside if len(self.around[name]) > 1]
        layers = {self.layer_of(name) for name in inside}
        return len(layers) > len({_element(name, container) for name in inside})


def _has_weights(name: str, module: nn.Module, attention: set[str]) -> bool:
    """Return whether a module has matrices that belong to none of the attention in it."""
    return any(
        parameter.dim() > 1 and not any(f"{name}.{n}".startswith(f"{a}.") for a in attention)
        for n, parameter in module.named_parameters()
    )


def _with_those_between(owners: list[str]) -> list[str]:
    """Give what runs between the layers of an outer owner to that one."""
    places: dict[str, list[int]] = {}
    for place, owner in enumerate(owners):
        places.setdefault(owner, []).append(place)

    def holds(outer: str, owner: str) -> bool:
        around, own = places[outer], places[owner]
        is_around = owner == outer or is_inside(owner, outer)
        return is_around and around[0] <= own[0] and own[-1] <= around[-1]

    return [min((o for o in places if holds(o, owner)), key=len) for owner in owners]


def is_inside(name: str, outer: str) -> bool:
    """Return whether a module is inside another one, by their names; "" is the model."""
    return name != outer and (not outer or name.startswith(f"{outer}."))


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

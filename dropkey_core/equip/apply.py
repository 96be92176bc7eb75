"""Equipping a model that exists with DropKey in one line, and undoing it.

The ratio is spread over the layers of each stack by the schedule; ``depth`` says what a stack and a
layer are. ``recognition`` says which modules are attention.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from dropkey_core.attention.functional import Inference
from dropkey_core.attention.patterns import Pattern
from dropkey_core.attention.places import Unit, find_unit
from dropkey_core.attention.schedule import LINEAR_DECREASING, Schedule, drop_ratios
from dropkey_core.equip.depth import layers_of_stacks
from dropkey_core.equip.equipped import EquippedAttention, drops_keys, equip, unequip
from dropkey_core.equip.recognition import LeftOut, find_attention

Select = Callable[[str, nn.Module], bool]


@dataclass(frozen=True)
class EquippedSite:
    """One attention module that drops keys.

    Attributes:
        name: its name in the model.
        class_name: the name of its original class.
        drop_ratio: probability that a query loses a key.
        stack: name of the module whose layers share the schedule; "" is the model itself.
    """

    name: str
    class_name: str
    drop_ratio: float
    stack: str


@dataclass(frozen=True)
class DropKeyReport:
    """What drops keys now, and what does not though it looks like attention.

    Attributes:
        equipped: stack by stack, in depth order.
        left_out: in the order of the model.
    """

    equipped: tuple[EquippedSite, ...]
    left_out: tuple[LeftOut, ...] = ()

    def __str__(self) -> str:
        """Return a table, a line for each module."""
        modules = _count(len(self.equipped), "attention module")
        stacks = _count(len({site.stack for site in self.equipped}), "stack")
        lines = [f"DropKey in {modules}, {stacks}"]
        lines += _table(
            (site.name or "(the model)", site.class_name, f"{site.drop_ratio:.4f}")
            for site in self.equipped
        )
        if self.left_out:
            lines += [f"Left out: {len(self.left_out)}", *_grouped(self.left_out)]
        return "\n".join(lines)


def apply_dropkey(
    model: nn.Module,
    drop_ratio: float | Sequence[float],
    schedule: str | Schedule = LINEAR_DECREASING,
    *,
    unit: str | Pattern | Unit = "key",
    select: Select | None = None,
) -> DropKeyReport:
    """Make the attention of a model drop keys while training; in place.

    Works on models of ``torch.nn``, timm, torchvision, transformers and your own, see
    ``recognition``. Parameters, the keys of the state dict, hooks and the class as ``isinstance``
    sees it stay; evaluation gives the same numbers to the last bit. Every equipped module gets
    the attributes ``drop_ratio``, ``unit`` and ``inference``, which may be changed at any time.
    DropKey takes the place of the module's own dropout of attention weights as long as its
    ``drop_ratio`` is above 0. Modules of ours that are in the model are set likewise.

    A module whose attention turns out not to be computed by torch's softmax or fused attention
    (flash-attn, xformers) raises a ``RuntimeError`` in its first training step.

    Call it on a part (``model.encoder``) to give that part a schedule of its own.

    Args:
        model: any module.
        drop_ratio: probability in [0, 1) that a query of a head loses a key; the largest of a
            stack. Or a list, one ratio for each layer.
        schedule: how the ratio changes with depth, see ``drop_ratios``.
        unit: what is dropped, see ``drop_key_attention``.
        select: gets name and module of each attention found; only those for which it returns True
            are equipped, and only they count as layers. None: all.

    Returns:
        which modules drop keys now, and which were left out, with the reason; print it

    Warns:
        UserWarning: something looks like attention and cannot be equipped.

    Raises:
        ValueError: no attention to equip; unknown ``schedule`` or ``unit``; ``drop_ratio`` outside
            [0, 1).
    """
    find_unit(unit)  # refuses an unknown one before anything is changed
    found, lookalikes = find_attention(model)
    is_selected = {
        name: select is None or select(name, model.get_submodule(name))
        for name in [*found, *(lookalike.name for lookalike in lookalikes)]
    }
    chosen = {name: module for name, module in found.items() if is_selected[name]}
    skipped = [
        LeftOut(name, _class_name(module), "select returned False")
        for name, module in found.items()
        if not is_selected[name]
    ]
    if not chosen:
        raise ValueError(_explain_nothing(model, [*skipped, *lookalikes]))
    report = DropKeyReport(_spread(model, chosen, drop_ratio, schedule), (*skipped, *lookalikes))
    for site in report.equipped:
        module = chosen[site.name]
        kept = {name: getattr(module, name, None) for name in ("inference", "reweigh")}
        equip(module, site.drop_ratio, unit, **kept)
    _warn_of([lookalike for lookalike in lookalikes if is_selected[lookalike.name]])
    return report


def set_drop_ratio(
    model: nn.Module,
    drop_ratio: float | Sequence[float],
    schedule: str | Schedule = LINEAR_DECREASING,
) -> DropKeyReport:
    """Spread another drop ratio over the attention that drops keys already.

    That is what ``apply_dropkey`` equipped and every ``MultiheadAttention`` of ours, in the same
    order of depth.

    Args:
        model: any module.
        drop_ratio: probability in [0, 1) that a query of a head loses a key; the largest of a
            stack. Or a list, one ratio for each layer.
        schedule: how the ratio changes with depth, see ``drop_ratios``.

    Returns:
        the modules and their ratios

    Raises:
        ValueError: nothing drops keys; unknown ``schedule``; ``drop_ratio`` outside [0, 1).
    """
    modules = attention_that_drops(model)
    report = DropKeyReport(_spread(model, modules, drop_ratio, schedule))
    for site in report.equipped:
        modules[site.name].drop_ratio = site.drop_ratio  # type: ignore[assignment]
    return report


def set_inference(model: nn.Module, inference: Inference | None) -> None:
    """Say what takes the place of the softmax in evaluation, everywhere in a model.

    Args:
        model: any module with attention that drops keys.
        inference: (logits, drop_ratio) -> weights, such as ``alignment.Expected()``; None: the
            plain softmax.

    Raises:
        ValueError: nothing drops keys.
    """
    for module in attention_that_drops(model).values():
        module.inference = inference  # type: ignore[assignment]


def remove_dropkey(model: nn.Module) -> None:
    """Undo ``apply_dropkey``: every module is what it was before.

    Modules of ours that were in the model get their former settings back. Nothing happens to a
    model that was not equipped.

    Args:
        model: any module.
    """
    for module in model.modules():
        unequip(module)


def attention_that_drops(model: nn.Module) -> dict[str, nn.Module]:
    """Return the attention that drops keys, by name: equipped, or ours to begin with.

    Args:
        model: any module; it may be attention itself.

    Raises:
        ValueError: nothing drops keys.
    """
    modules = {name: module for name, module in model.named_modules() if drops_keys(module)}
    if not modules:
        raise ValueError(
            f"{type(model).__name__} has no equipped attention: call apply_dropkey first"
        )
    return modules


def _spread(
    model: nn.Module,
    modules: dict[str, nn.Module],
    drop_ratio: float | Sequence[float],
    schedule: str | Schedule,
) -> tuple[EquippedSite, ...]:
    """Give every attention module the ratio of its layer, stack by stack."""
    return tuple(
        EquippedSite(name, _class_name(modules[name]), layer_ratio, stack)
        for stack, layers in layers_of_stacks(model, modules).items()
        for layer, layer_ratio in zip(
            layers, drop_ratios(len(layers), drop_ratio, schedule), strict=True
        )
        for name in layer
    )


def _class_name(module: nn.Module) -> str:
    cls = module.original_class if isinstance(module, EquippedAttention) else type(module)
    return cls.__name__


def _warn_of(lookalikes: list[LeftOut]) -> None:
    if lookalikes:
        warnings.warn(
            "apply_dropkey left out what looks like attention, which select can do without this "
            "warning:\n" + "\n".join(_grouped(lookalikes)),
            stacklevel=3,
        )


def _explain_nothing(model: nn.Module, left_out: list[LeftOut]) -> str:
    message = (
        f"{type(model).__name__} has no attention to equip: looked for torch.nn.MultiheadAttention "
        "and for classes that are called attention and whose code calls softmax or "
        "scaled_dot_product_attention"
    )
    return "; left out: ".join([message, *(line.strip() for line in _grouped(left_out))])


def _grouped(left_out: Iterable[LeftOut]) -> list[str]:
    """Return a line for each class and reason, with the first name and how many more there are."""
    groups: dict[tuple[str, str], list[str]] = {}
    for out in left_out:
        groups.setdefault((out.class_name, out.reason), []).append(out.name or "(the model)")
    return _table(
        (names[0] + (f" and {len(names) - 1} more" if names[1:] else ""), class_name, reason)
        for (class_name, reason), names in groups.items()
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]

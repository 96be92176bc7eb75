"""``apply_dropkey``: equip the attention of an existing model in one line, and undo it.

The ratio is spread over the layers of each stack by the schedule; ``depth`` says what a stack and a
layer are. ``recognition`` says which modules are attention.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

from torch import nn

from dropkey_core.attention.functional import Inference
from dropkey_core.attention.patterns import Pattern
from dropkey_core.attention.places import Unit
from dropkey_core.attention.schedule import (
    LINEAR_DECREASING,
    Schedule,
    check_drop_ratio,
    drop_ratios,
)
from dropkey_core.equip.depth import first_calls, is_inside, layers_of_stacks
from dropkey_core.equip.equipped import (
    check_unit,
    drops_keys,
    equip,
    original_name,
    settings_of,
    unequip,
)
from dropkey_core.equip.recognition import LeftOut, find_attention, why_never
from dropkey_core.equip.report import DropKeyReport, EquippedSite, count, first_of, grouped
from dropkey_core.equip.watch import watch_first_forward

# Name in the model and module -> whether it is meant.
Select = Callable[[str, nn.Module], bool]
Include = Select | Iterable[str | type[nn.Module]]
# A ratio to be spread, the ratio of each layer, or name of the attention -> its ratio.
DropRatio = float | Sequence[float] | Callable[[str], float]

# Where attention keeps its place in the order of execution, if a run has told it.
_PLACE = "_dropkey_place"


def apply_dropkey(
    model: nn.Module,
    drop_ratio: DropRatio,
    schedule: str | Schedule = LINEAR_DECREASING,
    *,
    unit: str | Pattern | Unit = "key",
    select: Select | None = None,
    include: Include = (),
    example_inputs: Any = None,
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
            stack. Or a list, the ratio of each layer of every stack. Or a callable, name of the
            attention -> its ratio; a list and a callable leave nothing to a schedule.
        schedule: how the ratio changes with depth, see ``drop_ratios``.
        unit: what is dropped, see ``drop_key_attention``.
        select: gets name and module of each attention found; only those for which it returns True
            are equipped, and only they count as layers. None: all.
        include: modules to equip besides, which are not found to be attention: their names or
            classes, or a callable that gets name and module of each module and returns True for
            them. Every softmax over the last axis and every fused attention in them drops keys.
        example_inputs: what the model is called with: a tuple of arguments, a dictionary of named
            ones, or the only one. It is run once in evaluation mode, without gradients and without
            a trace, and the layers of a stack are ordered as they run. None: as they were
            registered, which is another order in U-Nets and some decoders.

    Returns:
        which modules drop keys now, and which were left out, with the reason; print it

    Warns:
        UserWarning: something looks like attention and cannot be equipped; ``example_inputs`` did
            not reach all attention.

    Raises:
        ValueError: no attention to equip; unknown ``schedule`` or ``unit``; a ratio outside
            [0, 1); a list of ratios that fits no stack; ``include`` names what is not there or
            cannot be equipped; the model cannot be run on ``example_inputs``.
    """
    found, lookalikes = find_attention(model)
    included = _included(model, include)
    kept = {name for name, module in found.items() if select is None or select(name, module)}
    chosen = {n: m for n, m in model.named_modules() if n in kept or n in included}
    refused = [
        LeftOut(name, original_name(module), _why_refused(module))
        for name, module in found.items()
        if name not in chosen
    ]
    lookalikes = [lookalike for lookalike in lookalikes if lookalike.name not in chosen]
    if not chosen:
        raise ValueError(_explain_nothing(model, refused, lookalikes))
    _refuse_nested(chosen, included)
    for module in chosen.values():
        check_unit(module, unit)  # before anything is changed
    places = _places(model, chosen, example_inputs)
    sites = _spread(model, chosen, places, drop_ratio, schedule)
    for site in sites:
        equip(chosen[site.name], site.drop_ratio, unit)
        _set_place(chosen[site.name], places.get(site.name))
    watch_first_forward(model, {site.name: site.stack for site in sites})
    _warn_of(
        [x for x in lookalikes if select is None or select(x.name, model.get_submodule(x.name))]
    )
    return DropKeyReport(sites, (*refused, *lookalikes))


def set_drop_ratio(
    model: nn.Module, drop_ratio: DropRatio, schedule: str | Schedule = LINEAR_DECREASING
) -> DropKeyReport:
    """Spread another drop ratio over the attention that drops keys already.

    That is what ``apply_dropkey`` equipped and every ``DropKey`` and ``MultiheadAttention`` of
    ours, but for one with dropout of weights, in the same order of depth. It may be called before
    each step of a training.

    Args:
        model: any module.
        drop_ratio: a ratio in [0, 1), a list or a callable, see ``apply_dropkey``.
        schedule: how the ratio changes with depth, see ``drop_ratios``.

    Returns:
        the modules and their ratios

    Raises:
        ValueError: nothing drops keys; unknown ``schedule``; a ratio outside [0, 1); a list of
            ratios that fits no stack.
    """
    modules = {n: m for n, m in attention_that_drops(model).items() if why_never(m) is None}
    if not modules:
        raise ValueError(f"{type(model).__name__} drops no keys: all its attention has dropout")
    places = {n: vars(m)[_PLACE] for n, m in modules.items() if _PLACE in vars(m)}
    report = DropKeyReport(_spread(model, modules, places, drop_ratio, schedule))
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
        ValueError: nothing drops keys; ``inference`` is a class or cannot be called.
    """
    if isinstance(inference, type):
        raise ValueError(
            f"inference must be an object such as {inference.__name__}(), got the class"
        )
    if inference is not None and not callable(inference):
        raise ValueError(
            "inference must be None or a callable (logits, drop_ratio) -> weights such as "
            f"Expected(), got {inference!r}"
        )
    modules = attention_that_drops(model)
    bare = [name for name, module in modules.items() if "inference" not in settings_of(module)]
    if bare and inference is not None:
        raise ValueError(
            "a DropKey leaves the softmax to the code around it, and inference cannot take its "
            f"place: {first_of(bare)}"
        )
    for name in modules.keys() - bare:
        modules[name].inference = inference  # type: ignore[assignment]


def remove_dropkey(model: nn.Module) -> None:
    """Undo ``apply_dropkey``: every module is what it was before.

    Modules of ours that were in the model get their former settings back. Nothing happens to a
    model that was not equipped.

    Args:
        model: any module.
    """
    for module in model.modules():
        unequip(module)
        _set_place(module, None)


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


def _included(model: nn.Module, include: Include) -> set[str]:
    """Return the names of the modules that ``include`` means.

    Raises:
        ValueError: a name or class that is not there; a module that cannot be equipped.
    """
    modules = dict(model.named_modules())
    if callable(include) and not isinstance(include, type):
        names = {name for name, module in modules.items() if include(name, module)}
    else:
        listed = [include] if isinstance(include, str | type) else list(include)
        meant = [{n for n, m in modules.items() if _is_meant(n, m, entry)} for entry in listed]
        for entry, found in zip(listed, meant, strict=True):
            if not found:
                raise ValueError(
                    "include must be names or classes of modules, or a callable (name, module) -> "
                    f"bool; nothing in {type(model).__name__} is {entry!r}"
                )
        names = set().union(*meant)
    for name in names:
        reason = why_never(modules[name])
        if reason is not None:
            raise ValueError(f"include: {name or 'the model'} cannot be equipped: {reason}")
    return names


def _is_meant(name: str, module: nn.Module, entry: object) -> bool:
    return isinstance(module, entry) if isinstance(entry, type) else name == entry


def _refuse_nested(chosen: dict[str, nn.Module], included: set[str]) -> None:
    """Refuse to equip a module and another one inside it, which would drop keys twice."""
    for outer in included:
        inner = [name for name in chosen if is_inside(name, outer)]
        if inner:
            raise ValueError(
                f"include: {outer or 'the model'} has attention in it that is equipped, too: "
                f"{first_of(inner)}; leave one of them out, with select=... or by its name"
            )


def _places(model: nn.Module, modules: Iterable[str], example_inputs: Any) -> dict[str, int]:
    """Return the place of each attention in the order of execution, as far as a run tells it."""
    if example_inputs is None:
        return {}
    places = {n: i for i, n in enumerate(first_calls(model, modules, example_inputs))}
    missing = [name for name in modules if name not in places]
    if missing:
        warnings.warn(
            f"example_inputs did not reach {count(len(missing), 'attention module')}, which count "
            f"as the last ones of their stacks: {first_of(missing)}",
            stacklevel=3,
        )
    return places


def _set_place(module: nn.Module, place: int | None) -> None:
    vars(module).pop(_PLACE, None)
    if place is not None:
        vars(module)[_PLACE] = place


def _spread(
    model: nn.Module,
    modules: dict[str, nn.Module],
    places: dict[str, int],
    drop_ratio: DropRatio,
    schedule: str | Schedule,
) -> tuple[EquippedSite, ...]:
    """Give every attention module the ratio of its layer, stack by stack."""
    names = sorted(modules, key=lambda name: places.get(name, len(modules)))
    return tuple(
        EquippedSite(name, original_name(modules[name]), ratio, stack)
        for stack, layers in layers_of_stacks(model, names).items()
        for layer, ratios in zip(layers, _ratios(layers, drop_ratio, schedule, stack), strict=True)
        for name, ratio in zip(layer, ratios, strict=True)
    )


def _ratios(
    layers: list[list[str]], drop_ratio: DropRatio, schedule: str | Schedule, stack: str
) -> list[list[float]]:
    """Return the ratio of each attention of each layer of a stack."""
    if callable(drop_ratio):
        if schedule != LINEAR_DECREASING:
            raise ValueError(
                f"schedule must be left out where drop_ratio is a callable, got {schedule!r}"
            )
        ratios = [[drop_ratio(name) for name in layer] for layer in layers]
        for ratio in chain(*ratios):
            check_drop_ratio(ratio)
        return ratios
    try:
        spread = drop_ratios(len(layers), drop_ratio, schedule)
    except ValueError as error:
        raise ValueError(f"{error}" + (f" (stack {stack})" if stack else "")) from None
    return [[ratio] * len(layer) for layer, ratio in zip(layers, spread, strict=True)]


def _why_refused(module: nn.Module) -> str:
    reason = "select returned False"
    if not drops_keys(module):
        return reason
    return f"{reason}: it keeps its drop_ratio {module.drop_ratio:g}; call remove_dropkey before"


def _warn_of(lookalikes: list[LeftOut]) -> None:
    if lookalikes:
        warnings.warn(
            "apply_dropkey left out what looks like attention, which select can do without this "
            "warning:\n" + "\n".join(grouped(lookalikes)),
            stacklevel=3,
        )


def _explain_nothing(model: nn.Module, refused: list[LeftOut], lookalikes: list[LeftOut]) -> str:
    name = type(model).__name__
    others = "; ".join(line.strip() for line in grouped(lookalikes))
    if refused:
        message = f"select returned False for all attention of {name}: " + first_of(
            [f"{site.name or 'the model'} ({site.class_name})" for site in refused]
        )
    else:
        message = (
            f"{name} has no attention to equip: looked for torch.nn.MultiheadAttention and for "
            "classes that are called attention and whose code calls softmax or "
            "scaled_dot_product_attention; name other modules with include=..."
        )
    return f"{message}; left out: {others}" if others else message

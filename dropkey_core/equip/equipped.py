"""Dynamic subclasses of attention modules: what they were before, and DropKey.

Equipping swaps the class of a module and gives it three attributes; parameters, buffers, hooks,
submodules and the keys of the state dict stay as they are, and it remains an instance of what it
was.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from dropkey_core.attention.drop_key import DropKey
from dropkey_core.attention.functional import Inference
from dropkey_core.attention.modules import MultiheadAttention, Observe, Reweigh
from dropkey_core.attention.patterns import Pattern
from dropkey_core.attention.places import Unit, find_place, find_unit
from dropkey_core.equip.axes import (
    CHANNELS,
    MADE_BY_A_LAYER,
    NOTHING_KNOWN,
    OTHER_AXIS,
    TOKENS_OF_CHANNELS,
    ChannelAxes,
)
from dropkey_core.equip.code import names
from dropkey_core.equip.interception import Interception, run_intercepted
from dropkey_core.equip.watch import stop_watching

SETTINGS = ("drop_ratio", "unit", "inference", "reweigh")

# What attention calls its number of heads.
_NUM_HEADS = ("num_heads", "num_attention_heads", "n_heads", "heads", "nhead", "n_head")

NOTHING = "nothing"  # what attention runs over that cannot be seen

# Where a module of ours, which has the settings anyway, keeps what they were.
_BEFORE = "_before_dropkey"


@dataclass
class Equipment:
    """What an equipped module keeps beside its settings.

    Attributes:
        own_forward: the ``forward`` that stood on the instance, as accelerate, torch.compile and
            notebooks put it there, in place of that of the class. None: there was none.
        is_bound: whether it is a function that was bound to the instance.
        kinds: what each softmax of its forward runs over, as far as it is known; see ``axes``.
        has_attended: whether it has dropped keys in training, outside of compiled code.
    """

    own_forward: Callable[..., Any] | None = None
    is_bound: bool = False
    kinds: dict[int, str | None] = field(default_factory=dict)
    has_attended: bool = False

    def take_forward(self, module: nn.Module, forward: Callable[..., Any] | None) -> None:
        """Keep a forward; of a method the function, since a copy has to bind it to itself."""
        self.is_bound = isinstance(forward, MethodType) and forward.__self__ is module
        self.own_forward = forward.__func__ if self.is_bound else forward  # type: ignore[union-attr]

    def forward_of(self, module: nn.Module) -> Callable[..., Any] | None:
        """Return the forward that was taken from the module."""
        if self.own_forward is None or not self.is_bound:
            return self.own_forward
        return MethodType(self.own_forward, module)

    def start_following(self) -> ChannelAxes | None:
        """Return what tells the kinds that are not known yet; None: all are."""
        if torch.compiler.is_compiling() or (self.kinds and None not in self.kinds.values()):
            return None
        return ChannelAxes()


class EquippedAttention(nn.Module):
    """What the class of every equipped module derives from first; see ``equip``.

    With nothing to do (``drop_ratio`` 0, or evaluation without ``inference``, and no ``reweigh``)
    ``forward`` is that of the original class, its own dropout included.

    Attributes:
        drop_ratio: probability in [0, 1) that a query of a head loses a key, while training.
        unit: what is dropped, see ``drop_key_attention``.
        inference: what takes the place of the softmax in evaluation; None: nothing does.
        reweigh: makes the weights that average the values of those after softmax and dropping,
            in training and evaluation. None: nothing does. The original's own dropout of weights,
            if it still has one, comes after it.
        observe: shown the weights that average the values.
    """

    original_class: type[nn.Module]
    has_sink: bool  # whether its code speaks of attention sinks
    drop_ratio: float
    unit: str | Pattern | Unit
    inference: Inference | None
    reweigh: Reweigh | None
    observe: Observe | None = None
    _dropkey: Equipment

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute what the original class computes, with keys dropped.

        Raises:
            RuntimeError: the original computed its attention in a way that cannot be equipped, or
                a tracer is at work that cannot follow DropKey.
        """
        if not isinstance(self, EquippedAttention):  # this method was kept beyond remove_dropkey
            return type(self).forward(self, *args, **kwargs)
        if not self._has_something_to_do():
            return self._compute(*args, **kwargs)
        self._refuse_tracers(*args, **kwargs)
        interception = self._interception()
        output = run_intercepted(interception, self._compute, args, kwargs)
        self._check(interception, [output, *args, *kwargs.values()])
        return output

    def __setattr__(self, name: str, value: Any) -> None:
        """Keep the original's ``forward`` from hiding ours, where a library puts it back."""
        if name == "forward" and _is_forward_of(self, value):
            vars(self).pop("forward", None)
            self._dropkey.take_forward(self, value)
        else:
            super().__setattr__(name, value)

    def extra_repr(self) -> str:
        """Return what the module's ``repr`` says of its settings."""
        ours = f"drop_ratio={self.drop_ratio:g}, unit={self.unit!r}"
        return ", ".join(filter(None, (super().extra_repr(), ours)))

    def _has_something_to_do(self) -> bool:
        drops = self.drop_ratio > 0.0 and (self.training or self.inference is not None)
        return drops or self.reweigh is not None or self.observe is not None

    def _compute(self, *args: Any, **kwargs: Any) -> Any:
        """Call the forward that the module had before."""
        own_forward = self._dropkey.forward_of(self)
        if own_forward is None:
            return super().forward(*args, **kwargs)
        return own_forward(*args, **kwargs)

    def _interception(self) -> Interception:
        is_by_layer = any(
            MADE_BY_A_LAYER.fullmatch(c.__name__) for c in self.original_class.__mro__
        )
        return Interception(
            self.drop_ratio,
            self.unit,
            self.training,
            self.inference,
            self.reweigh,
            self.observe,
            name=self.original_class.__name__,
            num_heads=_num_heads(self),
            has_sink=self.has_sink,
            kinds=self._dropkey.kinds,
            channels=None if is_by_layer else self._dropkey.start_following(),
        )

    def _check(self, interception: Interception, tensors: list[Any]) -> None:
        """Raise an error if what should have dropped keys did not."""
        others = interception.others
        doubtful = [kind for kind in others if kind in (OTHER_AXIS, TOKENS_OF_CHANNELS)]
        if interception.num_attended == 0 or (doubtful and interception.has_guessed):
            if not doubtful and (self._dropkey.has_attended or _is_passed_on(*tensors)):
                return  # there was nothing to attend to this time
            raise RuntimeError(_explain(self.original_class, [*doubtful, *others, NOTHING][0]))
        if torch.compiler.is_compiling():
            return
        if doubtful and not self._dropkey.has_attended:
            warnings.warn(_explain_beside(self.original_class, doubtful[0]), stacklevel=2)
        self._dropkey.has_attended |= self.training

    def _refuse_tracers(self, *args: Any, **kwargs: Any) -> None:
        """Raise an error in the hands of a tracer that would record one draw, or none."""
        if torch.compiler.is_compiling() or not self.training:
            return
        if torch.jit.is_tracing() or any(
            isinstance(x, torch.fx.Proxy) for x in (*args, *kwargs.values())
        ):
            raise RuntimeError(_explain_tracer(self, "torch.fx and torch.jit.trace cannot follow"))

    def __prepare_scriptable__(self) -> Any:
        """Refuse TorchScript, which asks here first."""
        raise RuntimeError(_explain_tracer(self, "TorchScript cannot compile"))

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class is made on the fly: a pickle names the original, and makes it again.
        reduced: Any = super().__reduce_ex__(max(int(protocol), 2))
        if type(self) is not equipped_class(self.original_class):
            return reduced  # another library has derived a class of its own from it
        _, (_, *args), *state = reduced
        return (_new_equipped, (self.original_class, *args), *state)


class EquippedMultiheadAttention(EquippedAttention, MultiheadAttention):
    """The class of an equipped ``torch.nn.MultiheadAttention``.

    With something to do it is our own module, whose DropKey takes the place of its ``dropout``
    unless ``drop_ratio`` is 0.
    """

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """See ``MultiheadAttention.forward``."""
        is_equipped = isinstance(self, EquippedMultiheadAttention)
        if not is_equipped or self._dropkey.own_forward is not None:
            return EquippedAttention.forward(self, *args, **kwargs)
        if not self._has_something_to_do():
            return nn.MultiheadAttention.forward(self, *args, **kwargs)
        self._refuse_tracers(*args, **kwargs)
        if self.training and not torch.compiler.is_compiling():
            self._dropkey.has_attended = True
        return MultiheadAttention.forward(self, *args, **kwargs)

    def extra_repr(self) -> str:
        """Return what the module's ``repr`` says of its settings."""
        return MultiheadAttention.extra_repr(self)

    def _must_be_called(self) -> bool:
        # While training torch takes no other way.
        return not self.training and self._has_something_to_do()

    def _what_to_drop(self) -> tuple[float, str | Pattern | Unit, Inference | None]:
        if self.drop_ratio:
            return self.drop_ratio, self.unit, self.inference
        return self.dropout, "weight", None


def equip(module: nn.Module, drop_ratio: float, unit: str | Pattern | Unit) -> None:
    """Make ``module`` drop keys, in place. If it does already, its other settings stay.

    Args:
        module: attention of a kind that ``recognition.find_attention`` finds.
        drop_ratio: probability in [0, 1) that a query of a head loses a key, while training.
        unit: what is dropped; one that passes ``check_unit``.
    """
    if not drops_keys(module):
        module.__class__ = equipped_class(type(module))
        equipment = module._dropkey = Equipment()  # type: ignore[assignment]
        # The instance's own forward would hide that of the class.
        equipment.take_forward(module, vars(module).pop("forward", None))
        module.inference = module.reweigh = None  # type: ignore[assignment]
    elif not isinstance(module, EquippedAttention) and _BEFORE not in vars(module):
        setattr(module, _BEFORE, {name: getattr(module, name) for name in settings_of(module)})
    module.drop_ratio, module.unit = drop_ratio, unit  # type: ignore[assignment]


def unequip(module: nn.Module) -> None:
    """Make ``module`` what it was before ``equip``; nothing happens if it was not equipped.

    A class that another library has derived from the equipped one in the meantime, as parametrize
    and FSDP2 do, is derived from the original instead.
    """
    stop_watching(module)
    if isinstance(module, EquippedAttention):
        own_forward = vars(module).pop("_dropkey").forward_of(module)
        for name in SETTINGS:
            delattr(module, name)
        module.__class__ = _without_dropkey(type(module))
        if own_forward is not None:
            vars(module).setdefault("forward", own_forward)
    elif _BEFORE in vars(module):
        for name, value in vars(module).pop(_BEFORE).items():
            setattr(module, name, value)


def drops_keys(module: nn.Module) -> bool:
    """Return whether the module is equipped, or one of ours to begin with."""
    return isinstance(module, (EquippedAttention, MultiheadAttention, DropKey))


def original_name(module: nn.Module) -> str:
    """Return the name of the class that a module had before it was equipped."""
    cls = module.original_class if isinstance(module, EquippedAttention) else type(module)
    return cls.__name__


def settings_of(module: nn.Module) -> tuple[str, ...]:
    """Return which of ``SETTINGS`` a module has: a ``DropKey`` leaves the softmax to others."""
    return SETTINGS[:2] if isinstance(module, DropKey) else SETTINGS


def check_unit(module: nn.Module, unit: str | Pattern | Unit) -> None:
    """Raise a ``ValueError`` if the unit is unknown, or cannot be dropped by that module."""
    find_unit(unit)
    if isinstance(module, DropKey):
        find_place(unit)


def equipped_class(original: type[nn.Module]) -> type[EquippedAttention]:
    """Return the one class that equipped modules of class ``original`` have."""
    if original not in _MADE:
        is_torchs = issubclass(original, nn.MultiheadAttention)
        mixin = EquippedMultiheadAttention if is_torchs else EquippedAttention
        name = f"DropKey{original.__name__}"
        contents = {
            "original_class": original,
            "has_sink": any("sink" in name for name in names(original, calls=2)),
            "__module__": original.__module__,
            "__doc__": original.__doc__,
        }
        _MADE[original] = type(name, (mixin, original), contents)
    return _MADE[original]


_MADE: dict[type[nn.Module], Any] = {}  # class -> its equipped class


@contextmanager
def temporary_attributes(module: nn.Module, values: Mapping[str, Any]) -> Iterator[None]:
    """Set attributes of a module, and put back or delete them at the end."""
    own = {**vars(module), **module._modules}  # a reweigh may be a module
    before = {name: own[name] for name in values if name in own}
    for name, value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name in values:
            if name in before:
                setattr(module, name, before[name])
            else:
                delattr(module, name)


def _new_equipped(original: type[nn.Module], *args: Any) -> EquippedAttention:
    """Make an empty instance, which whoever copies or unpickles fills."""
    made = equipped_class(original)
    return made.__new__(made, *args)


def _without_dropkey(cls: type) -> type:
    """Return the class without what ``equipped_class`` has added somewhere below it."""
    if not issubclass(cls, EquippedAttention):
        return cls
    if _MADE.get(cls.original_class) is cls:
        return cls.original_class
    contents = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
    metaclass: Any = type(cls)
    return metaclass(cls.__name__, tuple(map(_without_dropkey, cls.__bases__)), contents)


def _is_forward_of(module: EquippedAttention, method: Any) -> bool:
    """Return whether that is the bound ``forward`` of the module's original class."""
    forwards = [vars(base).get("forward") for base in module.original_class.__mro__]
    is_bound = isinstance(method, MethodType) and method.__self__ is module
    return is_bound and any(method.__func__ is forward for forward in forwards)


def _num_heads(module: nn.Module) -> int | None:
    """Return the number of heads by the name that the module has for it; None: it has none."""
    numbers = [getattr(module, name, None) for name in _NUM_HEADS]
    known = [number for number in numbers if isinstance(number, int)]
    return known[0] if known else None


def _is_passed_on(output: Any, *inputs: Any) -> bool:
    """Return whether the output, or the first of several, is one of the inputs."""
    output = output[0] if isinstance(output, tuple | list) and output else output
    return any(output is x for x in inputs)


_EXPLANATIONS = {
    NOTHING: "computed neither scaled_dot_product_attention nor a softmax over its last axis",
    OTHER_AXIS: "takes a softmax over an axis other than the last, which need not be its keys",
    CHANNELS: "takes its softmax over channels (outputs of a layer), not over keys",
    TOKENS_OF_CHANNELS: "takes a softmax over the tokens for each channel rather than for each "
    "query: linear attention, in which no query has weights over the keys",
    NOTHING_KNOWN: "takes a softmax of two axes, of which it is not known whether they are queries "
    "and keys: give it a batch axis",
}


def _explain_beside(original: type[nn.Module], kind: str) -> str:
    return (
        f"{original.__module__}.{original.__name__} drops keys, and besides "
        f"{_EXPLANATIONS[kind]}; that softmax stays as it is"
    )


def _explain(original: type[nn.Module], kind: str) -> str:
    message = (
        f"{original.__module__}.{original.__name__} {_EXPLANATIONS[kind]}, so DropKey has nothing "
        "to act on: leave it out with apply_dropkey(..., select=...)"
    )
    if kind == NOTHING:
        message += (
            ", or switch flash-attn, xformers and FlexAttention off (in transformers: "
            'model.set_attn_implementation("sdpa"))'
        )
    return message


def _explain_tracer(module: EquippedAttention, tracer: str) -> str:
    return (
        f"{tracer} {module.original_class.__name__}, which drops keys while training: call "
        "remove_dropkey(model) first"
    )

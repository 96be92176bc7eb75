"""Dynamic subclasses of attention modules: what they were before, and DropKey.

Equipping swaps the class of a module and gives it three attributes; parameters, buffers, hooks,
submodules and the keys of the state dict stay as they are, and it remains an instance of what it
was.
"""

from typing import Any

from torch import Tensor, nn

from dropkey_core.attention.functional import Inference
from dropkey_core.attention.modules import MultiheadAttention
from dropkey_core.attention.observation import Observe, Reweigh
from dropkey_core.attention.patterns import Pattern
from dropkey_core.attention.places import Unit, find_unit
from dropkey_core.attention.schedule import check_drop_ratio
from dropkey_core.equip.interception import AttentionInterception, Interception

SETTINGS = ("drop_ratio", "unit", "inference", "reweigh")

# Where a module of ours, which has the settings anyway, keeps what they were.
_BEFORE = "_before_dropkey"


class EquippedAttention(nn.Module):
    """What the class of every equipped module derives from first; see ``equip``.

    With nothing to do (``drop_ratio`` 0, or evaluation without ``inference``, and no ``reweigh``)
    ``forward`` is that of the original class, its own dropout included.

    Attributes:
        drop_ratio: probability in [0, 1) that a query of a head loses a key, while training.
        unit: what is dropped, see ``drop_key_attention``.
        inference: what takes the place of the softmax in evaluation; None: nothing does.
        reweigh: makes the weights that average the values of those after softmax and dropping,
            in training and evaluation; see ``observation``. None: nothing does. The original's
            own dropout of weights, if it still has one, comes after it.
        observe: shown the weights that average the values.
    """

    original_class: type[nn.Module]
    drop_ratio: float
    unit: str | Pattern | Unit
    inference: Inference | None
    reweigh: Reweigh | None
    observe: Observe | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute what the original class computes, with keys dropped.

        Raises:
            RuntimeError: the original computed its attention in a way that cannot be equipped.
        """
        if not self._has_something_to_do():
            return super().forward(*args, **kwargs)
        interception = Interception(
            self.drop_ratio, self.unit, self.training, self.inference, self.reweigh, self.observe
        )
        with AttentionInterception(interception):
            output = super().forward(*args, **kwargs)
        if interception.num_attended == 0 or interception.other_axis:
            raise RuntimeError(_explain(self.original_class, interception.other_axis))
        return output

    def extra_repr(self) -> str:
        """Return what the module's ``repr`` says of its settings."""
        ours = f"drop_ratio={self.drop_ratio:g}, unit={self.unit!r}"
        return ", ".join(filter(None, (super().extra_repr(), ours)))

    def _has_something_to_do(self) -> bool:
        drops = self.drop_ratio > 0.0 and (self.training or self.inference is not None)
        return drops or self.reweigh is not None or self.observe is not None

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class is made on the fly: a pickle names the original, and makes it again.
        reduced: Any = super().__reduce_ex__(max(int(protocol), 2))
        _, (_, *args), *state = reduced
        return (_new_equipped, (self.original_class, *args), *state)


class EquippedMultiheadAttention(EquippedAttention, MultiheadAttention):
    """The class of an equipped ``torch.nn.MultiheadAttention``.

    With something to do it is our own module, whose DropKey takes the place of its ``dropout``
    unless ``drop_ratio`` is 0.
    """

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """See ``MultiheadAttention.forward``."""
        module = MultiheadAttention if self._has_something_to_do() else nn.MultiheadAttention
        return module.forward(self, *args, **kwargs)

    def extra_repr(self) -> str:
        """Return what the module's ``repr`` says of its settings."""
        return MultiheadAttention.extra_repr(self)

    def _must_be_called(self) -> bool:
        return self._has_something_to_do()  # else torch may go the way it went before

    def _what_to_drop(self) -> tuple[float, str | Pattern | Unit, Inference | None]:
        if self.drop_ratio:
            return self.drop_ratio, self.unit, self.inference
        return self.dropout, "weight", None


def equip(
    module: nn.Module,
    drop_ratio: float,
    unit: str | Pattern | Unit,
    inference: Inference | None = None,
    reweigh: Reweigh | None = None,
) -> None:
    """Make ``module`` drop keys, in place. It may be equipped already.

    Args:
        module: attention of a kind that ``recognition.find_attention`` finds.
        drop_ratio: probability in [0, 1) that a query of a head loses a key, while training.
        unit: what is dropped.
        inference: what takes the place of the softmax in evaluation.
        reweigh: makes other weights of those after softmax and dropping.

    Raises:
        ValueError: ``drop_ratio`` outside [0, 1), or an unknown ``unit``.
    """
    check_drop_ratio(drop_ratio)
    find_unit(unit)  # refuses an unknown one
    if not drops_keys(module):
        module.__class__ = equipped_class(type(module))
    elif not isinstance(module, EquippedAttention) and _BEFORE not in vars(module):
        setattr(module, _BEFORE, {name: getattr(module, name) for name in SETTINGS})
    for name, value in zip(SETTINGS, (drop_ratio, unit, inference, reweigh), strict=True):
        setattr(module, name, value)


def unequip(module: nn.Module) -> None:
    """Make ``module`` what it was before ``equip``; nothing happens if it was not equipped."""
    if isinstance(module, EquippedAttention):
        for name in SETTINGS:
            delattr(module, name)
        module.__class__ = module.original_class  # type: ignore[assignment]
    elif _BEFORE in vars(module):
        for name, value in vars(module).pop(_BEFORE).items():
            setattr(module, name, value)


def drops_keys(module: nn.Module) -> bool:
    """Return whether the module is equipped, or one of ours to begin with."""
    return isinstance(module, (EquippedAttention, MultiheadAttention))


def equipped_class(original: type[nn.Module]) -> type[EquippedAttention]:
    """Return the one class that equipped modules of class ``original`` have."""
    if original not in _MADE:
        is_torchs = issubclass(original, nn.MultiheadAttention)
        mixin = EquippedMultiheadAttention if is_torchs else EquippedAttention
        name = f"DropKey{original.__name__}"
        contents = {
            "original_class": original,
            "__module__": original.__module__,
            "__doc__": original.__doc__,
        }
        _MADE[original] = type(name, (mixin, original), contents)
    return _MADE[original]


_MADE: dict[type[nn.Module], Any] = {}  # class -> its equipped class


def _new_equipped(original: type[nn.Module], *args: Any) -> EquippedAttention:
    """Make an empty instance, which whoever copies or unpickles fills."""
    made = equipped_class(original)
    return made.__new__(made, *args)


def _explain(original: type[nn.Module], other_axis: bool) -> str:
    what = (
        "takes a softmax over an axis other than the last, which need not be its keys"
        if other_axis
        else "computed neither scaled_dot_product_attention nor a softmax over its last axis"
    )
    return (
        f"{original.__module__}.{original.__name__} {what}, so DropKey has nothing to act on: "
        "leave it out with apply_dropkey(..., select=...), or switch flash-attn, xformers and "
        'FlexAttention off (in transformers: model.set_attn_implementation("sdpa"))'
    )

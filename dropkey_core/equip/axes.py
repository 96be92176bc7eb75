"""Axis tracking: does a softmax run over keys or over channels?

Attention over keys averages tokens. A gate over heads, a router over experts and channel attention
take a softmax as well, over what a layer has made of each token: *channels*. Which is which follows
from the operations on the way: a linear layer makes channels of the last axis, a convolution of its
first one beside the batch, and views, permutations and products carry the axes along.

Nothing is known of tensors that come from outside, nor of results of rare operations: a softmax of
those is taken to run over keys, as long as it has axes for queries and batch. An error on the way
can only lose channels.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

# What a softmax runs over.
KEYS = "keys"
CHANNELS = "channels"  # outputs of a layer: gates, experts, channel attention
TOKENS_OF_CHANNELS = "tokens for each channel"  # linear attention
OTHER_AXIS = "another axis"
NOTHING_KNOWN = "two axes of which nothing is known"

# Attention whose weights over keys a layer makes from the query alone: VOLO's.
MADE_BY_A_LAYER = re.compile(r"Outlook(er)?Att(n|ention)")

Axes = frozenset[int]


class ChannelAxes:
    """The axes of channels of all tensors that one forward pass has made."""

    def __init__(self) -> None:
        self._known = WeakTensorKeyDictionary()

    def of(self, tensor: Any) -> Axes | None:
        """Return which axes of a tensor are channels; None: nothing is known of it."""
        return self._known.get(tensor) if isinstance(tensor, Tensor) else None

    def follow(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        result: Any,
    ) -> None:
        """Take note of what a call to torch has returned."""
        rule = _RULES.get(_name_of(function), _carry)
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor) and tensor.dim() > 0:
                axes = rule(self, _Call(function, args, kwargs, tensor))
                if axes is not None:
                    self._known[tensor] = axes


class _Call(NamedTuple):
    """A call to torch, and one of the tensors that it returned."""

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    result: Tensor

    @property
    def first(self) -> Any:
        """The first argument."""
        return self.args[0] if self.args else next(iter(self.kwargs.values()))

    def tensors(self) -> list[Tensor]:
        """Return the arguments that are tensors, or in tuples and lists."""
        given = (*self.args, *self.kwargs.values())
        flat = (x for arg in given for x in (arg if isinstance(arg, tuple | list) else [arg]))
        return [x for x in flat if isinstance(x, Tensor)]


def runs_over(channels: Axes | None, shape: Sequence[int], dim: int | None) -> str:
    """Return what a softmax runs over, one of the names above.

    Args:
        channels: which axes of the logits are channels; None: nothing is known.
        shape: of the logits.
        dim: the axis that is to sum to 1.
    """
    last = len(shape) - 1
    axis = None if dim is None else dim % max(len(shape), 1)
    if channels is not None and axis in channels:
        return CHANNELS
    if axis != last:
        return OTHER_AXIS if last >= 2 else CHANNELS
    if channels is None:
        return KEYS if last >= 2 else NOTHING_KNOWN
    if last - 1 in channels and shape[last - 1] > 1:
        return TOKENS_OF_CHANNELS
    return KEYS if last >= 1 else NOTHING_KNOWN


def attends_to(channels: Axes | None, shape: Sequence[int]) -> str:
    """Return what fused attention runs over, for keys (..., Lk, D) of that shape."""
    return CHANNELS if channels is not None and len(shape) - 2 in channels else KEYS


def _name_of(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", "")
    return function.__self__.__name__ if name == "__get__" else name  # type: ignore[attr-defined]


def _shared(known: ChannelAxes, result: Tensor, tensors: Sequence[Tensor]) -> Axes | None:
    """Return the axes, counted from the last, that are channels of all tensors known to have them.

    A tensor that is broadcast along an axis does not count there.
    """
    votes: dict[int, bool] = {}
    operands = [(x, axes) for x in tensors if (axes := known.of(x)) is not None]
    for x, axes in operands:
        for axis, length in enumerate(x.shape):
            place = axis - x.dim() + result.dim()
            if length > 1 or result.shape[place] == 1:
                votes[place] = votes.get(place, True) and axis in axes
    return frozenset(place for place, yes in votes.items() if yes) if operands else None


def _carry(known: ChannelAxes, call: _Call) -> Axes | None:
    """Axes stay where they are: elementwise functions, slices, joins along an axis, dropout."""
    tensors = call.tensors()
    if max((x.dim() for x in tensors), default=0) != call.result.dim():
        return None
    return _shared(known, call.result, tensors)


def _layer(known: ChannelAxes, call: _Call) -> Axes:
    """A layer makes channels of the last axis."""
    kept = _shared(known, call.result, [call.first]) or frozenset()
    return kept | {call.result.dim() - 1}


def _convolution(known: ChannelAxes, call: _Call) -> Axes:
    spatial = int(_name_of(call.function)[-2])  # conv2d, conv_transpose1d ...
    return frozenset({call.result.dim() - 1 - spatial})


def _permute(known: ChannelAxes, call: _Call) -> Axes | None:
    """See where each axis goes by sending a tensor with axes of different lengths through."""
    channels = known.of(call.first)
    if channels is None:
        return None
    marked = torch.empty(*range(2, 2 + call.first.dim()), device="meta")
    moved = call.function(marked, *call.args[1:], **(call.kwargs if call.args else {}))
    return frozenset(i for i, length in enumerate(moved.shape) if length - 2 in channels)


def _regroup(known: ChannelAxes, call: _Call) -> Axes | None:
    """Split and merge axes: a new axis is made of channels if all that went into it is."""
    channels = known.of(call.first)
    if channels is None or call.first.numel() != call.result.numel():
        return None
    old, new = _strides(call.first.shape), _strides(call.result.shape)
    return frozenset(
        place
        for place, (low, high) in enumerate(new)
        if low < high
        and all(
            a in channels for a, (lo, hi) in enumerate(old) if lo < high and low < hi and lo < hi
        )
    )


def _strides(shape: Sequence[int]) -> list[tuple[int, int]]:
    """Return, for each axis, the stride of an entry and that of the axis before it."""
    ends, stride = [], 1
    for length in reversed(shape):
        ends.append((stride, stride * length))
        stride *= length
    return ends[::-1]


def _index(known: ChannelAxes, call: _Call) -> Axes | None:
    """Index by numbers and slices; nothing is known of other ways."""
    x, index = call.args
    channels = known.of(x)
    index = index if isinstance(index, tuple) else (index,)
    if channels is None or not all(i is None or i is ... or type(i) in (int, slice) for i in index):
        return None
    if ... not in index:
        index = (*index, ...)
    rest = x.dim() - sum(i is not None and i is not ... for i in index)
    axis, axes = 0, []  # axes: for each axis of the result, where it comes from
    for i in index:
        if i is None:
            axes.append(-1)
        elif i is ...:
            axes += range(axis, axis + rest)
            axis += rest
        else:
            axes += [axis] if isinstance(i, slice) else []
            axis += 1
    return frozenset(place for place, axis in enumerate(axes) if axis in channels)


def _unbind(known: ChannelAxes, call: _Call) -> Axes | None:
    """Take one axis away: unbind, select."""
    channels = known.of(call.first)
    dim = call.kwargs.get("dim", call.args[1] if len(call.args) > 1 else 0)
    dim %= call.result.dim() + 1
    return None if channels is None else frozenset(a - (a > dim) for a in channels if a != dim)


def _product(known: ChannelAxes, call: _Call) -> Axes | None:
    """Product of matrices: rows from the first, columns from the second.

    A parameter as the second one makes it a layer.
    """
    *_, left, right = (x for x in call.tensors() if x.dim() > 0)
    if left.dim() < 2 or right.dim() < 2:
        return None
    rows, columns = call.result.dim() - 2, call.result.dim() - 1
    lead = _shared(known, call.result, [left, right]) or frozenset()
    channels = {axis for axis in lead if axis < rows}
    if left.dim() - 2 in (known.of(left) or ()):
        channels.add(rows)
    if isinstance(right, nn.Parameter) or right.dim() - 1 in (known.of(right) or ()):
        channels.add(columns)
    return frozenset(channels)


def _einsum(known: ChannelAxes, call: _Call) -> Axes:
    """Product by letters; a parameter that brings the last one makes it a layer."""
    if not isinstance(call.args[0], str) or "->" not in call.args[0]:
        return frozenset()
    terms, output = call.args[0].replace(" ", "").split("->")
    votes: dict[str, bool] = {}
    for term, x in zip(terms.split(","), call.tensors(), strict=True):
        axes = known.of(x)
        for axis, letter in enumerate(_letters(term, x.dim())):
            if axes is not None:
                votes[letter] = votes.get(letter, True) and axis in axes
            elif isinstance(x, nn.Parameter) and letter == output[-1]:
                votes.setdefault(letter, True)
    letters = _letters(output, call.result.dim())
    return frozenset(place for place, letter in enumerate(letters) if votes.get(letter))


def _letters(term: str, num_axes: int) -> str:
    """Write "..." out, in digits counted from its end."""
    before, dots, after = term.partition("...")
    missing = num_axes - len(before) - len(after)
    return before + "9876543210"[10 - missing :] + after if dots else term


_RULES: dict[str, Callable[..., Axes | None]] = {
    **dict.fromkeys(("linear", "layer_norm", "rms_norm"), _layer),
    **{f"conv{kind}{n}d": _convolution for kind in ("", "_transpose") for n in (1, 2, 3)},
    **dict.fromkeys(("matmul", "__matmul__", "bmm", "mm", "baddbmm", "addmm"), _product),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims", "permute", "movedim"), _permute),
    **dict.fromkeys(("moveaxis", "t", "adjoint", "T", "mT", "H", "mH"), _permute),
    **dict.fromkeys(("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"), _regroup),
    **dict.fromkeys(("view_as", "reshape_as", "ravel"), _regroup),
    **dict.fromkeys(("unbind", "select"), _unbind),
    "__getitem__": _index,
    "einsum": _einsum,
}

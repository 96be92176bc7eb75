"""Intercepting torch functions: DropKey inside attention that somebody else wrote.

While the forward of an equipped module runs, ``AttentionInterception`` watches the calls it makes
to torch and answers some of them itself: fused attention, the softmax over the keys, and the
vanilla dropout of the weights that came out of it. ``axes`` tells such a softmax from others.

Shapes: (..., Lq, Lk) = batch and heads in any number of axes, queries, keys.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint

from dropkey_core.attention.functional import Inference, drop_key_attention, drop_key_softmax
from dropkey_core.attention.masks import draw_seed, is_causal_bias, mask_far
from dropkey_core.attention.modules import Observe, Reweigh
from dropkey_core.attention.patterns import Pattern
from dropkey_core.attention.places import BeforeSoftmax, Unit, find_unit
from dropkey_core.equip.axes import KEYS, Axes, ChannelAxes, attends_to, runs_over

# All that softmax is called in torch.
SOFTMAXES = (F.softmax, torch.softmax, torch.special.softmax, Tensor.softmax)


@dataclass
class Interception:
    """What one forward pass of one equipped module shall drop, and what has come of it.

    Attributes:
        drop_ratio: of the module, as ``unit``, ``training``, ``inference``, ``reweigh`` and
            ``observe``; see ``EquippedAttention``.
        name: of the module's class, for errors.
        num_heads: number of heads H of the module; None: not known.
        has_sink: whether a logit that stands for no key may be appended to the others.
        kinds: what each softmax of the module runs over, in the order of execution, see ``axes``;
            what is found out is added. A softmax that came while nobody looked has None.
        channels: follows the axes; None: nobody looks.
        num_softmaxes: how many calls of softmax and fused attention there were so far.
        num_attended: how many of them were attention over keys.
        others: what the others ran over.
        has_guessed: whether nothing was known of what one of them ran over.
        sunk: shapes of logits with a sink that have not met their softmax yet.
        awaited: shapes of the weights that have not met their vanilla dropout yet.
    """

    drop_ratio: float
    unit: str | Pattern | Unit
    training: bool
    inference: Inference | None
    reweigh: Reweigh | None = None
    observe: Observe | None = None
    name: str = "attention"
    num_heads: int | None = None
    has_sink: bool = False
    kinds: dict[int, str | None] = field(default_factory=dict)
    channels: ChannelAxes | None = None
    num_softmaxes: int = 0
    num_attended: int = 0
    others: list[str] = field(default_factory=list)
    has_guessed: bool = False
    sunk: list[torch.Size] = field(default_factory=list)
    awaited: list[torch.Size] = field(default_factory=list)

    def attend(
        self,
        original: Callable[..., Tensor],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Take the place of ``scaled_dot_product_attention``, (..., Lq, D) to (..., Lq, Dv).

        ``dropout_p`` gives way to DropKey, but for a ``drop_ratio`` of 0. ``original`` is called
        where the keys are channels.
        """
        settings: dict[str, Any] = {"scale": scale, "enable_gqa": enable_gqa}
        if self._kind(key, attends_to) != KEYS:
            return original(query, key, value, attn_mask, dropout_p, is_causal, **settings)
        self._count_attention()
        if query.is_nested:
            raise ValueError(
                "DropKey cannot drop keys of nested tensors: pad them, and mask padding"
            )
        leads = _leads(query, key, value, per_group=enable_gqa)
        lead, (batch, heads) = leads[0], self._batch_and_heads(leads[0])
        query, key, value = (
            x.expand(*own, *x.shape[-2:]).reshape(
                batch, own[-1] if enable_gqa else heads, *x.shape[-2:]
            )
            for x, own in zip((query, key, value), leads, strict=True)
        )
        drops = self.drop_ratio > 0.0
        if attn_mask is not None and not is_causal_bias(attn_mask):
            if attn_mask.dtype != torch.bool and not (drops and self.training):
                attn_mask = mask_far(attn_mask)  # else drop_key_attention does it
            if attn_mask.dim() > 2 and lead != (batch, heads):
                attn_mask = attn_mask.expand(*lead, *attn_mask.shape[-2:])
                attn_mask = attn_mask.reshape(batch, heads, *attn_mask.shape[-2:])
        attend = partial(
            drop_key_attention,
            query,
            key,
            value,
            self.drop_ratio if drops else dropout_p,
            unit=self.unit if drops else "weight",
            attn_mask=attn_mask,
            is_causal=is_causal,
            training=self.training,
            inference=self.inference if drops else None,
            **settings,
        )
        if self.reweigh is None and self.observe is None:
            output = attend()
        else:
            output, weights = attend(need_weights=True)
            used = self.finish(weights.reshape(*lead, *weights.shape[-2:]))
            if self.reweigh is not None:
                value = value.repeat_interleave(heads // value.shape[1], 1) if enable_gqa else value
                output = used @ value.to(used.dtype).reshape(*lead, *value.shape[-2:])
        return output.reshape(*lead, *output.shape[-2:])

    def finish(self, weights: Tensor) -> Tensor:
        """Return the weights (..., Lq, Lk) that average the values, after showing them."""
        if self.reweigh is not None:
            weights = self.reweigh(weights)
        if self.observe is not None:
            self.observe(weights)
        return weights

    def normalise(
        self,
        original: Callable[..., Tensor],
        input: Tensor,
        dim: int | None = None,
        dtype: torch.dtype | None = None,
        **rest: Any,
    ) -> Tensor:
        """Take the place of a softmax, if it runs over the keys.

        Args:
            original: the function that was called, with the arguments that follow.
            input: the logits, (..., Lq, Lk), and with a sink (..., Lq, Lk + 1).
            dim: axis that is to sum to 1.
            dtype: floating type to compute in.
            **rest: other arguments.

        Returns:
            the weights, of the shape of ``input``, or what ``original`` returns
        """
        if self._kind(input, partial(runs_over, dim=dim)) != KEYS:
            return original(input, dim=dim, dtype=dtype, **rest)
        self._count_attention()
        logits = input if dtype is None else input.to(dtype)
        num_sinks = int(_take(self.sunk, input.shape))
        if self.drop_ratio == 0.0:
            weights = drop_key_softmax(mask_far(logits), 0.0)
            return self._finish_beside_sinks(weights, num_sinks)
        if self._heads_share_a_draw and logits.dim() > 2:
            logits = logits.reshape(*self._batch_and_heads(input.shape[:-2]), *input.shape[-2:])
        if num_sinks:
            self.awaited.append(input[..., :-num_sinks].shape)
            logits = mask_far(logits)
            weights = self._normalise_beside_sinks(*logits.tensor_split([-num_sinks], -1))
        else:
            self.awaited.append(input.shape)
            weights = drop_key_softmax(
                logits,
                self.drop_ratio,
                unit=self.unit,
                training=self.training,
                inference=self.inference,
            )
        return self._finish_beside_sinks(weights.reshape(input.shape), num_sinks)

    def _finish_beside_sinks(self, weights: Tensor, num_sinks: int) -> Tensor:
        """Do as ``finish`` with the weights of the keys."""
        if not num_sinks:
            return self.finish(weights)
        weights, sinks = weights.tensor_split([-num_sinks], -1)
        return torch.cat((self.finish(weights), sinks), -1)

    def _normalise_beside_sinks(self, logits: Tensor, sinks: Tensor) -> Tensor:
        """Drop keys, and never a sink: a logit that takes weight and has no value."""
        unit = find_unit(self.unit)
        if self.inference is not None or not isinstance(unit, BeforeSoftmax):
            raise ValueError(
                'beside an attention sink only keys can be dropped, unit="key" or another pattern '
                f"before the softmax, without inference; got unit={self.unit!r}, "
                f"inference={self.inference}"
            )
        masked = unit.mask_logits(logits, self.drop_ratio, draw_seed(logits.device))
        return torch.cat((masked, sinks), -1).softmax(-1)

    def drop_weights(
        self, original: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Take the place of vanilla dropout where it meets the weights: DropKey has been there.

        The first dropout after a softmax whose input has the shape of the weights is theirs.
        """
        if _take(self.awaited, input.shape):
            return input
        return original(input, *args, **kwargs)

    def join(
        self, original: Callable[..., Tensor], tensors: Sequence[Tensor], dim: int = 0, **rest: Any
    ) -> Tensor:
        """Watch ``torch.cat`` for a sink: a single logit that is appended to those of the keys."""
        joined = original(tensors, dim=dim, **rest)
        is_last = dim in (-1, joined.dim() - 1)
        if self.has_sink and is_last and len(tensors) == 2 and tensors[1].shape[-1] == 1:
            self.sunk.append(joined.shape)
        return joined

    def _kind(self, x: Tensor, decide: Callable[[Axes | None, torch.Size], str]) -> str:
        """Return what the next softmax, or fused attention, runs over; remember it."""
        number = self.num_softmaxes
        self.num_softmaxes += 1
        kind = self.kinds.get(number)
        if kind is None and torch.compiler.is_compiling():
            kind = decide(None, x.shape)
            self.has_guessed = True
        elif kind is None:
            axes = None if self.channels is None else self.channels.of(x)
            kind = decide(axes, x.shape)
            self.has_guessed |= kind == KEYS and axes is None
            self.kinds[number] = None if self.channels is None else kind
        if kind != KEYS:
            self.others.append(kind)
        return kind

    def _count_attention(self) -> None:
        self.num_attended += 1
        if not torch.compiler.is_compiling() and self.training and _is_checkpointed_inside():
            raise RuntimeError(
                f"{self.name} checkpoints inside its own forward and cannot be equipped, since the "
                "recomputation in the backward pass would not drop keys: switch that off, and "
                "checkpoint the whole module or its block instead"
            )

    @property
    def _heads_share_a_draw(self) -> bool:
        return self.drop_ratio > 0.0 and "heads" in find_unit(self.unit).pattern.shared_over

    def _batch_and_heads(self, lead: torch.Size) -> tuple[int, int]:
        """Return B and H for tensors whose axes before the tokens are ``lead``.

        Raises:
            ValueError: heads share a draw, and it is not known which axis has them.
        """
        heads = self.num_heads
        if not self._heads_share_a_draw or not lead:
            return (lead[:-1].numel(), lead[-1]) if len(lead) > 1 else (lead.numel(), 1)
        if len(lead) > 1 and heads in (None, lead[-1]):
            return lead[:-1].numel(), lead[-1]
        if len(lead) == 1 and heads is not None and lead[0] % heads == 0:
            return lead[0] // heads, heads
        raise ValueError(
            'shared_over=("heads",) needs to know which of the attention maps are heads of one '
            f"image; the axes before queries and keys are {tuple(lead)}, the number of heads is "
            f"{heads}: give the module an attribute num_heads, or leave it out with select=..."
        )


class AttentionInterception(TorchFunctionMode):
    """While active, hands attention, softmax and dropout to an ``Interception``.

    Args:
        interception: answers the calls. It is an object of its own, rather than attributes of
            this one, because torch.compile can follow changes to it.
    """

    def __init__(self, interception: Interception) -> None:
        super().__init__()
        self.interception = interception

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer one call to torch."""
        kwargs = kwargs or {}
        answer = _ANSWERS.get(func)
        if func is F.multi_head_attention_forward:
            with self:  # torch leaves this mode for the time of a call: look into this one
                return _multi_head_attention(*args, **kwargs)
        if answer is None:
            result = func(*args, **kwargs)
        else:
            result = answer(self.interception, func, *args, **with_dim(kwargs))
        if not torch.compiler.is_compiling() and self.interception.channels is not None:
            self.interception.channels.follow(func, args, with_dim(kwargs), result)
        return result


def run_intercepted(
    interception: Interception,
    forward: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
) -> Any:
    """Call ``forward`` with its attention intercepted."""
    with AttentionInterception(interception):
        return forward(*args, **kwargs)


_ANSWERS: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.scaled_dot_product_attention: Interception.attend,
    **dict.fromkeys(SOFTMAXES, Interception.normalise),
    **dict.fromkeys((F.dropout, torch.dropout), Interception.drop_weights),
    **dict.fromkeys((torch.cat, torch.concat), Interception.join),
}


def with_dim(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return named arguments with ``axis``, which torch takes from NumPy, as the ``dim`` it is."""
    if "axis" not in kwargs:
        return kwargs
    return {"dim" if name == "axis" else name: value for name, value in kwargs.items()}


def _unseen(tensors: Any) -> bool:
    """Take the place of ``has_torch_function``: no, go on with the code of the function."""
    return False


_torchs = F.multi_head_attention_forward
_multi_head_attention = FunctionType(
    _torchs.__code__, {**_torchs.__globals__, "has_torch_function": _unseen}, _torchs.__name__
)
_multi_head_attention.__defaults__ = _torchs.__defaults__
_multi_head_attention.__kwdefaults__ = _torchs.__kwdefaults__


def _take(shapes: list[torch.Size], shape: torch.Size) -> bool:
    """Remove a shape from the list if it is there; return whether it was."""
    for place, other in enumerate(shapes):
        # Length by length, since torch.compile cannot compare shapes of unknown lengths.
        if len(other) == len(shape) and all(a == b for a, b in zip(other, shape, strict=True)):
            del shapes[place]
            return True
    return False


def _leads(*tensors: Tensor, per_group: bool) -> list[torch.Size]:
    """Return the axes before the tokens, broadcast; ``per_group`` leaves the heads as they are."""
    num_own = 3 if per_group else 2
    shared = torch.broadcast_shapes(*(x.shape[:-num_own] for x in tensors))
    return [torch.Size((*shared, *x.shape[-num_own:-2])) for x in tensors]


def _is_checkpointed_inside() -> bool:
    """Return whether there is activation checkpointing between ``run_intercepted`` and here."""
    frame = sys._getframe()
    while frame is not None and frame.f_code is not run_intercepted.__code__:
        if frame.f_code.co_filename == checkpoint.__file__:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False

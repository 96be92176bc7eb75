"""Intercepting torch functions: DropKey inside attention that somebody else wrote.

While the forward of an equipped module runs, ``AttentionInterception`` watches the calls it makes
to torch and answers three of them itself: fused attention, the softmax over the keys, and the
vanilla dropout of the weights that came out of it.

Shapes: (..., Lq, Lk) = batch and heads in any number of axes, queries, keys.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dropkey_core.attention.functional import Inference, drop_key_attention, drop_key_softmax
from dropkey_core.attention.observation import Observe, Reweigh
from dropkey_core.attention.patterns import Pattern
from dropkey_core.attention.places import Unit

# Where a logit or an additive mask is at or below this, the key is masked: many models add a large
# negative number, from -1e4 to the lowest of the type, where they mean -inf.
MASKED = -5e3


@dataclass
class Interception:
    """What one forward pass of one equipped module shall drop, and what has come of it.

    Attributes:
        drop_ratio: probability in [0, 1) that a query loses a key.
        unit: what is dropped.
        training: whether to drop anything.
        inference: what takes the place of the softmax when not ``training``.
        reweigh: from the weights, after dropping, to those that average the values.
        observe: shown the weights that average the values.
        num_attended: how many times attention over keys was computed so far.
        other_axis: whether a softmax was seen that runs over an axis other than the last.
        awaited: shapes of the weights that have not met their vanilla dropout yet.
    """

    drop_ratio: float
    unit: str | Pattern | Unit
    training: bool
    inference: Inference | None
    reweigh: Reweigh | None = None
    observe: Observe | None = None
    num_attended: int = 0
    other_axis: bool = False
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
        """Take the place of ``scaled_dot_product_attention``.

        ``dropout_p`` gives way to DropKey, but for a ``drop_ratio`` of 0.

        Args:
            original: not called.
            query: (..., Lq, D); the rest as in ``scaled_dot_product_attention``.
            key: (..., Lk, D).
            value: (..., Lk, Dv).
            attn_mask: broadcasts to (..., Lq, Lk).
            dropout_p: vanilla dropout of the weights where nothing else is dropped.
            is_causal: query i may attend to keys 0 ... i only.
            scale: factor on the dot products.
            enable_gqa: each head of keys and values serves several heads of queries.

        Returns:
            (..., Lq, Dv).
        """
        self.num_attended += 1
        if enable_gqa:
            key, value = (
                x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value)
            )
        if attn_mask is not None and attn_mask.dtype != torch.bool:
            attn_mask = attn_mask.masked_fill(attn_mask <= MASKED, -torch.inf)
        if is_causal:
            attn_mask = _causal_mask(query, key)
        lead = torch.broadcast_shapes(*(x.shape[:-2] for x in (query, key, value)))
        query, key, value = (_with_two_axes(x, lead) for x in (query, key, value))
        if attn_mask is not None and attn_mask.dim() > 2 and len(lead) != 2:
            attn_mask = _with_two_axes(attn_mask, lead)
        drops = self.drop_ratio > 0.0
        attend = partial(
            drop_key_attention,
            query,
            key,
            value,
            self.drop_ratio if drops else dropout_p,
            unit=self.unit if drops else "weight",
            attn_mask=attn_mask,
            scale=scale,
            training=self.training,
            inference=self.inference if drops else None,
        )
        if self.reweigh is None and self.observe is None:
            output = attend()
        else:
            output, weights = attend(need_weights=True)
            used = self.finish(weights.reshape(*lead, *weights.shape[-2:]))
            if self.reweigh is not None:
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

        It does if it runs over the last axis and there are at least two others: a softmax over
        the experts of each token, or over a vector of layer weights, is left as it is.

        Args:
            original: the function that was called.
            input: the logits, (..., Lq, Lk).
            dim: axis that is to sum to 1.
            dtype: floating type to compute in.
            **rest: passed on to ``original``.

        Returns:
            the weights (..., Lq, Lk), or what ``original`` returns.
        """
        if input.dim() < 3 or dim not in (-1, input.dim() - 1):
            self.other_axis = self.other_axis or input.dim() >= 3
            return original(input, dim=dim, dtype=dtype, **rest)
        self.num_attended += 1
        if self.drop_ratio > 0.0:
            self.awaited.append(input.shape)
        logits = input.masked_fill(input <= MASKED, -torch.inf)
        weights = drop_key_softmax(
            logits if dtype is None else logits.to(dtype),
            self.drop_ratio,
            unit=self.unit,
            training=self.training,
            inference=self.inference,
        )
        return self.finish(weights)

    def drop_weights(
        self, original: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Take the place of vanilla dropout where it meets the weights: DropKey has been there.

        The first dropout after a softmax whose input has the shape of the weights is theirs.
        """
        if input.shape in self.awaited:
            self.awaited.remove(input.shape)
            return input
        return original(input, *args, **kwargs)


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
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Answer one call to torch."""
        kwargs = kwargs or {}
        answer = _ANSWERS.get(func)
        if answer is None:
            return func(*args, **kwargs)
        return answer(self.interception, func, *args, **kwargs)


_ANSWERS: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.scaled_dot_product_attention: Interception.attend,
    F.softmax: Interception.normalise,
    torch.softmax: Interception.normalise,
    torch.special.softmax: Interception.normalise,
    Tensor.softmax: Interception.normalise,
    F.dropout: Interception.drop_weights,
    torch.dropout: Interception.drop_weights,
}


def _causal_mask(query: Tensor, key: Tensor) -> Tensor:
    """Return (Lq, Lk) bool, True = may attend: each query the keys up to its own number."""
    every = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device)
    return every.tril()


def _with_two_axes(x: Tensor, lead: torch.Size) -> Tensor:
    """Bring (..., M, N), whose first axes broadcast to ``lead``, to (B, H, M, N)."""
    x = x.expand(*lead, *x.shape[-2:])
    if len(lead) < 2:
        return x.reshape(*lead, *[1] * (2 - len(lead)), *x.shape[-2:])
    return x if len(lead) == 2 else x.flatten(1, len(lead) - 1)

"""What attention loses while training: keys, or weights.

A unit is a small object without state. It says in which pattern things are dropped; how many, the
drop ratio, comes with every call. There are two kinds: a ``KeyUnit`` acts before the softmax, a
``WeightUnit`` after it.

Shapes: (B, H, Lq, Lk) = batch, heads, queries, keys.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dropkey_core.attention.masks import draw_seed, random_key_mask

# Negative, so that logits without a batch axis, or with more of them, work too.
_AXES = {"heads": -3, "queries": -2}


class KeyUnit(ABC):
    """Keys are masked before the softmax, so the weights of a query still sum to 1."""

    @abstractmethod
    def draw(
        self,
        shape: tuple[int, ...],
        drop_ratio: float,
        seed: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        allowed: Tensor | None,
    ) -> Tensor:
        """Draw which keys each query of each head loses.

        A query that would lose every key it is allowed loses none of them this time.

        Args:
            shape: (B, H, Lq, Lk); or any other that ends in (Lq, Lk).
            drop_ratio: probability in (0, 1) that a query loses a key.
            seed: 64 bits, on which alone the draw depends.
            dtype: floating type of the mask.
            device: where the mask is made.
            allowed: additive mask or logits that broadcast to ``shape``, -inf where a query may
                not attend. None: every query may attend to every key.

        Returns:
            ``allowed`` (or 0) where a key is kept and -inf where it is dropped; broadcasts to
            ``shape``
        """


class WeightUnit(ABC):
    """Weights are set to 0 after the softmax."""

    @abstractmethod
    def drop(self, weights: Tensor, drop_ratio: float) -> Tensor:
        """Drop some of the weights (B, H, Lq, Lk), each with probability ``drop_ratio``."""


Unit = KeyUnit | WeightUnit


@dataclass(frozen=True)
class Key(KeyUnit):
    """DropKey: every query of every head loses random keys of its own (Eq. 12-14).

    Attributes:
        shared_over: "heads", "queries" or both: these then lose the same keys. Empty in the paper.
    """

    shared_over: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_shared_over(self.shared_over)

    def draw(
        self,
        shape: tuple[int, ...],
        drop_ratio: float,
        seed: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        allowed: Tensor | None,
    ) -> Tensor:
        """Draw the mask, see ``KeyUnit.draw``."""
        shape = shared_shape(shape, self.shared_over)
        return random_key_mask(shape, drop_ratio, seed, dtype=dtype, device=device, allowed=allowed)


@dataclass(frozen=True)
class Weight(WeightUnit):
    """Vanilla dropout, the paper's baseline: the weights that stay grow by 1 / (1 - ratio)."""

    def drop(self, weights: Tensor, drop_ratio: float) -> Tensor:
        """Drop weights, see ``WeightUnit.drop``."""
        return F.dropout(weights, drop_ratio)


@dataclass(frozen=True)
class DropAttention(WeightUnit):
    """DropAttention (arXiv 1907.11065): dropped weights are shared out among those that stay.

    In the forward pass a row is divided by what is left of it, so that it sums to 1 again, as in
    DropKey. In the backward pass that sum counts as a constant, which is what sets the two apart:
    DropKey's gradient knows that a larger weight leaves less for the others.

    A row that would lose all its weight loses none of it this time.

    Attributes:
        shared_over: ``()`` is the paper's DropAttention(e), single elements; ``("queries",)`` its
            DropAttention(c), columns: all queries of a head lose the same keys.
        window: number of neighbouring keys that fall together. Windows start with probability
            ratio / window; where they overlap or stick out, a little less than the ratio is lost.
    """

    shared_over: tuple[str, ...] = ()
    window: int = 1

    def __post_init__(self) -> None:
        check_shared_over(self.shared_over)
        if self.window < 1:
            raise ValueError(f"window must be at least 1 key, got {self.window}")

    def drop(self, weights: Tensor, drop_ratio: float) -> Tensor:
        """Drop weights, see ``WeightUnit.drop``."""
        kept = weights.masked_fill(self._dropped(weights, drop_ratio), 0.0)
        total = kept.detach().sum(-1, keepdim=True)
        return torch.where(total > 0, kept / total.clamp_min(_tiny(total)), weights)

    def _dropped(self, weights: Tensor, drop_ratio: float) -> Tensor:
        shape = shared_shape(tuple(weights.shape), self.shared_over)
        starts = random_events(shape, drop_ratio / self.window, draw_seed(), weights.device)
        return spread_right(starts, self.window)


def random_events(
    shape: tuple[int, ...], probability: float, seed: int, device: torch.device
) -> Tensor:
    """Draw independent events, each with that probability to within 2^-24.

    Returns:
        bool tensor of that shape, True = it happens
    """
    if torch.compiler.is_compiling():  # ``seed`` means nothing then, see ``draw_seed``
        return torch.rand(shape, device=device) < probability
    generator = torch.Generator(device).manual_seed(seed)
    return torch.rand(shape, generator=generator, device=device) < probability


def spread_right(starts: Tensor, length: int) -> Tensor:
    """Let each True of (..., L) reach over ``length`` places to the right, itself included."""
    reached = starts
    for distance in range(1, min(length, starts.shape[-1])):
        reached = reached | F.pad(starts[..., :-distance], (distance, 0))
    return reached


def shared_shape(shape: tuple[int, ...], shared_over: tuple[str, ...]) -> tuple[int, ...]:
    """Return ``shape`` with length 1 for the axes that share a draw."""
    axes = {_AXES[name] % len(shape) for name in shared_over if len(shape) >= -_AXES[name]}
    return tuple(1 if axis in axes else length for axis, length in enumerate(shape))


def check_shared_over(shared_over: tuple[str, ...]) -> None:
    """Raise a ``ValueError`` unless it names heads, queries or both."""
    if isinstance(shared_over, str) or not set(shared_over) <= set(_AXES):
        raise ValueError(
            f"shared_over must be a tuple of {' and '.join(map(repr, _AXES))}, got {shared_over!r}"
        )


def _tiny(x: Tensor) -> float:
    return torch.finfo(x.dtype).tiny


UNITS: dict[str, Unit] = {
    "key": Key(),
    "weight": Weight(),
    "element": DropAttention(),
    "column": DropAttention(shared_over=("queries",)),
}


def find_unit(unit: str | Unit) -> Unit:
    """Return the unit of that name, or the unit itself.

    Raises:
        ValueError: neither a name in ``UNITS`` nor a unit.
    """
    if isinstance(unit, (KeyUnit, WeightUnit)):
        return unit
    if not isinstance(unit, str) or unit not in UNITS:
        raise ValueError(
            f"unit must be one of {', '.join(UNITS)}, or an object such as Block(window=2); "
            f"got {unit!r}"
        )
    return UNITS[unit]

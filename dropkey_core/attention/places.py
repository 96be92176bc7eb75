"""Where dropout acts: before the softmax (DropKey), after it (dropout), or re-normalised.

A place holds a pattern (``patterns.py``), so that each pattern can act at each place:

=================  =========================  ========================  =========================
pattern            ``BeforeSoftmax``          ``AfterSoftmax``          ``Renormalised``
=================  =========================  ========================  =========================
``Key()``          DropKey, "key"             dropout, "weight"         DropAttention(e), "element"
shared by queries  DropKey of columns         dropout of columns        DropAttention(c), "column"
``Window(n)``      DropKey of windows         dropout of windows        DropAttention of windows
``Block(s)``       DropKey-Block              structured dropout        DropAttention of blocks
``Cross(s)``       DropKey-Cross              structured dropout        DropAttention of crosses
=================  =========================  ========================  =========================

Rows and columns of the paper's Table 2 are ``BeforeSoftmax`` and ``AfterSoftmax`` of ``Key()``,
``Block(3)``, ``Block(5)``, ``Cross(1)`` and ``Cross(3)``. A pattern alone means before the softmax.

Shapes: (B, H, Lq, Lk) = batch, heads, queries, keys.
"""

from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from dropkey_core.attention.masks import draw_seed, minus_inf_where, random_key_mask, restrict
from dropkey_core.attention.patterns import Key, MaskDraw, Pattern


@dataclass(frozen=True)
class BeforeSoftmax:
    """DropKey (arXiv 2208.02646, Eq. 12-14): keys are masked, so weights still sum to 1.

    Attributes:
        pattern: which keys fall together.
    """

    pattern: Pattern = field(default_factory=Key)

    def mask(self, draw: MaskDraw, dtype: torch.dtype, allowed: Tensor | None) -> Tensor:
        """Draw which keys each query of each head loses; one that would lose all loses none.

        Args:
            draw: how much to drop, in which shape, from which seed.
            dtype: floating type of the mask.
            allowed: additive mask or logits that broadcast to the draw's shape, -inf where a query
                may not attend. None: every query may attend to every key.

        Returns:
            ``allowed`` (or 0) where a key is kept and -inf where it is dropped; broadcasts to the
            draw's shape
        """
        shape = self.pattern.shared_shape(draw.shape)
        if type(self.pattern) is Key:  # whose random bits become the mask without a detour
            return random_key_mask(
                shape,
                draw.drop_ratio,
                draw.seed,
                dtype=dtype,
                device=draw.device,
                allowed=allowed,
                spare=partial(self.pattern.spare, size=shape),
            )
        # torch 2.7 traces no _replace
        draw = MaskDraw(shape, draw.drop_ratio, draw.seed, draw.device)
        mask = minus_inf_where(self.pattern.dropped(draw), dtype)
        return restrict(mask, allowed, may_be_bare=True)

    def mask_logits(self, logits: Tensor, drop_ratio: float, seed: int | None) -> Tensor:
        """Return logits (..., Lq, Lk) with -inf where a key is dropped, see ``mask``."""
        draw = MaskDraw(tuple(logits.shape), drop_ratio, seed, logits.device)
        return self.mask(draw, logits.dtype, allowed=logits)


@dataclass(frozen=True)
class AfterSoftmax:
    """Dropout of attention weights, single ones (the paper's baseline) or structured (Table 2).

    A weight that stays is divided by its probability to stay, so that weights are on average what
    they are in evaluation. For single keys that is 1 - ratio; the paper does not say how its
    structured dropout does it.

    Attributes:
        pattern: which weights of a query fall together.
    """

    pattern: Pattern = field(default_factory=Key)

    def drop(self, weights: Tensor, drop_ratio: float) -> Tensor:
        """Drop some of the weights (B, H, Lq, Lk), each with about that probability in (0, 1)."""
        if self == DROPOUT:
            return F.dropout(weights, drop_ratio)
        kept = weights.masked_fill(_dropped(self.pattern, weights, drop_ratio), 0.0)
        keep = self.pattern.keep_probability(drop_ratio, weights.shape[-1], weights.shape[-2])
        return kept / (keep.to(weights) if isinstance(keep, Tensor) else keep)


@dataclass(frozen=True)
class Renormalised:
    """DropAttention (arXiv 1907.11065): after the softmax, and what is left is made to sum to 1.

    In the forward pass a row is divided by what is left of it, so that it sums to 1 again, as in
    DropKey. In the backward pass that sum counts as a constant, which is what sets the two apart:
    DropKey's gradient knows that a larger weight leaves less for the others.

    A row that would lose all its weight loses none of it this time.

    Attributes:
        pattern: which weights of a query fall together.
    """

    pattern: Pattern = field(default_factory=Key)

    def drop(self, weights: Tensor, drop_ratio: float) -> Tensor:
        """Drop some of the weights (B, H, Lq, Lk), each with about that probability in (0, 1)."""
        kept = weights.masked_fill(_dropped(self.pattern, weights, drop_ratio), 0.0)
        total = kept.detach().sum(-1, keepdim=True)
        tiny = torch.finfo(total.dtype).tiny
        return torch.where(total > 0, kept / total.clamp_min(tiny), weights)


def _dropped(pattern: Pattern, weights: Tensor, drop_ratio: float) -> Tensor:
    shape = pattern.shared_shape(tuple(weights.shape))
    seed = draw_seed(weights.device)
    return pattern.dropped(MaskDraw(shape, drop_ratio, seed, weights.device))


Unit = BeforeSoftmax | AfterSoftmax | Renormalised

DROPKEY, DROPOUT = BeforeSoftmax(), AfterSoftmax()
UNITS: dict[str, Unit] = {
    "key": DROPKEY,
    "weight": DROPOUT,
    "element": Renormalised(),
    "column": Renormalised(Key(shared_over=("queries",))),
}


def find_unit(unit: str | Pattern | Unit) -> Unit:
    """Return the unit of that name, a pattern before the softmax, or the unit itself.

    Raises:
        ValueError: neither a name in ``UNITS`` nor a pattern nor a place with a pattern.
    """
    if isinstance(unit, Pattern):
        return BeforeSoftmax(unit)
    if isinstance(unit, (BeforeSoftmax, AfterSoftmax, Renormalised)):  # torch 2.7 compiles no Unit
        if not isinstance(unit.pattern, Pattern):
            raise ValueError(
                f"pattern must be an object such as Block(size=2), got {unit.pattern!r}"
            )
        return unit
    if not isinstance(unit, str) or unit not in UNITS:
        raise ValueError(
            f"unit must be one of {', '.join(UNITS)}, a pattern such as Block(size=2), or a place "
            f"with a pattern such as AfterSoftmax(Block(size=2)); got {unit!r}"
        )
    return UNITS[unit]


def find_place(unit: str | Pattern | Unit) -> BeforeSoftmax:
    """Return the unit as ``find_unit`` does, if it acts before the softmax.

    Raises:
        ValueError: it acts after it, or is unknown.
    """
    place = find_unit(unit)
    if not isinstance(place, BeforeSoftmax):
        raise ValueError(
            'unit must act before the softmax, as "key", Block(size=2) or Key(keep_self=True) do; '
            f"got {unit!r}, for which there are drop_key_attention and drop_key_softmax"
        )
    return place

"""Dropout patterns: which keys of a query fall together, single ones, windows, blocks or crosses.

Where a pattern acts, before or after the softmax, is a choice of its own: see ``places.py``.

Blocks and crosses (arXiv 2208.02646, section 3.2) lie on the patch grid: the keys of an image are
its patches, row by row. Prefix tokens, such as a class token, have no place in that grid: they come
first, are never dropped, and as queries they lose patches like any other query. Seeds are thrown
onto the places where a whole block or cross fits, as DropBlock (arXiv 1810.12890) does. With ratio
r, a grid of h x w patches and size s the probability of a seed,

    d_block = r * h * w / (s^2 * (h - s + 1) * (w - s + 1))
    d_cross = r * h * w / (s * (h + w - s) * (h - s + 1) * (w - s + 1)),

makes the dropped areas sum to r * h * w patches on average. Where they overlap a patch is lost only
once, so the share of lost patches is below r: about 0.26 for r = 0.3 in either pattern.

Shapes: (B, H, Lq, Lk) = batch, heads, queries, keys; Lk = prefix tokens + h * w.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Negative, so that logits without a batch axis, or with more of them, work too.
_AXES = {"heads": -3, "queries": -2}


class MaskDraw(NamedTuple):
    """One call's draw.

    Attributes:
        shape: (B, H, Lq, Lk), or any other that ends in (Lq, Lk). Axes that share a draw have
            length 1.
        drop_ratio: probability in (0, 1) that a query loses a key.
        seed: 64 bits, on which alone the draw depends. None: drawn by the generator of the device,
            see ``masks.draw_seed``.
        device: where random numbers are made.
    """

    shape: tuple[int, ...]
    drop_ratio: float
    seed: int | None
    device: torch.device

    def events(self, shape: tuple[int, ...], probability: float) -> Tensor:
        """Draw independent events, each with that probability to within 2^-24.

        Returns:
            bool tensor of that shape, True = it happens
        """
        if self.seed is None:
            return torch.rand(shape, dtype=torch.float32, device=self.device) < probability
        generator = torch.Generator(self.device).manual_seed(self.seed)
        numbers = torch.rand(shape, generator=generator, dtype=torch.float32, device=self.device)
        return numbers < probability


@dataclass(frozen=True)
class Pattern(ABC):
    """Which keys a query loses in one draw. A subclass says how they lie together.

    Attributes:
        shared_over: "heads", "queries" or both: these lose the same keys. Empty in the paper.
            DropAttention's "columns" (arXiv 1907.11065) are ``Key(shared_over=("queries",))``.
            Layers cannot share: activation checkpointing repeats one alone, with the random state
            that it began with, when the forward pass that the others belonged to is long over.
    """

    shared_over: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.shared_over, str) or not set(self.shared_over) <= set(_AXES):
            raise ValueError(
                f"shared_over must be a tuple of {' and '.join(map(repr, _AXES))}, "
                f"got {self.shared_over!r}"
            )
        object.__setattr__(self, "shared_over", tuple(self.shared_over))  # a YAML has lists

    @abstractmethod
    def dropped(self, draw: MaskDraw) -> Tensor:
        """Draw which keys each query of each head loses.

        Returns:
            bool, broadcasts to ``draw.shape``, True = lost
        """

    def keep_probability(
        self, drop_ratio: float, num_keys: int, num_queries: int | None = None
    ) -> float | Tensor:
        """Return how likely a key is to stay: one number, or float32 (Lk,) or (Lq, Lk) on the CPU.

        Args:
            drop_ratio: probability in [0, 1) that a query loses a key.
            num_keys: Lk.
            num_queries: Lq. None: any other number than Lk.
        """
        return 1.0 - drop_ratio

    def shared_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return ``shape`` with length 1 for the axes that share a draw."""
        axes = {_AXES[n] % len(shape) for n in self.shared_over if len(shape) >= -_AXES[n]}
        return tuple(1 if axis in axes else length for axis, length in enumerate(shape))


@dataclass(frozen=True)
class Key(Pattern):
    """Single keys, each independent of the others: the paper's DropKey, Eq. 12-13.

    d_ij = -inf with probability ratio, else 0, for query i and key j. Keys that are never dropped
    leave that probability as it is for the others.

    Attributes:
        keep_self: whether a query never loses its own key, d_ii = 0. That says something where
            there are as many queries as keys; elsewhere, as in cross-attention, nothing.
        num_prefix_tokens: keys that come first, such as class tokens, and are never dropped.

    Raises:
        ValueError: ``num_prefix_tokens`` no number from 0 on; ``keep_self`` with a draw that the
            queries share.
    """

    keep_self: bool = field(default=False, kw_only=True)
    num_prefix_tokens: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_whole(self, "num_prefix_tokens", 0, "")
        if self.keep_self and "queries" in self.shared_over:
            raise ValueError(
                "keep_self must be False where all queries share a draw, since each has another "
                f"key of its own; got {self}"
            )

    def dropped(self, draw: MaskDraw) -> Tensor:
        """Draw, see ``Pattern.dropped``."""
        dropped = draw.events(draw.shape, draw.drop_ratio)
        self.spare(dropped, draw.shape[-2:])
        return dropped

    def keep_probability(
        self, drop_ratio: float, num_keys: int, num_queries: int | None = None
    ) -> float | Tensor:
        """Return how likely a key is to stay, see ``Pattern.keep_probability``."""
        if not self.spares:
            return 1.0 - drop_ratio
        own = self.keep_self and num_queries == num_keys
        losing = torch.full((num_keys, num_keys) if own else (1, num_keys), drop_ratio)
        self.spare(losing, losing.shape)
        return 1.0 - (losing if own else losing[0])

    @property
    def spares(self) -> bool:
        """Whether there are keys that are never dropped."""
        return self.keep_self or self.num_prefix_tokens > 0

    def spare(self, drawn: Tensor, size: Sequence[int], first_query: int = 0) -> None:
        """Set what is never dropped to 0, in place.

        Args:
            drawn: (..., R, K), R successive queries of all Lq and the first K of the Lk keys; 0 or
                False = kept.
            size: (Lq, Lk), or anything that ends in them.
            first_query: which of the queries is the first one.
        """
        if self.num_prefix_tokens:
            drawn[..., : self.num_prefix_tokens] = 0
        if self.keep_self and size[-2] == size[-1]:
            drawn.diagonal(first_query, -2, -1).zero_()


@dataclass(frozen=True)
class Window(Pattern):
    """Neighbouring keys fall together (DropAttention, arXiv 1907.11065).

    Windows start with probability ratio / length; where they overlap or stick out at the end, a
    little less than the ratio is lost.

    Attributes:
        length: number of keys in a window, from 1 to all.

    Raises:
        ValueError: ``length`` no number from 1 on.
    """

    length: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_whole(self, "length", 1, " key")

    def dropped(self, draw: MaskDraw) -> Tensor:
        """Draw, see ``Pattern.dropped``.

        Raises:
            ValueError: fewer keys than ``length``.
        """
        if self.length > draw.shape[-1]:
            raise ValueError(
                f"length must be at most the number of keys, {draw.shape[-1]}, got "
                f"Window(length={self.length}); Window(length=3) drops three neighbours together"
            )
        starts = draw.events(draw.shape, draw.drop_ratio / self.length)
        return spread_right(starts, self.length)

    def keep_probability(
        self, drop_ratio: float, num_keys: int, num_queries: int | None = None
    ) -> Tensor:
        """Return (Lk,): a key stays if none of the windows that reach it starts."""
        reaching = torch.arange(1, num_keys + 1).clamp(max=self.length)
        return (1.0 - drop_ratio / self.length) ** reaching


@dataclass(frozen=True)
class GridPattern(Pattern):
    """Patches that lie together on the grid fall together. See the top of the file.

    Attributes:
        size: side s of the pattern in patches, at least 1.
        grid: (h, w), the patches in a column and in a row. None: a square of all keys that are no
            prefix tokens.
        num_prefix_tokens: keys before the first patch; never dropped.

    Raises:
        ValueError: ``size`` no number from 1 on, ``num_prefix_tokens`` none from 0 on, or ``grid``
            no two of them.
    """

    size: int
    grid: tuple[int, int] | None = None
    num_prefix_tokens: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_whole(self, "size", 1, " patch")
        _check_whole(self, "num_prefix_tokens", 0, "")
        if self.grid is not None:
            object.__setattr__(self, "grid", _two_lengths(self))

    def dropped(self, draw: MaskDraw) -> Tensor:
        """Draw, see ``Pattern.dropped``.

        Raises:
            ValueError: the keys do not fill the grid, or the pattern does not fit into it.
        """
        height, width = self.find_grid(draw.shape[-1])
        places = (*draw.shape[:-1], height - self.size + 1, width - self.size + 1)
        seeds = draw.events(places, self.seed_probability(draw.drop_ratio, height, width))
        return F.pad(self.grow(seeds).flatten(-2), (self.num_prefix_tokens, 0))  # (..., Lq, Lk)

    def keep_probability(
        self, drop_ratio: float, num_keys: int, num_queries: int | None = None
    ) -> Tensor:
        """Return (Lk,): a patch stays if none of the seeds that reach it is thrown.

        Raises:
            ValueError: as ``dropped``.
        """
        height, width = self.find_grid(num_keys)
        missed = 1.0 - self.seed_probability(drop_ratio, height, width)
        reaching = self.num_reaching(height, width).flatten()
        return F.pad(missed**reaching, (self.num_prefix_tokens, 0), value=1.0)

    def find_grid(self, num_keys: int) -> tuple[int, int]:
        """Return (h, w) for that many keys, prefix tokens included.

        Raises:
            ValueError: the keys do not fill the grid, or the pattern does not fit into it.
        """
        num_patches = num_keys - self.num_prefix_tokens
        side = math.isqrt(max(num_patches, 0))
        height, width = self.grid or (side, side)
        if height * width != num_patches or num_patches < 1:
            wanted = f"{height} x {width} patches" if self.grid else "a square of patches"
            raise ValueError(
                f"{num_keys} keys are not {self.num_prefix_tokens} prefix tokens and {wanted}; "
                "set grid=(h, w) and num_prefix_tokens"
            )
        if self.size > min(height, width):
            raise ValueError(
                f"size must be at most {min(height, width)} on a grid of {height} x {width}, "
                f"got {self.size}"
            )
        return height, width

    def seed_probability(self, drop_ratio: float, height: int, width: int) -> float:
        """Return d_block or d_cross: how likely a place is the corner of a dropped pattern."""
        places = (height - self.size + 1) * (width - self.size + 1)
        return drop_ratio * height * width / (self.area(height, width) * places)

    @abstractmethod
    def area(self, height: int, width: int) -> int:
        """Return the number of patches that one pattern covers."""

    @abstractmethod
    def grow(self, seeds: Tensor) -> Tensor:
        """Turn seeds (..., h - s + 1, w - s + 1) into dropped patches (..., h, w); both bool."""

    @abstractmethod
    def num_reaching(self, height: int, width: int) -> Tensor:
        """Return (h, w) int64: how many of the places for seeds would drop each patch."""

    def _stretch(self, seeds: Tensor) -> Tensor:
        """Let seeds (..., L - s + 1) reach over s places: (..., L)."""
        return spread_right(F.pad(seeds, (0, self.size - 1)), self.size)

    def _num_reaching_along(self, length: int) -> Tensor:
        """Return (L,) int64: how many of the L - s + 1 stretches of s places cover each place."""
        index = torch.arange(length)
        most = min(self.size, length - self.size + 1)
        return torch.minimum(index, index.flip(0)).add(1).clamp(max=most)


@dataclass(frozen=True)
class Block(GridPattern):
    """Windows of s x s patches. Before the softmax they are the paper's DropKey-Block."""

    def area(self, height: int, width: int) -> int:
        """Return s * s."""
        return self.size**2

    def grow(self, seeds: Tensor) -> Tensor:
        """Return the windows whose upper left corner is a seed."""
        return self._stretch(self._stretch(seeds).mT).mT

    def num_reaching(self, height: int, width: int) -> Tensor:
        """Return how many windows cover each patch."""
        rows, columns = self._num_reaching_along(height), self._num_reaching_along(width)
        return rows[:, None] * columns


@dataclass(frozen=True)
class Cross(GridPattern):
    """Stripes of s whole rows and of s whole columns: before the softmax, DropKey-Cross."""

    def area(self, height: int, width: int) -> int:
        """Return s * (h + w - s): s columns and s rows less the square where they cross."""
        return self.size * (height + width - self.size)

    def grow(self, seeds: Tensor) -> Tensor:
        """Return the crosses whose centre square has a seed as its upper left corner."""
        rows, columns = self._stretch(seeds.any(-1)), self._stretch(seeds.any(-2))
        return rows.unsqueeze(-1) | columns.unsqueeze(-2)

    def num_reaching(self, height: int, width: int) -> Tensor:
        """Return how many crosses cover each patch: by their rows, by their columns, less both."""
        rows = self._num_reaching_along(height)[:, None]
        columns = self._num_reaching_along(width)
        places = height - self.size + 1, width - self.size + 1
        return rows * places[1] + columns * places[0] - rows * columns


def spread_right(starts: Tensor, length: int) -> Tensor:
    """Let each True of (..., L) reach over ``length`` places to the right, itself included."""
    reached = starts
    for distance in range(1, min(length, starts.shape[-1])):
        reached = reached | F.pad(starts[..., :-distance], (distance, 0))
    return reached


def _check_whole(pattern: Pattern, name: str, least: int, what: str) -> None:
    """Refuse a setting that is no whole number of at least that many."""
    value = getattr(pattern, name)
    if not _is_whole(value) or value < least:
        raise ValueError(
            f"{name} must be at least {least}{what}, a whole number as in {_example(pattern)}, "
            f"got {value!r}"
        )


def _two_lengths(pattern: GridPattern) -> tuple[int, int]:
    grid = pattern.grid
    lengths = tuple(grid) if isinstance(grid, Sequence) else ()  # a YAML has lists
    if len(lengths) != 2 or not all(_is_whole(length) and length > 0 for length in lengths):
        raise ValueError(
            "grid must be two whole numbers (h, w), the patches in a column and in a row, as in "
            f"{type(pattern).__name__}(size={pattern.size}, grid=(14, 14)), got {grid!r}"
        )
    return lengths


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _example(pattern: Pattern) -> str:
    """Return how a pattern of that kind is made."""
    settings = {"Key": "num_prefix_tokens=1", "Window": "length=3"}
    return f"{type(pattern).__name__}({settings.get(type(pattern).__name__, 'size=2')})"


# The paper's DropKey: any key may be dropped.
SINGLE_KEYS = Key()

"""Keys dropped in blocks or crosses of the patch grid (arXiv 2208.02646, section 3.3).

The keys of an image are its patches, row by row. Prefix tokens, such as a class token, have no
place in that grid: they come first, are never dropped, and as queries they lose patches like any
other query.

Both units throw seeds onto the places where a whole block or cross fits, as DropBlock
(arXiv 1810.12890) does. With ratio r, a grid of h x w patches and size s the probability of a seed,

    d_block = r * h * w / (s^2 * (h - s + 1) * (w - s + 1))
    d_cross = r * h * w / (s * (h + w - s) * (h - s + 1) * (w - s + 1)),

makes the dropped areas sum to r * h * w patches on average. Where they overlap a patch is lost only
once, so the share of lost patches is below r: about 0.26 for r = 0.3 in either pattern.

Shapes: (B, H, Lq, Lk) = batch, heads, queries, keys; Lk = prefix tokens + h * w.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dropkey_core.attention.masks import restrict
from dropkey_core.attention.units import KeyUnit, random_events, spread_right


@dataclass(frozen=True)
class StructuredUnit(KeyUnit):
    """Every query of every head loses patches that lie together.

    Attributes:
        size: side s of the pattern in patches, at least 1.
        grid: (h, w), the patches in a column and in a row. None: a square of all keys that are no
            prefix tokens.
        num_prefix_tokens: keys before the first patch; never dropped.
    """

    size: int
    grid: tuple[int, int] | None = None
    num_prefix_tokens: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1 patch, got {self.size}")
        if self.num_prefix_tokens < 0:
            raise ValueError(f"num_prefix_tokens must be at least 0, got {self.num_prefix_tokens}")

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
        """Draw the mask, see ``KeyUnit.draw``.

        Raises:
            ValueError: the keys do not fill the grid, or the pattern does not fit into it.
        """
        height, width = self.find_grid(shape[-1])
        places = (*shape[:-1], height - self.size + 1, width - self.size + 1)
        seeds = random_events(
            places, self.seed_probability(drop_ratio, height, width), seed, device
        )
        dropped = F.pad(self.grow(seeds).flatten(-2), (self.num_prefix_tokens, 0))  # (..., Lq, Lk)
        mask = torch.zeros(shape, dtype=dtype, device=device).masked_fill_(dropped, -torch.inf)
        return restrict(mask, allowed, may_be_bare=True)

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

    def _stretch(self, seeds: Tensor) -> Tensor:
        """Let seeds (..., L - s + 1) reach over s places: (..., L)."""
        return spread_right(F.pad(seeds, (0, self.size - 1)), self.size)


@dataclass(frozen=True)
class Block(StructuredUnit):
    """DropKey-Block: windows of s x s patches fall together."""

    def area(self, height: int, width: int) -> int:
        """Return s * s."""
        return self.size**2

    def grow(self, seeds: Tensor) -> Tensor:
        """Return the windows whose upper left corner is a seed."""
        return self._stretch(self._stretch(seeds).mT).mT


@dataclass(frozen=True)
class Cross(StructuredUnit):
    """DropKey-Cross: stripes of s whole rows and of s whole columns fall together."""

    def area(self, height: int, width: int) -> int:
        """Return s * (h + w - s): s columns and s rows less the square where they cross."""
        return self.size * (height + width - self.size)

    def grow(self, seeds: Tensor) -> Tensor:
        """Return the crosses whose centre square has a seed as its upper left corner."""
        rows, columns = self._stretch(seeds.any(-1)), self._stretch(seeds.any(-2))
        return rows.unsqueeze(-1) | columns.unsqueeze(-2)

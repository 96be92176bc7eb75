"""Random bits for key masks: a few words per query, hashed with a word per key.

A mask has Lq x Lk random entries, but drawing that many random numbers is slow: torch's generator
makes them one after another, on one core. So only two words a (odd) and b per query and a word c
per four keys are drawn; the four random bytes that a query has for these keys are

    x = a * c + b;  x = x ^ (x >> 16);  x = x * M;  x = x ^ (x >> 16)

in 32 bits that wrap around. All cores make them, in steps that fit in the cache, and any part of
the mask can be made at any time, again and again.

b makes every byte uniform, exactly. a makes the words of two columns independent of each other over
the queries, and the rest, which maps words one to one, breaks up what is linear in them.

Shapes: Lq, Lk = queries, keys; "..." = the axes before, such as batch and heads.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Entries made at a time, on a CPU: their bytes and the mask fit in the cache.
STEP_SIZE = 2**21

# From the finaliser of MurmurHash3 (Austin Appleby, public domain), as a signed number.
_FACTOR = 0x85EBCA6B - 2**32

# Integers of the same width, and which of them has the bits of -inf.
_BITS_OF_MINUS_INF = {
    torch.float16: (torch.int16, -0x400),
    torch.bfloat16: (torch.int16, -0x80),
    torch.float32: (torch.int32, -0x80_0000),
    torch.float64: (torch.int64, -0x10_0000_0000_0000),
}


@dataclass(frozen=True)
class KeyDraw:
    """The keys that each query loses in one call (DropKey, Eq. 12-13).

    A byte tells apart 256 levels only, so each query compares its bytes with a threshold of its
    own: 256 times the ratio, rounded up or down at random so that it is right on average. Each key
    is then dropped with the right probability to within 2^-24; the keys of a query share its
    rounding, which moves the share of keys that it loses by at most 0.2% (one standard deviation).

    Attributes:
        factors: (..., Lq, 1) int32, odd; a above.
        offsets: (..., Lq, 1) int32; b above.
        columns: (ceil(Lk / 4),) int32; c above.
        thresholds: (..., Lq, 1) int8.
        num_keys: Lk.
        drops_below: whether a key is dropped where its byte is below the threshold, or where not.
    """

    factors: Tensor
    offsets: Tensor
    columns: Tensor
    thresholds: Tensor
    num_keys: int
    drops_below: bool

    @classmethod
    def sample(
        cls, shape: tuple[int, ...], drop_ratio: float, generator: torch.Generator
    ) -> "KeyDraw":
        """Draw for a mask of that shape.

        Args:
            shape: (..., Lq, Lk).
            drop_ratio: probability in [0, 1) that a query loses a key.
            generator: source of the random numbers, on the device where the mask will be made.
        """
        per_query = (*shape[:-1], 1)
        factors, offsets = _random_words((2, *per_query), generator).unbind()
        # A threshold reaches -128 but not 128, so what lies below it is the rarer outcome.
        drops_below = drop_ratio <= 0.5
        return cls(
            factors=factors | 1,
            offsets=offsets,
            columns=_random_words((-(-shape[-1] // 4),), generator),
            thresholds=_random_thresholds(
                per_query, drop_ratio if drops_below else 1.0 - drop_ratio, generator
            ),
            num_keys=shape[-1],
            drops_below=drops_below,
        )

    def part(self, queries: tuple[slice, ...], num_keys: int) -> "KeyDraw":
        """Return the draw for some queries, by slices of the axes before Lk, and the first keys."""
        return KeyDraw(
            self.factors[queries],
            self.offsets[queries],
            self.columns[: -(-num_keys // 4)],
            self.thresholds[queries],
            num_keys,
            self.drops_below,
        )

    def mask(self, dtype: torch.dtype, scratch: "Scratch | None" = None) -> Tensor:
        """Make the additive mask (..., Lq, Lk): -inf where a key is dropped, else 0.

        Args:
            dtype: floating type of the mask.
            scratch: what to make it in; the next mask made in it overwrites this one. None: new
                memory.
        """
        device, leading = self.factors.device, self.factors.shape[:-1]
        num_queries = leading[-1] if leading else 1
        shape = math.prod(leading[:-1]), num_queries, self.num_keys
        if scratch is None:
            scratch, mask = Scratch(device), torch.empty(shape, dtype=dtype, device=device)
        else:
            mask = scratch.empty("mask", shape, dtype)
        per_query = (self.factors, self.offsets, self.thresholds)
        factors, offsets, thresholds = (x.reshape(*shape[:2], 1) for x in per_query)
        # Some queries of all heads rather than all of some: then each core makes the heads that it
        # will attend with, and finds them in its own cache. Elsewhere than on a CPU, all at once.
        num_steps = -(-mask.numel() // STEP_SIZE) if device.type == "cpu" else 1
        step = max(1, -(-num_queries // max(1, num_steps)))
        for start in range(0, num_queries, step):
            part = slice(None), slice(start, start + step)
            noise = self._noise(factors[part], offsets[part], scratch)
            self._compare(noise, thresholds[part], out=mask[part])
        return mask.view(*leading, self.num_keys)

    def _noise(self, factors: Tensor, offsets: Tensor, scratch: "Scratch") -> Tensor:
        """Make random bytes (..., Lk) of words (..., 1), see the top of the file."""
        shape = (*factors.shape[:-1], len(self.columns))
        words = scratch.empty("words", shape, torch.int32)
        shifted = scratch.empty("shifted", shape, torch.int32)
        torch.mul(factors, self.columns, out=words)
        words.add_(offsets)  # addcmul is slow where two tensors broadcast
        _fold(words, shifted)
        words.mul_(_FACTOR)
        _fold(words, shifted)
        return words.view(torch.int8)[..., : self.num_keys]

    def _compare(self, noise: Tensor, thresholds: Tensor, out: Tensor) -> None:
        # Integers of the width of the result: 0 or 1, times the bits of -inf. The comparison is
        # written over the noise, in bytes, because into wider integers it would take a detour.
        integer, minus_inf = _BITS_OF_MINUS_INF[out.dtype]
        (torch.lt if self.drops_below else torch.ge)(noise, thresholds, out=noise)
        out.view(integer).copy_(noise).mul_(minus_inf)


class Scratch:
    """Memory that every piece of a mask is made in again.

    New memory costs several times as much as what is then written to it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[str, Tensor] = {}

    def empty(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return memory for a tensor of that shape; the same as last time under that name."""
        size = math.prod(shape)
        if name not in self._buffers or self._buffers[name].numel() < size:
            self._buffers.pop(name, None)  # before the larger one is made
            self._buffers[name] = torch.empty(size, dtype=dtype, device=self._device)
        return self._buffers[name][:size].view(shape)


def _fold(words: Tensor, shifted: Tensor) -> None:
    torch.bitwise_right_shift(words, 16, out=shifted)
    shifted.bitwise_and_(0xFFFF)  # what came in from the left is the sign
    words.bitwise_xor_(shifted)


def _random_words(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    words = torch.empty(shape, dtype=torch.int32, device=generator.device)
    return words.random_(-(2**31), None, generator=generator)


def _random_thresholds(shape: tuple[int, ...], share: float, generator: torch.Generator) -> Tensor:
    """Draw int8 thresholds below which lies, on average, that ``share`` of all bytes."""
    device = generator.device
    rounding = torch.rand(shape, dtype=torch.float32, device=device, generator=generator)
    return (rounding + 256 * share).floor_().sub_(128).to(torch.int8)

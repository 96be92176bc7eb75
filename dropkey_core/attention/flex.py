"""FlexAttention kernel of DropKey for CUDA: random bits by a hash, no mask in memory.

Taken where ``DROPKEY_BACKEND=flex`` asks for it; not yet tried on a GPU.

Whether a query loses a key is a hash of (seed, batch, head, query, key). The kernel works it out
for the tile at hand, forward and backward, so that memory grows with N and not with N x N.

Shapes: (B, H, L, D) = batch, heads, tokens, head_dim; Lq, Lk = queries, keys.

The hash has two parts, since N x N times as few steps as possible are wanted:

- per query, two words a (odd) and b; per key, one word c. They are mixed well, from the seed and
  the position, and kept in memory: 2 * B * H * Lq + Lk words.
- per query and key, the word ``x = a * c + b``, of which the upper half is folded onto the lower
  and spread again by one more product. b makes x uniform; a makes the words of any two keys
  independent of each other over the queries; the last step breaks up what is linear in it.

All of it is int32 arithmetic that wraps around. torch has no unsigned one, so a right shift repeats
the sign bit and is followed by a mask. The positions a kernel counts in may be 64 bits wide, where
nothing would wrap: it only looks words up with them.
"""

import importlib.util
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from dropkey_core.attention.masks import RESCUING_SHIFT, check_mask_type, may_lose_all
from dropkey_core.attention.patterns import SINGLE_KEYS, Key, MaskDraw

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

# Below this the dense mask is small and compiling is not worth it. Not measured yet.
FEWEST_QUERIES, FEWEST_KEYS = 128, 512

BACKEND_VARIABLE = "DROPKEY_BACKEND"

_HAS_TRITON = torch.version.cuda is not None and importlib.util.find_spec("triton") is not None
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# The finaliser of MurmurHash3 (Austin Appleby, public domain), as signed numbers.
_FIRST_FACTOR = 0x85EBCA6B - 2**32
_SECOND_FACTOR = 0xC2B2AE35 - 2**32


def is_chosen(value: str | None) -> bool:
    """Tell whether a value of ``DROPKEY_BACKEND`` asks for FlexAttention.

    Raises:
        ValueError: a value other than "flex" that is not empty.
    """
    if value not in (None, "", "flex"):
        raise ValueError(
            f'{BACKEND_VARIABLE} must be "flex" or not set, got {value!r}: not set, attention on '
            "a GPU takes a dense mask"
        )
    return value == "flex"


# Read once, when this module is imported.
_IS_CHOSEN = is_chosen(os.environ.get(BACKEND_VARIABLE))


class TooManyKernels(RuntimeError):
    """torch compiles no further kernel: there is one for as many kinds of inputs as it allows."""


class KeyHash(NamedTuple):
    """The words from which one call's random bits are made, all int32.

    Attributes:
        factors: (B, H, Lq), odd.
        offsets: (B, H, Lq).
        columns: (Lk,).
        threshold: (); a key is dropped where the bits lie below it.
    """

    factors: Tensor
    offsets: Tensor
    columns: Tensor
    threshold: Tensor


def flex_drop_key_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    drop_ratio: float,
    seed: int | None,
    *,
    pattern: Key = SINGLE_KEYS,
    attn_mask: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    diagonal: int | None = None,
    scale: float | None = None,
) -> Tensor:
    """DropKey attention (Eq. 12-14) that stores no (Lq, Lk) tensor; with gradients on CUDA only.

    The same as ``drop_key_attention`` with the mask of ``BeforeSoftmax(HashedKey())``. The first
    call of a kind compiles a kernel, which takes seconds; a new seed or ratio does not.

    Args:
        query: (B, H, Lq, D), float32, float16 or bfloat16.
        key: (B, H, Lk, D); or with fewer heads, a divisor of H, of which each serves as many
            successive heads of ``query``.
        value: (B, H, Lk, Dv), with as many heads as ``key``.
        drop_ratio: as in ``drop_key_attention``, like the two masks, which get no gradient, and
            ``scale``.
        seed: 64 bits, on which alone the draw depends, see ``masks.draw_seed``; None in compiled
            code, as there.
        pattern: which keys are never dropped.
        attn_mask: broadcasts to (B, H, Lq, Lk), and stays as small as it is.
        key_padding_mask: (B, Lk).
        diagonal: query i may attend to the keys 0 ... i + diagonal only. None: to all.
        scale: factor on the dot products.

    Returns:
        the output (B, H, Lq, Dv)

    Raises:
        ValueError: a mask neither bool nor floating.
        TooManyKernels: each combination of head_dim, heads, type, kinds of masks and (the first)
            lengths is compiled once for the process, up to ``torch._dynamo.config.recompile_limit``
            of them; 8 unless set.
    """
    check_mask_type("attn_mask", attn_mask)
    check_mask_type("key_padding_mask", key_padding_mask)
    masks = [] if attn_mask is None else [attn_mask]
    if key_padding_mask is not None:
        is_bool = key_padding_mask.dtype == torch.bool
        padding = ~key_padding_mask if is_bool else key_padding_mask
        masks.append(padding[:, None, None, :])  # (B, 1, 1, Lk)
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    shape = (*query.shape[:-1], key.shape[-2])
    rule = _Rule(
        num_prefix_tokens=_number(pattern.num_prefix_tokens or None, query.device),
        spares_own=pattern.keep_self and shape[-2] == shape[-1],
        diagonal=_number(diagonal, query.device),
        may_be_bare=seed is None
        or bool(masks)
        or diagonal is not None
        or may_lose_all(shape, drop_ratio, None),
        scale=torch.full((), scale, dtype=torch.float32, device=query.device),
    )
    if seed is None:  # then this is a part of the caller's graph
        words = _key_hash(shape, _drawn_settings(drop_ratio, query.device))
        return _attend(query, key, value, words, masks, None, rule)
    settings = _settings(seed, drop_ratio, query.device)
    one_block = _one_block(query.device)
    try:
        words = _compiled(_key_hash)(shape, settings)
        return _compiled(_attend)(query, key, value, words, masks, one_block, rule)
    except torch._dynamo.exc.FailOnRecompileLimitHit as error:
        raise TooManyKernels from error


def flex_fits(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    attn_mask: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
) -> bool:
    """Tell whether ``flex_drop_key_attention`` is chosen, can take these inputs and likely pays.

    It is chosen by ``DROPKEY_BACKEND=flex`` in the environment, read when this module is imported.
    It likely pays on an NVIDIA GPU of compute capability 8.0 or more with Triton installed; for
    float32, float16 and bfloat16; at least 128 queries and 512 keys; heads of width 16 to 256;
    masks that are not learned. Looks at no values, so nobody waits for the device.

    Arguments are those of ``flex_drop_key_attention``.
    """
    masks = [mask for mask in (attn_mask, key_padding_mask) if mask is not None]
    return (
        _IS_CHOSEN
        and query.device.type == "cuda"
        and query.dtype in _DTYPES
        and query.dtype == key.dtype == value.dtype
        and query.dim() == 4
        and query.shape[0] == key.shape[0]
        and query.shape[1] % max(key.shape[1], 1) == 0
        and key.shape[:2] == value.shape[:2]
        and query.shape[2] >= FEWEST_QUERIES
        and key.shape[2] >= FEWEST_KEYS
        and all(16 <= x.shape[3] <= 256 for x in (query, value))
        and not any(mask.requires_grad for mask in masks)
        and _HAS_TRITON
        and torch.cuda.get_device_properties(query.device).major >= 8
        and not torch.compiler.is_exporting()
    )


@dataclass(frozen=True)
class HashedKey(Key):
    """Single keys as ``flex_drop_key_attention`` drops them under a seed: its reference.

    The same on every device, and each key with the ratio to within 2^-32.
    """

    @classmethod
    def like(cls, pattern: Key) -> "HashedKey":
        """Return the one that drops what ``pattern`` does, which shares no draw."""
        return cls(keep_self=pattern.keep_self, num_prefix_tokens=pattern.num_prefix_tokens)

    def dropped(self, draw: MaskDraw) -> Tensor:
        """Draw, see ``Pattern.dropped``; of shapes (B, H, Lq, Lk)."""
        if draw.seed is None:
            return super().dropped(draw)
        words = _key_hash(draw.shape, _settings(draw.seed, draw.drop_ratio, draw.device))
        bits = _bits(words.factors[..., None], words.offsets[..., None], words.columns)
        dropped = bits < words.threshold
        self.spare(dropped, draw.shape)
        return dropped


class _Rule(NamedTuple):
    """What the kernel has to know of the place of a query and a key; numbers are tensors of ().

    Attributes:
        num_prefix_tokens: keys that come first and are never dropped. None: no such keys.
        spares_own: whether query i never loses key i.
        diagonal: query i may attend to the keys 0 ... i + diagonal. None: to all.
        may_be_bare: whether a query may lose every key that it may attend to.
        scale: factor on the dot products; as a number it would be a kernel of its own.
    """

    num_prefix_tokens: Tensor | None
    spares_own: bool
    diagonal: Tensor | None
    may_be_bare: bool
    scale: Tensor


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    words: KeyHash,
    masks: list[Tensor],
    block_mask: "BlockMask | None",
    rule: _Rule,
) -> Tensor:
    """What is compiled. All that changes from call to call is in tensors."""
    from torch.nn.attention.flex_attention import flex_attention  # takes a third of a second

    factors, offsets, columns, threshold = words
    restrictions = [_restriction(mask) for mask in masks]
    shift = RESCUING_SHIFT if rule.may_be_bare else torch.inf

    def modify(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        score = score * rule.scale
        for restriction in restrictions:
            score = restriction(score, b, h, q, k)
        if rule.diagonal is not None:
            score = torch.where(k <= q + rule.diagonal, score, -torch.inf)
        dropped = _bits(factors[b, h, q], offsets[b, h, q], columns[k]) < threshold
        if rule.num_prefix_tokens is not None:
            dropped = dropped & (k >= rule.num_prefix_tokens)
        if rule.spares_own:
            dropped = dropped & (q != k)
        return torch.where(dropped, score - shift, score)

    return flex_attention(
        query,
        key,
        value,
        score_mod=modify,
        block_mask=block_mask,
        scale=1.0,
        enable_gqa=query.shape[1] != key.shape[1],
    )


@cache
def _compiled(function: Callable) -> Callable:
    # In full or not at all: what torch runs in its place would store Lq x Lk scores.
    return torch.compile(function, fullgraph=True)


@cache
def _one_block(device: torch.device) -> "BlockMask":
    """Return the block mask that restricts nothing, which torch would make anew in every call."""
    from torch.nn.attention.flex_attention import BlockMask

    with torch.inference_mode(False):  # for what may first be called there
        count = torch.ones(1, 1, 1, dtype=torch.int32, device=device)
        index = torch.zeros(1, 1, 1, 1, dtype=torch.int32, device=device)
        return BlockMask.from_kv_blocks(count, index, BLOCK_SIZE=2**30)


def _restriction(mask: Tensor) -> Callable[..., Tensor]:
    """Return the function of (score, b, h, q, k) that applies a mask without expanding it."""
    mask = mask.reshape((1,) * (4 - mask.dim()) + tuple(mask.shape))  # (B or 1, H or 1, ...)
    axes = [axis for axis in range(4) if mask.shape[axis] != 1]
    mask = mask.reshape([mask.shape[axis] for axis in axes])

    def restrict_score(score: Tensor, *position: Tensor) -> Tensor:
        entry = mask[tuple(position[axis] for axis in axes)] if axes else mask
        if mask.dtype == torch.bool:
            return torch.where(entry, score, -torch.inf)
        return score + entry

    return restrict_score


def _settings(seed: int, drop_ratio: float, device: torch.device) -> Tensor:
    """Return (2,) int64: the seed, and below what the bits of a dropped key lie."""
    # The copy takes the values at once, so this never waits for the device.
    return torch.tensor((seed, _threshold(drop_ratio))).to(device, non_blocking=True)


def _drawn_settings(drop_ratio: float, device: torch.device) -> Tensor:
    """Return the same with a seed from the device's generator, in operations that compile."""
    upper, lower = torch.randint(-(2**31), 2**31, (2,), device=device).unbind()
    # In a tensor, since a compiler may make a ratio that has changed a variable.
    threshold = torch.full((), drop_ratio, dtype=torch.float64, device=device) * 2**32
    threshold = threshold.round().clamp(max=2**32 - 1).to(torch.int64) - 2**31
    return torch.stack(((upper << 32) ^ lower, threshold))


def _number(number: int | None, device: torch.device) -> Tensor | None:
    # A kernel is compiled once for all numbers that are in tensors.
    return None if number is None else torch.full((), number, dtype=torch.int32, device=device)


def _threshold(drop_ratio: float) -> int:
    return min(round(drop_ratio * 2**32), 2**32 - 1) - 2**31


def _key_hash(shape: tuple[int, ...], seed_and_threshold: Tensor) -> KeyHash:
    """Mix the words for a mask of that shape (B, H, Lq, Lk)."""
    seed, threshold = seed_and_threshold.unbind()
    num_rows = math.prod(shape[:-1])
    return KeyHash(
        factors=(_random_words(num_rows, seed, stream=1) | 1).view(shape[:-1]),
        offsets=_random_words(num_rows, seed, stream=2).view(shape[:-1]),
        columns=_random_words(shape[-1], seed, stream=3),
        threshold=threshold.to(torch.int32),
    )


def _random_words(count: int, seed: Tensor, stream: int) -> Tensor:
    """Return (count,) int32, all different: mixed from position, stream and both halves of a seed.

    The position comes first, as a counter does. Streams differ in bits that no position reaches.
    """
    words = torch.arange(count, dtype=torch.int32, device=seed.device) ^ (stream << 29)
    for half in (seed.to(torch.int32), (seed >> 32).to(torch.int32)):
        words = _mix(_mix(words) ^ half)
    return words


def _mix(x: Tensor) -> Tensor:
    """Turn int32 into int32, one to one, so that every bit depends on every bit."""
    x = (x ^ _shift_right(x, 16)) * _FIRST_FACTOR
    x = (x ^ _shift_right(x, 13)) * _SECOND_FACTOR
    return x ^ _shift_right(x, 16)


def _shift_right(x: Tensor, places: int) -> Tensor:
    return (x >> places) & (2 ** (32 - places) - 1)


def _bits(factor: Tensor, offset: Tensor, column: Tensor) -> Tensor:
    """Return 32 random bits as int32, uniform over its range, for words that broadcast."""
    x = factor * column + offset
    return (x ^ _shift_right(x, 16)) * _FIRST_FACTOR

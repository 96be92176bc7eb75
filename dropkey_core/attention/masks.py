"""Additive attention masks: random keys, padding, causal attention, and how they are merged.

*Additive* is 0 where a query may attend to a key and -inf where it may not. A *diagonal* says
causal attention in one number, as in ``torch.tril``: query i may attend to the keys
0 ... i + diagonal. It is 0 for ``is_causal`` and ``causal_upper_left`` and Lk - Lq for
``causal_lower_right``, where the last query may attend to every key.

Shapes: (B, H, Lq, Lk) = batch, heads, queries, keys.
"""

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dropkey_core.attention.draw import KeyDraw

# Sets some entries of a drawn mask (..., Lq, Lk) to 0, in place.
Spare = Callable[[Tensor], None]

# Below this probability nobody looks for queries that lost all their keys.
NEGLIGIBLE = 2.0**-40

# What the logit of a dropped key is lowered by where a query might lose every key it may attend to.
# The softmax does not see a shift that all its logits share, so such a query keeps them all. Beside
# a key that is kept, a dropped one gets exp(-2048) = 0. With -inf, as the dense mask has it, such
# queries would be nan or nothing, and finding them would take a pass of its own over all N x N.
# Why 2048: the larger the shift, the coarser float32 beside it (2^-13 here, finer than half
# precision is around 1); the smaller, the sooner a dropped logit shows again (here once it is 1,900
# above all that are kept, where the softmax has long had one key only). A key with a bias far below
# -2048, such as the smallest finite number, counts as one that the query may not attend to.
RESCUING_SHIFT = 2048.0

# A key whose logit is this far below the largest one of its row is masked. Its weight is at most
# e^-64 = 2e-28, which no floating type sees beside 1. Many models add a number, from Swin's -100 to
# the lowest of the type, where they mean -inf. What counts is the distance: a softmax does not
# change where all logits are low.
FAR = 64.0


def draw_seed(device: torch.device | None = None) -> int | None:
    """Draw 64 bits from torch's default CPU generator, whatever the device of the model.

    So ``torch.manual_seed`` governs every mask, activation checkpointing, which restores that
    generator, repeats it, and drawing never waits for an accelerator.

    None where there is no number to be had, or one that would stay the same in every call: in code
    that torch compiles, exports or traces; in ``torch.vmap`` with ``randomness="different"``; for
    fake tensors and those on "meta". What follows then draws from the generator of the device
    instead, which torch follows, transforms or does without.

    Args:
        device: where the mask will be made. None: somewhere real.
    """
    if _is_traced() or (device is not None and device.type == "meta"):
        return None
    return value_of(torch.randint(-(2**63), 2**63 - 1, (), device="cpu"))


def value_of(x: Tensor) -> int | None:
    """Return the number in ``x``, of shape (); None if it has none: fake, traced, or many at once.

    Those of ``torch.vmap`` have as many as there are samples.
    """
    try:
        return int(x.item())
    except RuntimeError:  # what each of them raises
        return None


def random_key_mask(
    shape: tuple[int, ...],
    drop_ratio: float,
    seed: int | None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    allowed: Tensor | None = None,
    spare: Spare | None = None,
) -> Tensor:
    """Draw which keys each query of each head loses (DropKey, Eq. 12-14).

    A query that would lose every key it is allowed loses none of them this time. Looking for such
    queries takes a pass over the mask, so it is left out where their expected number is below
    2^-40; should one turn up all the same, it attends to nothing and its output is 0.

    Args:
        shape: (B, H, Lq, Lk); axes that share a draw may have length 1.
        drop_ratio: probability in [0, 1) that a query loses a key.
        seed: 64 bits, on which alone the draw depends (devices draw differently from one seed).
            None: drawn by the generator of the device, see ``draw_seed``.
        dtype: floating type of the mask.
        device: where the mask is made.
        allowed: additive mask or logits that broadcast with ``shape``, of that type: the keys a
            query may attend to at all. None: every key.
        spare: sets the entries of the drawn mask that shall never be dropped to 0, in place.

    Returns:
        additive mask of that shape, with ``allowed`` merged in
    """
    if seed is None:
        # With what a compiler understands: no generator, nothing that depends on values. Each key
        # is dropped with the right probability to within 2^-24.
        numbers = torch.rand(shape, dtype=torch.float32, device=device)
        mask = minus_inf_where(numbers < drop_ratio, dtype)
        may_be_bare = True
    else:
        generator = torch.Generator(device).manual_seed(seed)
        mask = KeyDraw.sample(shape, drop_ratio, generator).mask(dtype)
        may_be_bare = may_lose_all(shape, drop_ratio, allowed)
    if spare is not None:
        spare(mask)
    return restrict(mask, allowed, may_be_bare=may_be_bare)


def restrict(mask: Tensor, allowed: Tensor | None, *, may_be_bare: bool) -> Tensor:
    """Merge a drawn mask with what is allowed at all; give back all keys where none is left.

    Args:
        mask: additive, (..., Lq, Lk); overwritten where it can be.
        allowed: additive mask or logits, broadcasts with ``mask``. None: everything is allowed.
        may_be_bare: whether to look for queries that have lost every key, a pass over the mask.

    Returns:
        additive mask, both merged
    """
    if allowed is not None:
        fits = torch.broadcast_shapes(mask.shape, allowed.shape) == mask.shape
        mask = mask.add_(allowed) if fits and not _is_transformed() else mask + allowed
    if may_be_bare:
        bare = mask.detach().amax(-1, keepdim=True) == -torch.inf
        mask = torch.where(bare, 0.0 if allowed is None else allowed, mask)
    return mask


def may_lose_all(shape: tuple[int, ...], drop_ratio: float, allowed: Tensor | None) -> bool:
    """Tell whether a query that loses every key is to be expected, see ``random_key_mask``."""
    fewest = shape[-1] if allowed is None else _fewest_allowed(allowed)
    return math.prod(shape[:-1]) * drop_ratio**fewest > NEGLIGIBLE


def _fewest_allowed(allowed: Tensor) -> int:
    """Return the smallest number of keys open to a query, other than none; or less than that."""
    if allowed.device.type != "cpu":
        return 1  # counting would wait for the device
    counts = (allowed > -torch.inf).sum(-1)
    return value_of(counts.masked_fill_(counts == 0, allowed.shape[-1]).min()) or 0


def additive_mask(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """Merge the masks a caller may give into one additive mask.

    Args:
        attn_mask: broadcasts to (B, H, Lq, Lk); bool, True = may attend, or floating, added to the
            logits.
        key_padding_mask: (B, Lk); bool, True = ignore this key, or floating, added to the logits of
            every query.
        dtype: floating type of the result.

    Returns:
        additive mask that broadcasts to (B, H, Lq, Lk); None if there is nothing to mask.

    Raises:
        ValueError: a mask neither bool nor floating.
    """
    check_mask_type("attn_mask", attn_mask)
    check_mask_type("key_padding_mask", key_padding_mask)
    mask = None
    if attn_mask is not None:
        is_bool = attn_mask.dtype == torch.bool
        mask = minus_inf_where(~attn_mask, dtype) if is_bool else attn_mask.to(dtype)
    if key_padding_mask is not None and not _is_known_to_do_nothing(key_padding_mask):
        is_bool = key_padding_mask.dtype == torch.bool
        padding = (
            minus_inf_where(key_padding_mask, dtype) if is_bool else key_padding_mask.to(dtype)
        )[:, None, None, :]  # (B, 1, 1, Lk)
        mask = padding if mask is None else mask + padding
    return mask


def mask_far(logits: Tensor) -> Tensor:
    """Put -inf where a logit, or an additive mask, is ``FAR`` below the largest of its row.

    Else a query that has lost all the keys it may attend to would turn to those that a large
    negative number masks.

    Args:
        logits: (..., Lk).
    """
    if logits.shape[-1] == 0:
        return logits
    lowest = logits.detach().amax(-1, keepdim=True) - FAR
    return logits.masked_fill(logits < lowest, -torch.inf)


def check_mask_type(name: str, mask: Tensor | None) -> None:
    """Raise a ``ValueError`` that names the mask, unless it is bool, floating or None."""
    if mask is not None and mask.dtype != torch.bool and not mask.is_floating_point():
        raise ValueError(f"{name} must be bool or floating, got {mask.dtype}")


def _is_known_to_do_nothing(key_padding_mask: Tensor) -> bool:
    # Batches without padding are common and go faster without a mask. But a look at the values
    # would make an accelerator wait, and cannot be compiled.
    if key_padding_mask.device.type != "cpu" or _is_traced():
        return False
    return value_of(key_padding_mask.any()) == 0


def minus_inf_where(blocked: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the additive mask that has -inf where ``blocked``, a bool tensor, and else 0."""
    return blocked.new_zeros(blocked.shape, dtype=dtype).masked_fill_(blocked, -torch.inf)


def split_causal(
    attn_mask: Tensor | None, is_causal: bool, num_queries: int, num_keys: int
) -> tuple[Tensor | None, int | None]:
    """Tell causal attention apart from masks that have entries.

    Args:
        attn_mask: mask with entries, a ``torch.nn.attention.bias.CausalBias``, or None.
        is_causal: query i may attend to the keys 0 ... i only.
        num_queries: Lq.
        num_keys: Lk.

    Returns:
        the mask with entries, or None; and the diagonal, None = not causal

    Raises:
        ValueError: ``attn_mask`` and ``is_causal`` both given, as in torch; a bias for other
            lengths.
    """
    if is_causal and attn_mask is not None:
        raise ValueError(
            "attn_mask must be None with is_causal=True, as in scaled_dot_product_attention; give "
            "one mask that has both"
        )
    if is_causal:
        return None, 0
    bias: Any = attn_mask
    if not is_causal_bias(bias):
        return attn_mask, None
    lengths = bias.seq_len_q, bias.seq_len_kv
    if lengths != (num_queries, num_keys):
        raise ValueError(
            f"attn_mask must be a causal bias for {num_queries} queries and {num_keys} keys, got "
            f"one for {lengths[0]} and {lengths[1]}"
        )
    is_upper_left = bias.variant == type(bias.variant).UPPER_LEFT
    return None, 0 if is_upper_left else num_keys - num_queries


def add_causal(
    mask: Tensor | None, diagonal: int | None, size: tuple[int, int], like: Tensor
) -> Tensor | None:
    """Merge an additive mask with a diagonal.

    Args:
        mask: additive, broadcasts to (..., Lq, Lk). None: nothing else is masked.
        diagonal: see the top of the file. None: not causal.
        size: (Lq, Lk).
        like: of the device and floating type of the result.

    Returns:
        additive mask with both in it; None if there is nothing to mask
    """
    if diagonal is None:
        return mask
    hidden = hidden_keys(size, diagonal, like.device)
    if mask is None:
        return like.new_zeros(size).masked_fill_(hidden, -torch.inf)
    return mask.masked_fill(hidden, -torch.inf)


def hidden_keys(size: tuple[int, int], diagonal: int, device: torch.device) -> Tensor:
    """Return (Lq, Lk) bool, True = the key comes after the last one that the query may see."""
    return torch.ones(size, dtype=torch.bool, device=device).triu_(diagonal + 1)


def is_causal_bias(attn_mask: Tensor | None) -> bool:
    """Return whether a mask is a ``torch.nn.attention.bias.CausalBias``, which has no entries."""
    # Nobody can have made one before its module is imported, which takes a while.
    module = sys.modules.get("torch.nn.attention.bias")
    return module is not None and isinstance(attn_mask, module.CausalBias)


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _is_transformed() -> bool:
    """Tell whether torch.func is at work: what it gives may not be written into what is not its."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()

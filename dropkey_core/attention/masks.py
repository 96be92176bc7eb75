"""Masks for attention logits, random and given.

Shapes: (B, H, Lq, Lk) = batch, heads, queries, keys.

Every mask in this file is *additive*: 0 where a query may attend to a key, -inf where it may not.
"""

import torch
from torch import Tensor

_SAME_WIDTH_INT = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_NEGLIGIBLE = 2.0**-40


def draw_seed() -> int:
    """Draw 64 bits from torch's default generator of the CPU, whatever the device of the model.

    ``torch.manual_seed`` so governs every mask, activation checkpointing (which restores that
    generator) repeats it, and drawing never waits for an accelerator.
    """
    return int(torch.randint(-(2**63), 2**63 - 1, ()).item())


def random_key_mask(
    shape: tuple[int, ...],
    drop_ratio: float,
    seed: int,
    *,
    allowed: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw which keys each query of each head loses (DropKey, Eq. 12-14).

    Args:
        shape: (B, H, Lq, Lk).
        drop_ratio: probability in [0, 1) that a query may not attend to a key it is allowed.
        seed: 64 bits; the same seed and shape give the same mask.
        allowed: additive mask that broadcasts to ``shape``, of type ``dtype``; the keys a query may
            attend to at all. A query that would lose every allowed key loses none of them.
        dtype: floating type of the mask.
        device: where the mask is made.

    Returns:
        additive mask of that ``shape``
    """
    generator = torch.Generator(device).manual_seed(seed)
    mask = drop_at_random_(torch.empty(shape, dtype=dtype, device=device), drop_ratio, generator)
    return mask if allowed is None else mask.add_(allowed)


def drop_at_random_(mask: Tensor, drop_ratio: float, generator: torch.Generator) -> Tensor:
    """Overwrite ``mask``: each entry is -inf with probability ``drop_ratio``, else 0 (Eq. 13).

    One random byte is drawn per entry. A byte tells apart 256 levels only, so each row (a query of
    a head) compares its bytes with its own threshold: 256 * ``drop_ratio``, rounded up or down at
    random so that it is right on average. The probability of each entry is then exact to 2^-24;
    the price is that a row drops, as a whole, up to 0.2% (one standard deviation) more or less.

    Args:
        mask: (..., Lq, Lk), contiguous, floating; overwritten and returned.
        drop_ratio: in [0, 1).
        generator: source of the random bits, on the device of ``mask``.
    """
    words = torch.empty(-(-mask.numel() // 8), dtype=torch.int64, device=mask.device)
    words.random_(-(2**63), None, generator=generator)
    noise = words.view(torch.int8)[: mask.numel()].view(mask.shape)  # uniform in -128 ... 127

    # The threshold reaches -128 but not 128, so the rarer of the two outcomes is the one below it.
    below, rarer = (torch.lt, drop_ratio) if drop_ratio <= 0.5 else (torch.ge, 1.0 - drop_ratio)
    rounding = torch.rand((*mask.shape[:-1], 1), device=mask.device, generator=generator)
    threshold = (rounding + 256 * rarer).floor_().sub_(128).to(torch.int8)

    # Written as an integer of the same width: exactly -inf or 0, in one comparison and one product.
    bits = mask.view(_SAME_WIDTH_INT[mask.element_size()])
    below(noise, threshold, out=bits)
    bits.mul_(_bits_of_minus_inf(mask.dtype))
    return mask


def _bits_of_minus_inf(dtype: torch.dtype) -> int:
    return int(torch.tensor(-torch.inf, dtype=dtype).view(_SAME_WIDTH_INT[dtype.itemsize]).item())

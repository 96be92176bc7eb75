"""Memory-efficient DropKey on a CPU: the mask is recomputed in the backward pass.

A random mask is of no use once its logits are masked, but autograd would keep it until the backward
pass, and memory that is new in every call costs as much time as the random numbers in it. Here a
few heads at a time are masked, attended with and forgotten; the backward pass makes their mask
again from its ``KeyDraw``, which is small.

Shapes: (B, H, L, D) = batch, heads, tokens, head_dim; Lq, Lk = queries, keys.
"""

import math
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import Node

from dropkey_core.attention.draw import KeyDraw, Scratch
from dropkey_core.attention.masks import may_lose_all, restrict

# Up to this number of entries, 32 MiB of float32, a mask that is kept is faster, by a tenth of the
# time of attention. Above, C libraries fetch its memory from the system anew in every call.
SMALL_SIZE = 2**23
# Entries that a piece should have at least: below, calls cost more than the cache gains ...
PIECE_SIZE = 2**20
# ... and at most, unless a single query per head and thread is more.
LARGEST_PIECE_SIZE = 2**23
# torch's kernel takes larger, faster blocks from this number of queries on.
MANY_QUERIES = 768


def recomputing_pays(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None) -> bool:
    """Tell whether ``recomputed_attention`` can take these inputs, and is worth it.

    That is on a CPU, outside of ``torch.compile``, for masks of more than ``SMALL_SIZE`` entries,
    unless ``allowed`` is learned.

    Args:
        query: (B, H, Lq, D).
        key: (B, H, Lk, D).
        value: (B, H, Lk, Dv).
        allowed: as for ``recomputed_attention``.
    """
    return (
        query.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and query.dim() == 4
        and query.shape[:2] == key.shape[:2] == value.shape[:2]
        and math.prod(query.shape[:-1]) * key.shape[-2] > SMALL_SIZE
        and not (allowed is not None and allowed.requires_grad)
    )


def recomputed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    drop_ratio: float,
    seed: int,
    *,
    allowed: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """DropKey attention (Eq. 12-14) with the mask that ``random_key_mask`` makes of that seed.

    A query that would lose every key it may attend to loses none of them this time.

    Args:
        query: (B, H, Lq, D), on a CPU.
        key: (B, H, Lk, D).
        value: (B, H, Lk, Dv).
        drop_ratio: probability in [0, 1) that a query loses a key.
        seed: 64 bits, on which alone the draw depends.
        allowed: additive mask of the type of ``query`` that broadcasts to (B, H, Lq, Lk) and needs
            no gradient: the keys a query may attend to at all. None: every key.
        scale: factor on the dot products; default 1 / sqrt(D).

    Returns:
        the output (B, H, Lq, Dv)

    Raises:
        RuntimeError: in the backward pass, if ``allowed`` was changed in between.
    """
    shape = (*query.shape[:-1], key.shape[-2])
    mask = _RemadeMask(shape, drop_ratio, seed, query.dtype, allowed)
    sizes = _piece_sizes(shape, torch.get_num_threads())
    batches = []
    for batch, q_b, k_b, v_b in _split(0, sizes.batch, query, key, value):
        heads = []
        for head, q_h, k_h, v_h in _split(1, sizes.heads, q_b, k_b, v_b):
            tokens = []
            for rows, q in _split(2, sizes.queries, q_h):
                piece = _attend(q, k_h, v_h, mask, (batch, head, rows), scale)
                tokens.append(piece.transpose(1, 2))  # (B, Lq, H, Dv), as it lies in memory
            heads.append(_join(tokens, axis=1))
        batches.append(_join(heads, axis=2))
    mask.let_go()
    return _join(batches, axis=0).transpose(1, 2)


class PieceSizes(NamedTuple):
    """How much of each axis a piece takes, at most."""

    batch: int
    heads: int
    queries: int


def _piece_sizes(shape: tuple[int, ...], num_threads: int) -> PieceSizes:
    """Choose pieces of a mask (B, H, Lq, Lk) that keep all threads busy and stay in the cache."""
    batch, heads, num_queries, num_keys = shape
    queries = _even(num_queries, MANY_QUERIES)
    # The kernel's backward pass gives each thread heads of its own.
    sequences = max(num_threads, PIECE_SIZE // (queries * num_keys))
    batch_size, head_size = _even(batch, -(-sequences // heads)), _even(heads, sequences)
    most = LARGEST_PIECE_SIZE // (batch_size * head_size * num_keys)
    return PieceSizes(batch_size, head_size, max(1, min(queries, most)))


def _even(length: int, wanted: int) -> int:
    """Return the size of equal parts of a length, none of them smaller than wanted if possible."""
    return -(-length // max(1, length // wanted))


def _split(axis: int, size: int, *tensors: Tensor) -> Iterator[tuple]:
    """Cut tensors into parts of that size; yield where each part lies, and the parts."""
    parts = zip(*(x.split(size, axis) for x in tensors), strict=True)
    for index, part in enumerate(parts):
        yield slice(index * size, (index + 1) * size), *part


def _join(parts: list[Tensor], axis: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: "_RemadeMask",
    where: tuple[slice, slice, slice],
    scale: float | None,
) -> Tensor:
    piece = mask.piece(where)
    output = F.scaled_dot_product_attention(query, key, value, piece, scale=scale)
    if output.grad_fn is not None and not _let_forget(output.grad_fn, lambda: mask.piece(where)):
        mask.let_go()
    return output


def _let_forget(node: Node, remake: Callable[[], Tensor]) -> bool:
    """Let autograd make the mask again rather than keep it, by a hook on the saved tensor.

    Returns:
        False where that cannot be: where torch has chosen a kernel that saves something else, or
        hooks are set already, as by activation checkpointing. Then the mask is kept, or not, as in
        any other attention.
    """
    saved = getattr(node, "_raw_saved_attn_mask", None)
    if saved is None:
        return False
    try:
        saved.register_hooks(lambda mask: None, lambda nothing: remake())
    except RuntimeError:
        return False
    return True


class _RemadeMask:
    """An additive mask (B, H, Lq, Lk), of which any piece can be made at any time."""

    def __init__(
        self,
        shape: tuple[int, ...],
        drop_ratio: float,
        seed: int,
        dtype: torch.dtype,
        allowed: Tensor | None,
    ) -> None:
        self.draw = KeyDraw.sample(shape, drop_ratio, torch.Generator().manual_seed(seed))
        self.dtype = dtype
        self.allowed = None if allowed is None else allowed.expand(shape)
        self.may_lose_all = may_lose_all(shape, drop_ratio, allowed)
        self.version = _version(allowed)
        # By thread, since any may run the backward pass.
        self.scratch: dict[int, Scratch] = defaultdict(lambda: Scratch(torch.device("cpu")))

    def piece(self, where: tuple[slice, slice, slice]) -> Tensor:
        """Make the part of it that lies at some batch entries, heads and queries.

        It lasts until the same thread makes the next one, unless it is let go.
        """
        if _version(self.allowed) != self.version:
            raise RuntimeError(
                "the mask given to attention was changed in place before the backward pass, which "
                "needs it again; change a clone of it"
            )
        allowed = None if self.allowed is None else self.allowed[where]
        mask = self.draw[where].mask(self.dtype, self.scratch[threading.get_ident()])
        return restrict(mask, allowed, may_be_bare=self.may_lose_all)

    def let_go(self) -> None:
        """Leave the memory of the last piece to whoever keeps that."""
        self.scratch.pop(threading.get_ident(), None)


def _version(x: Tensor | None) -> int:
    return 0 if x is None or x.is_inference() else x._version

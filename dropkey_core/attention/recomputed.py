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
from dropkey_core.attention.masks import hidden_keys, may_lose_all, restrict
from dropkey_core.attention.patterns import SINGLE_KEYS, Key

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

    That is on a CPU, for masks of more than ``SMALL_SIZE`` entries, unless ``allowed`` is learned.
    Arguments are those of ``recomputed_attention``.
    """
    return (
        query.device.type == "cpu"
        and query.dim() == 4
        and query.shape[0] == key.shape[0]
        and key.shape[:2] == value.shape[:2]
        and query.shape[1] % max(key.shape[1], 1) == 0
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
    pattern: Key = SINGLE_KEYS,
    allowed: Tensor | None = None,
    diagonal: int | None = None,
    scale: float | None = None,
) -> Tensor:
    """DropKey attention (Eq. 12-14) with the mask that ``random_key_mask`` makes of that seed.

    Args:
        query: (B, H, Lq, D), on a CPU.
        key: (B, H, Lk, D); or with fewer heads, a divisor of H, of which each serves as many
            successive heads of ``query``.
        value: (B, H, Lk, Dv), with as many heads as ``key``.
        drop_ratio: probability in [0, 1) that a query loses a key.
        seed: 64 bits, on which alone the draw depends.
        pattern: which keys are never dropped.
        allowed: additive mask of the type of ``query`` that broadcasts to (B, H, Lq, Lk) and needs
            no gradient: the keys a query may attend to at all. None: every key.
        diagonal: query i may attend to the keys 0 ... i + diagonal only. Later keys cost neither
            memory nor time. None: to all.
        scale: factor on the dot products; default 1 / sqrt(D).

    Returns:
        the output (B, H, Lq, Dv)

    Raises:
        RuntimeError: in the backward pass, if ``allowed`` was changed in between.
    """
    shape = (*query.shape[:-1], key.shape[-2])
    mask = _RemadeMask(shape, drop_ratio, seed, query.dtype, pattern, allowed, diagonal)
    group = query.shape[1] // key.shape[1]
    sizes = _piece_sizes(shape, torch.get_num_threads())
    num_groups = -(-sizes.heads // group)
    head_sizes = num_groups * group, num_groups, num_groups
    batches = []
    for batch, q_b, k_b, v_b in _split(0, sizes.batch, query, key, value):
        heads = []
        for head, q_h, k_h, v_h in _split(1, head_sizes, q_b, k_b, v_b):
            tokens = []
            for rows, q in _split(2, sizes.queries, q_h):
                where = batch, head, rows
                k, v = (_first_tokens(x, mask.num_seen(rows)) for x in (k_h, v_h))
                piece = _attend(q, k, v, mask, where, scale)
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


def _split(axis: int, sizes: int | tuple[int, ...], *tensors: Tensor) -> Iterator[tuple]:
    """Cut tensors into parts, of one size or of sizes of their own.

    Yields:
        where the part of the first tensor lies, and the parts
    """
    sizes = sizes if isinstance(sizes, tuple) else (sizes,) * len(tensors)
    parts = zip(*(x.split(size, axis) for x, size in zip(tensors, sizes, strict=True)), strict=True)
    for index, part in enumerate(parts):
        start = index * sizes[0]
        yield slice(start, start + part[0].shape[axis]), *part


def _first_tokens(x: Tensor, count: int) -> Tensor:
    return x if count == x.shape[2] else x[:, :, :count]


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
    is_grouped = query.shape[1] != key.shape[1]
    output = F.scaled_dot_product_attention(
        query, key, value, piece, scale=scale, enable_gqa=is_grouped
    )
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
        pattern: Key,
        allowed: Tensor | None,
        diagonal: int | None,
    ) -> None:
        self.shape = shape
        self.drop_ratio = drop_ratio
        self.draw = KeyDraw.sample(shape, drop_ratio, torch.Generator().manual_seed(seed))
        self.dtype = dtype
        self.pattern = pattern
        self.allowed = None if allowed is None else allowed.expand(shape)
        self.diagonal = diagonal
        self.may_lose_all = may_lose_all(shape, drop_ratio, allowed)
        self.version = _version(allowed)
        # By thread, since any may run the backward pass.
        self.scratch: dict[int, Scratch] = defaultdict(lambda: Scratch(torch.device("cpu")))

    def num_seen(self, rows: slice) -> int:
        """Return how many keys, from the first on, some of these queries may attend to; or 1."""
        if self.diagonal is None:
            return self.shape[-1]
        return max(1, min(rows.stop + self.diagonal, self.shape[-1]))

    def piece(self, where: tuple[slice, slice, slice]) -> Tensor:
        """Make the part of it that lies at some batch entries, heads and queries.

        It has the keys that these queries may attend to, see ``num_seen``, and lasts until the same
        thread makes the next one, unless it is let go.
        """
        if _version(self.allowed) != self.version:
            raise RuntimeError(
                "the mask given to attention was changed in place before the backward pass, which "
                "needs it again; change a clone of it"
            )
        rows, num_keys = where[2], self.num_seen(where[2])
        draw = self.draw.part(where, num_keys)
        mask = draw.mask(self.dtype, self.scratch[threading.get_ident()])
        self.pattern.spare(mask, self.shape, rows.start)
        allowed = None if self.allowed is None else self.allowed[where][..., :num_keys]
        if self.diagonal is None:
            return restrict(mask, allowed, may_be_bare=self.may_lose_all)
        return self._hide(mask, allowed, rows, self.diagonal)

    def _hide(self, mask: Tensor, allowed: Tensor | None, rows: slice, diagonal: int) -> Tensor:
        """Merge a piece with what is allowed and with the diagonal, in its own memory."""
        *leading, num_queries, num_keys = mask.shape
        last_seen = rows.start + diagonal  # by the first of the queries
        first_hidden = min(max(last_seen + 1, 0), num_keys)
        fewest = (*leading, num_queries, max(first_hidden, 1))
        mask = restrict(mask, allowed, may_be_bare=False)
        size = num_queries, num_keys - first_hidden
        hidden = hidden_keys(size, last_seen - first_hidden, mask.device)
        mask[..., first_hidden:].masked_fill_(hidden, -torch.inf)
        if allowed is not None or may_lose_all(fewest, self.drop_ratio, None):
            bare = (mask.amax(-1) == -torch.inf).nonzero(as_tuple=True)
            open_to_them = mask.new_zeros(()) if allowed is None else allowed[bare]
            seen = torch.arange(num_keys) <= bare[-1][:, None] + last_seen
            mask[bare] = torch.where(seen, open_to_them, -torch.inf)
        return mask

    def let_go(self) -> None:
        """Leave the memory of the last piece to whoever keeps that."""
        self.scratch.pop(threading.get_ident(), None)


def _version(x: Tensor | None) -> int:
    return 0 if x is None or x.is_inference() else x._version

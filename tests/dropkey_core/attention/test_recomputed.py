"""``recomputed_attention``: the same numbers as with a stored mask, and no mask kept."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from timing import peak_memory
from torch.utils.checkpoint import checkpoint

from dropkey_core import Key, drop_key_attention
from dropkey_core.attention import functional, recomputed
from dropkey_core.attention.masks import random_key_mask
from dropkey_core.attention.recomputed import (
    LARGEST_PIECE_SIZE,
    _piece_sizes,
    recomputed_attention,
    recomputing_pays,
)
from tests.dropkey_core.toys import output_and_gradients

INF = torch.inf


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    """Pieces of a few queries, so that small inputs are cut along each axis, unevenly too."""
    monkeypatch.setattr(recomputed, "SMALL_SIZE", 0)
    monkeypatch.setattr(recomputed, "PIECE_SIZE", 1)
    monkeypatch.setattr(recomputed, "MANY_QUERIES", 4)


def inputs(dtype=torch.float32, width=8, lengths=(9, 12, 12)):
    """Query, key and value as a projection leaves them: (B, L, H, D) in memory."""
    torch.manual_seed(0)
    tensors = [torch.randn(2, n, 3, width, dtype=dtype).transpose(1, 2) for n in lengths]
    return [x.requires_grad_() for x in tensors]


def assert_same(out, expected, tensors, **tolerance):
    """Outputs and gradients; to the last bit unless a tolerance is given."""
    tolerance = tolerance or {"atol": 0.0, "rtol": 0.0}
    both = (output_and_gradients(x, tensors) for x in (out, expected))
    for ours, theirs in zip(*both, strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


PADDING = torch.arange(12).repeat(2, 1) > 9
# The keys' gradients are summed over pieces: some roundings of values around 1.
ROUNDING = {"atol": 2e-6, "rtol": 1e-5}
ALLOWED = {
    "everything": None,
    "padding": torch.zeros(2, 1, 1, 12).masked_fill(torch.arange(12) > 6, -INF),
    "causal": torch.zeros(9, 12).masked_fill(torch.ones(9, 12).triu(4).bool(), -INF),
    "bias": torch.linspace(-1, 1, 3 * 9 * 12).view(1, 3, 9, 12).sin(),
    "nothing": torch.full((2, 3, 9, 12), -INF),
}


@pytest.mark.parametrize("drop_ratio", [0.3, 0.95])
@pytest.mark.parametrize("allowed", ALLOWED.values(), ids=ALLOWED)
@pytest.mark.parametrize("diagonal", [None, 0, 3, -4])
@pytest.mark.parametrize("scale", [None, 0.1])
def test_it_is_attention_with_the_dense_mask(allowed, diagonal, scale, drop_ratio):
    """Also where nearly every query would lose all its keys, and where they have none."""
    qkv, dense = inputs(), allowed
    if diagonal is not None:
        late = torch.ones(9, 12).tril(diagonal) == 0
        dense = (0 if allowed is None else allowed) + torch.zeros(9, 12).masked_fill(late, -INF)
    mask = random_key_mask((2, 3, 9, 12), drop_ratio, seed=5, allowed=dense)
    expected = F.scaled_dot_product_attention(*qkv, mask, scale=scale)
    given = {"allowed": allowed, "diagonal": diagonal, "scale": scale}
    out = recomputed_attention(*qkv, drop_ratio, 5, **given)
    assert out.stride() == expected.stride()
    assert_same(out, expected, qkv, **ROUNDING)


@pytest.mark.parametrize("num_heads", [1, 2, 6])
def test_fewer_heads_of_keys_serve_more_of_queries(num_heads):
    query, key, value = inputs()
    query = torch.cat((query, query + 1), 1)  # 6 heads
    key, value = (torch.cat((x, -x), 1)[:, :num_heads] for x in (key, value))
    tensors = [x.detach().requires_grad_() for x in (query, key, value)]
    out = recomputed_attention(*tensors, 0.4, 5, diagonal=1)
    repeated = (x.repeat_interleave(6 // num_heads, 1) for x in tensors[1:])
    expected = recomputed_attention(tensors[0], *repeated, 0.4, 5, diagonal=1)
    assert_same(out, expected, tensors, **ROUNDING)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types(dtype):
    qkv = inputs(dtype)
    mask = random_key_mask((2, 3, 9, 12), 0.3, seed=5, dtype=dtype)
    expected = F.scaled_dot_product_attention(*qkv, mask)
    out = recomputed_attention(*qkv, 0.3, 5)
    assert out.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps
    assert_same(out, expected, qkv, atol=4 * tolerance, rtol=tolerance)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("lengths", [(12, 12, 12), (9, 12, 12)])
@pytest.mark.parametrize("unit", ["key", Key(keep_self=True, num_prefix_tokens=2)], ids=str)
@pytest.mark.parametrize("given", [{}, {"is_causal": True}, {"key_padding_mask": PADDING}])
def test_one_seed_one_mask_on_every_path(monkeypatch, given, unit, lengths, need_weights):
    """Recomputed, stored and explicit: under one seed of torch the outputs agree."""
    qkv, given = inputs(lengths=lengths), {**given, "unit": unit}
    torch.manual_seed(1)
    out = drop_key_attention(*qkv, 0.6, **given)
    monkeypatch.setattr(functional, "recomputing_pays", lambda *_: False)
    torch.manual_seed(1)
    expected = drop_key_attention(*qkv, 0.6, need_weights=need_weights, **given)
    assert_same(out, expected[0] if need_weights else expected, qkv, **ROUNDING)


def test_autograd_keeps_no_mask(monkeypatch):
    """Each mask is drawn again in the backward pass, once, piece by piece."""
    drawn = []
    original = recomputed._RemadeMask.piece

    def piece(self, where):
        drawn.append(where)
        return original(self, where)

    monkeypatch.setattr(recomputed._RemadeMask, "piece", piece)
    qkv = inputs()
    out = recomputed_attention(*qkv, 0.3, 5)
    pieces = list(drawn)
    assert len(pieces) == len(set(map(str, pieces))) > 2
    out.sum().backward()
    assert sorted(map(str, drawn[len(pieces) :])) == sorted(map(str, pieces))


@pytest.mark.slow
@pytest.mark.parametrize("is_causal", [True, False])
def test_memory_is_that_of_a_piece(is_causal):
    """Forward and backward need 25 MiB or less, where the mask alone has 122."""
    qkv = [torch.randn(1, 8, 2000, 4, requires_grad=True) for _ in range(3)]

    def step():
        drop_key_attention(*qkv, 0.3, is_causal=is_causal).sum().backward()

    step()
    needed = peak_memory(step, torch.device("cpu"))
    assert needed is None or needed < 50 * 2**20


def test_where_not_all_or_none_of_the_inputs_need_gradients():
    query, key, value = qkv = inputs()
    expected = recomputed_attention(*qkv, 0.3, 5)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            out = recomputed_attention(*qkv, 0.3, 5)
        assert out.grad_fn is None
        assert torch.equal(out, expected)
    out = recomputed_attention(query.detach(), key.detach(), value, 0.3, 5)
    assert_same(out, expected, [value])


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing(use_reentrant):
    """Non-reentrant checkpointing saves with hooks of its own, so that ours cannot be set."""
    qkv = inputs()
    expected = torch.autograd.grad(recomputed_attention(*qkv, 0.3, 5).square().sum(), qkv)
    out = checkpoint(lambda *x: recomputed_attention(*x, 0.3, 5), *qkv, use_reentrant=use_reentrant)
    out.square().sum().backward()
    for x, gradient in zip(qkv, expected, strict=True):
        assert torch.equal(x.grad, gradient)


def test_where_the_mask_cannot_be_forgotten():
    """Hooks of others may keep the very tensor; each piece then has memory of its own.

    With so many keys that nobody looks for queries that lost all, which would copy the mask. Other
    kernels save something else, as a torch may that names things differently.
    """
    qkv = inputs(lengths=(9, 40, 40))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        out = recomputed_attention(*qkv, 0.3, 5)
    assert_same(out, recomputed_attention(*qkv, 0.3, 5), qkv)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        out = recomputed_attention(*qkv, 0.3, 5)
    assert_same(out, recomputed_attention(*qkv, 0.3, 5), qkv, **ROUNDING)


def test_backward_twice_and_from_two_threads():
    qkv = inputs()
    out = recomputed_attention(*qkv, 0.3, 5)
    factors = torch.randn(out.shape)
    expected = torch.autograd.grad(out, qkv, factors, retain_graph=True)

    def backward(_):
        return torch.autograd.grad(out, qkv, factors, retain_graph=True)

    with ThreadPoolExecutor(2) as pool:
        for gradients in pool.map(backward, range(20)):
            for ours, theirs in zip(gradients, expected, strict=True):
                assert torch.equal(ours, theirs)


def test_a_second_derivative_is_refused_by_torch():
    """As from the fused kernel itself; with weights wanted, or by the math kernel, it exists."""
    qkv = inputs()
    (gradient,) = torch.autograd.grad(
        recomputed_attention(*qkv, 0.3, 5).sum(), qkv[0], create_graph=True
    )
    with pytest.raises(RuntimeError, match=r"derivative for .* is not implemented"):
        gradient.sum().backward()


def test_a_mask_changed_before_the_backward_pass_is_noticed():
    qkv = inputs()
    allowed = torch.zeros(9, 12)
    out = recomputed_attention(*qkv, 0.3, 5, allowed=allowed)
    allowed[0, 0] = 1
    with pytest.raises(RuntimeError, match="mask given to attention was changed in place"):
        out.sum().backward()


@pytest.mark.parametrize("threads", [1, 2, 5, 64])
@pytest.mark.parametrize(
    "shape", [(2, 8, 850, 850), (1, 3, 5000, 9), (7, 1, 100, 60_000), (1, 1, 4, 2**24)]
)
def test_pieces_are_neither_too_large_nor_too_few(threads, shape):
    sizes = _piece_sizes(shape, threads)
    assert all(1 <= size <= length for size, length in zip(sizes, shape[:3], strict=True))
    size = sizes.batch * sizes.heads * sizes.queries * shape[3]
    assert size <= LARGEST_PIECE_SIZE or sizes.queries == 1
    assert sizes.batch * sizes.heads >= min(threads, shape[0] * shape[1])


def test_when_it_pays(monkeypatch):
    monkeypatch.setattr(recomputed, "SMALL_SIZE", 2 * 3 * 9 * 12 - 1)
    query, key, value = (x.detach() for x in inputs())
    assert recomputing_pays(query, key, value, None)
    assert recomputing_pays(query, key, value, torch.zeros(9, 12))
    assert not recomputing_pays(query, key, value, torch.zeros(9, 12, requires_grad=True))
    assert not recomputing_pays(query[:, :, 1:], key, value, None)
    assert not recomputing_pays(query, key[:1], value[:1], None)
    assert not recomputing_pays(query[0], key[0], value[0], None)
    assert not recomputing_pays(query.to("meta"), key.to("meta"), value.to("meta"), None)


@pytest.mark.parametrize("shape", [(0, 3, 9), (2, 0, 9), (2, 3, 0)])
def test_empty_inputs_do_not_get_here(shape):
    batch, heads, length = shape
    query, key = torch.zeros(*shape, 4), torch.zeros(batch, heads, 12, 4)
    assert drop_key_attention(query, key, key, 0.3).shape == (batch, heads, length, 4)

"""The fused attention against the written-out one, under the same non-trivial mask."""

import pytest
import torch

from dropkey_core.attention import kernels, masks
from dropkey_core.attention.kernels import explicit_attention, fused_attention
from dropkey_core.attention.masks import RandomKeyMask

INF = torch.inf


@pytest.fixture(params=["stored", "piecewise"])
def way(request, monkeypatch):
    """Run a test with the mask stored, and with the mask made piece by piece and again."""
    if request.param == "piecewise":
        monkeypatch.setattr(masks, "PIECE_SIZE", 130)
        monkeypatch.setattr(masks, "LARGE_SIZE", 130)
    return request.param


def tensors(num_queries, num_keys, dtype=torch.float32, head_dim=8):
    """Query, key, value as projections give them: (B, L, H, D) in memory, seen as (B, H, L, D)."""
    torch.manual_seed(0)
    shapes = [(2, num, 3, head_dim) for num in (num_queries, num_keys, num_keys)]
    return [torch.randn(s, dtype=dtype).transpose(1, 2).requires_grad_() for s in shapes]


def random_mask(q, k, allowed=None, drop_ratio=0.4):
    shape = (*q.shape[:3], k.shape[2])
    return RandomKeyMask(shape, drop_ratio, 7, q.dtype, q.device, allowed)


def output_and_gradients(out, inputs):
    torch.manual_seed(1)
    factors = torch.randn(out.shape).to(out.dtype)
    return [out, *torch.autograd.grad(out, inputs, factors)]


def test_attention_by_hand():
    """Logits ln 1, ln 3 and -inf: weights 1/4, 3/4, 0, so 1/4 * 8 + 3/4 * 4 = 5."""
    query = torch.ones(1, 1, 1, 1)
    key = torch.tensor([1.0, 3.0, 9.0]).log().view(1, 1, 3, 1)
    value = torch.tensor([8.0, 4.0, 100.0]).view(1, 1, 3, 1)
    mask = torch.tensor([[0.0, 0.0, -INF]])
    out, weights = explicit_attention(query, key, value, mask, scale=1.0)
    torch.testing.assert_close(weights.flatten(), torch.tensor([0.25, 0.75, 0.0]))
    assert out.item() == pytest.approx(5.0)
    assert fused_attention(query, key, value, mask, scale=1.0).item() == pytest.approx(5.0)


@pytest.mark.parametrize(("num_queries", "num_keys"), [(11, 11), (5, 17)])
@pytest.mark.parametrize("masked", ["nothing", "padding", "bias"])
def test_fused_equals_explicit(way, num_queries, num_keys, masked):
    q, k, v = inputs = tensors(num_queries, num_keys)
    padding = torch.zeros(2, 1, 1, num_keys)
    padding[0, ..., 4:] = -INF
    allowed = {
        "nothing": None,
        "padding": padding,
        "bias": torch.randn(1, 3, num_queries, num_keys),
    }[masked]
    mask = random_mask(q, k, allowed)
    assert 0.2 < (mask.dense() == -INF).double().mean() < 0.9
    fused = fused_attention(q, k, v, mask, 0.3)
    assert ("Piecewise" in fused.grad_fn.name()) == (way == "piecewise")
    explicit, weights = explicit_attention(q, k, v, mask.dense(), 0.3)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    # Sums of a few terms of size 1 in float32: 1e-6 is some ten roundings.
    for ours, expected in zip(
        output_and_gradients(fused, inputs), output_and_gradients(explicit, inputs), strict=True
    ):
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


def test_gradient_against_differences(way):
    q, k, v = tensors(4, 10, torch.float64, head_dim=3)
    mask = random_mask(q, k)
    assert torch.autograd.gradcheck(lambda *x: fused_attention(*x, mask, 0.7), (q, k, v))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_follows_double(way, dtype):
    """Errors of the size of the type's rounding, of values around 1."""
    inputs = tensors(9, 12, dtype)
    mask = random_mask(*inputs[:2])
    ours = output_and_gradients(fused_attention(*inputs, mask, 0.3), inputs)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    out, _ = explicit_attention(*exact, mask.dense().double(), 0.3)
    expected = output_and_gradients(out, exact)
    for x, y in zip(ours, expected, strict=True):
        assert x.dtype == dtype
        torch.testing.assert_close(x.double(), y, atol=8 * torch.finfo(dtype).eps, rtol=0.05)


@pytest.mark.parametrize("kernel", ["fused", "explicit"])
def test_queries_without_any_key_give_zeros_and_finite_gradients(way, kernel):
    q, k, v = inputs = tensors(11, 11)
    allowed = torch.zeros(2, 1, 11, 11)
    allowed[0] = -INF  # a whole sequence of padding
    allowed[1, :, 3] = -INF  # one query
    mask = random_mask(q, k, allowed, drop_ratio=0.9)
    if kernel == "fused":
        out = fused_attention(q, k, v, mask, 0.3)
    else:
        out, weights = explicit_attention(q, k, v, mask.dense(), 0.3)
        assert (weights[0] == 0).all()
    assert (out[0] == 0).all()
    assert (out[1, :, 3] == 0).all()
    assert (out[1, :, :3] != 0).all()
    for gradient in output_and_gradients(out, inputs)[1:]:
        assert gradient.isfinite().all()
        assert (gradient[0] == 0).all()


def test_weight_dropout_scales_what_it_keeps():
    """Dropped weights are 0 and the others twice as large at a ratio of one half."""
    q, k, v = tensors(11, 11)
    _, plain = explicit_attention(q, k, v, None, 0.3)
    _, dropped = explicit_attention(q, k, v, None, 0.3, weight_dropout=0.5)
    kept = dropped != 0
    assert 0.3 < kept.double().mean() < 0.7
    torch.testing.assert_close(dropped[kept], 2 * plain[kept])


def test_a_learned_bias_gets_its_gradient(way):
    """A bias that learns cannot go through the piecewise kernel; it must not lose its gradient."""
    q, k, v = tensors(11, 11)
    bias = torch.randn(1, 3, 11, 11, requires_grad=True)
    mask = random_mask(q, k, bias)
    out = fused_attention(q, k, v, mask, 0.3)
    explicit, _ = explicit_attention(q, k, v, mask.dense(), 0.3)
    (ours,), (expected,) = (torch.autograd.grad(x.square().sum(), bias) for x in (out, explicit))
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)
    assert (ours != 0).any()


def test_values_of_another_width_take_the_stored_mask(way):
    q, k, _ = tensors(11, 11)
    value = torch.randn(2, 3, 11, 5)
    mask = random_mask(q, k)
    out = fused_attention(q, k, value, mask, 0.3)
    torch.testing.assert_close(out, explicit_attention(q, k, value, mask.dense(), 0.3)[0])


def test_a_large_mask_never_exists_as_a_whole(monkeypatch):
    """Neither for the output nor for the gradient: no allocation holds all its entries."""
    monkeypatch.setattr(masks, "PIECE_SIZE", 130)
    monkeypatch.setattr(masks, "LARGE_SIZE", 130)
    sizes = []
    drop = masks.drop_at_random_

    def record(mask, *args):
        sizes.append(mask.numel())
        return drop(mask, *args)

    monkeypatch.setattr(masks, "drop_at_random_", record)
    monkeypatch.setattr(kernels.RandomKeyMask, "dense", None)
    inputs = tensors(11, 11)
    fused_attention(*inputs, random_mask(*inputs[:2]), 0.3).sum().backward()
    assert sizes == [121] * 6 * 2  # 2 x 3 heads of 11 x 11, twice

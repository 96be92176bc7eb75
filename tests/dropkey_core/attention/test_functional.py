"""``drop_key_attention``: units, edges, seeds, errors."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right, causal_upper_left
from torch.utils.checkpoint import checkpoint

from dropkey_core import Block, Key, drop_key_attention, drop_key_softmax
from dropkey_core.attention import recomputed
from tests.dropkey_core.toys import output_and_gradients

INF = torch.inf


@pytest.fixture
def qkv():
    torch.manual_seed(0)
    return [torch.randn(2, 3, length, 8, requires_grad=True) for length in (9, 12, 12)]


def padding(*lengths):
    """Key padding mask over 12 keys that leaves the first ``lengths`` of each sequence."""
    return torch.arange(12) >= torch.tensor(lengths)[:, None]


def test_masks_mean_what_they_mean_in_torch(qkv):
    keep = torch.rand(9, 12) < 0.7
    keep[:, 0] = True
    bias = torch.randn(2, 3, 9, 12)
    for mask in (keep, bias):
        out = drop_key_attention(*qkv, 0.0, attn_mask=mask)
        torch.testing.assert_close(out, F.scaled_dot_product_attention(*qkv, attn_mask=mask))
    out = drop_key_attention(*qkv, 0.0, attn_mask=bias, key_padding_mask=padding(12, 5), scale=0.2)
    both = bias.masked_fill(padding(12, 5)[:, None, None], -INF)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(*qkv, both, scale=0.2))


def test_attention_by_hand():
    """Logits ln 1, ln 3 and -inf: weights 1/4, 3/4, 0, so 1/4 * 8 + 3/4 * 4 = 5."""
    query = torch.ones(1, 1, 1, 1)
    key = torch.tensor([1.0, 3.0, 9.0]).log().view(1, 1, 3, 1)
    value = torch.tensor([8.0, 4.0, 100.0]).view(1, 1, 3, 1)
    mask = torch.tensor([[0.0, 0.0, -INF]])
    given = {"attn_mask": mask, "scale": 1.0}
    out, weights = drop_key_attention(query, key, value, 0.0, need_weights=True, **given)
    torch.testing.assert_close(weights.flatten(), torch.tensor([0.25, 0.75, 0.0]))
    assert out.item() == pytest.approx(5.0)
    fused = drop_key_attention(query, key, value, 0.0, **given)
    assert fused.item() == pytest.approx(5.0)


@pytest.mark.parametrize("num_heads", [1, 2, 3, 6])
@pytest.mark.parametrize(
    "given", [{}, {"is_causal": True}, {"attn_mask": torch.ones(9, 12).triu()}]
)
def test_causal_and_grouped_attention_are_torchs(given, num_heads):
    """Fused to the last bit, explicit but for rounding; also with more keys than queries."""
    torch.manual_seed(0)
    query, key = torch.randn(2, 6, 9, 8), torch.randn(2, num_heads, 12, 8)
    expected = F.scaled_dot_product_attention(query, key, key + 1, **given, enable_gqa=True)
    given = {**given, "enable_gqa": True, "training": False}
    assert torch.equal(drop_key_attention(query, key, key + 1, 0.4, **given), expected)
    out, weights = drop_key_attention(query, key, key + 1, 0.4, **given, need_weights=True)
    torch.testing.assert_close(out, expected)
    assert weights.shape == (2, 6, 9, 12)


@pytest.mark.parametrize(
    "unit", ["key", "weight", "element", Block(2), Key(shared_over=("heads",))]
)
@pytest.mark.parametrize("need_weights", [True, False])
def test_causal_and_grouped_attention_drop_as_with_a_mask_and_repeated_keys(unit, need_weights):
    torch.manual_seed(0)
    tensors = [torch.randn(2, n, 9, 8, requires_grad=True) for n in (6, 2, 2)]
    if unit == "weight" and not need_weights:
        pytest.skip("torch's fused dropout draws in an order of its own")
    results = []
    for given in (
        {"is_causal": True, "enable_gqa": True},
        {"attn_mask": torch.ones(9, 9).tril() > 0},
    ):
        query, key, value = tensors
        if "attn_mask" in given:
            key, value = (x.repeat_interleave(3, 1) for x in (key, value))
        torch.manual_seed(1)
        given = {**given, "unit": unit, "need_weights": need_weights}
        out = drop_key_attention(query, key, value, 0.4, **given)
        out = out[0] if need_weights else out
        results.append(output_and_gradients(out, tensors))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("make", "shift"), [(causal_upper_left, 0), (causal_lower_right, 3)])
def test_causal_biases_of_torch(qkv, make, shift, training):
    given = {"attn_mask": torch.ones(9, 12).tril(shift) > 0, "training": training}
    torch.manual_seed(1)
    expected = drop_key_attention(*qkv, 0.4, **given)
    torch.manual_seed(1)
    given["attn_mask"] = make(9, 12)
    torch.testing.assert_close(drop_key_attention(*qkv, 0.4, **given), expected)
    with pytest.raises(ValueError, match="for 9 queries and 12 keys, got one for 9 and 9"):
        drop_key_attention(*qkv, 0.4, attn_mask=make(9, 9))


def test_what_causal_and_grouped_attention_cannot_be_is_refused(qkv):
    query, key, value = qkv
    with pytest.raises(ValueError, match="attn_mask must be None with is_causal=True"):
        drop_key_attention(*qkv, 0.1, attn_mask=torch.zeros(9, 12), is_causal=True)
    with pytest.raises(ValueError, match="heads that divide those of query, 3; got 2 and 2"):
        drop_key_attention(query, key[:, :2], value[:, :2], 0.1, enable_gqa=True)
    with pytest.raises(ValueError, match=r"as many heads as query, 3, got 2 and 2: set enable_gqa"):
        drop_key_attention(query, key[:, :2], value[:, :2], 0.1)


def test_gradients_against_an_explicit_mask():
    """Against plain attention with the dropped keys cut out by hand, and against differences."""
    torch.manual_seed(0)
    inputs = [torch.randn(1, 2, n, 3, dtype=torch.float64, requires_grad=True) for n in (4, 6, 6)]
    torch.manual_seed(1)
    _, weights = drop_key_attention(*inputs, 0.4, need_weights=True)
    kept = weights != 0

    def cut(q, k, v):
        exponentials = (q @ k.mT / 3**0.5).exp() * kept
        return exponentials / exponentials.sum(-1, keepdim=True) @ v

    def attend(*x):
        torch.manual_seed(1)
        return drop_key_attention(*x, 0.4)

    results = (output_and_gradients(function(*inputs), inputs) for function in (attend, cut))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)
    assert torch.autograd.gradcheck(attend, inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_follows_double(qkv, dtype):
    """Errors of the size of the type's rounding, of values around 1."""
    half = [x.detach().to(dtype).requires_grad_() for x in qkv]
    exact = [x.detach().double().requires_grad_() for x in half]
    torch.manual_seed(1)
    out = drop_key_attention(*half, 0.4)
    torch.manual_seed(1)
    _, weights = drop_key_attention(*half, 0.4, need_weights=True)
    mask = torch.zeros(weights.shape, dtype=torch.float64).masked_fill(weights == 0, -INF)
    expected = drop_key_attention(*exact, 0.0, attn_mask=mask)
    assert out.dtype == weights.dtype == dtype
    results = (output_and_gradients(out, half), output_and_gradients(expected, exact))
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x.double(), y, atol=8 * torch.finfo(dtype).eps, rtol=0.05)


def test_a_learned_bias_gets_its_gradient(qkv):
    bias = torch.randn(1, 3, 9, 12, requires_grad=True)
    gradients = []
    for need_weights in (True, False):
        torch.manual_seed(1)
        out = drop_key_attention(*qkv, 0.4, attn_mask=bias, need_weights=need_weights)
        out = out[0] if need_weights else out
        gradients += torch.autograd.grad(out.square().sum(), bias)
    assert (gradients[0] != 0).any()
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


def test_manual_seed_governs_the_mask(qkv):
    def run(seed):
        torch.manual_seed(seed)
        return drop_key_attention(*qkv, 0.4)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    torch.manual_seed(1)
    assert not torch.equal(drop_key_attention(*qkv, 0.4), drop_key_attention(*qkv, 0.4))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_repeats_the_mask(qkv, use_reentrant):
    def attend(q, k, v):
        return drop_key_attention(q, k, v, 0.4).sin()

    torch.manual_seed(1)
    expected = torch.autograd.grad(attend(*qkv).sum(), qkv)
    torch.manual_seed(1)
    checkpoint(attend, *qkv, use_reentrant=use_reentrant).sum().backward()
    for x, gradient in zip(qkv, expected, strict=True):
        assert torch.equal(x.grad, gradient)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("drop_ratio", [0.0, 0.9])
def test_a_sequence_of_padding_gives_zeros(qkv, need_weights, drop_ratio):
    mask = padding(0, 1)
    out = drop_key_attention(*qkv, drop_ratio, key_padding_mask=mask, need_weights=need_weights)
    out = out[0] if need_weights else out
    assert (out[0] == 0).all()
    torch.testing.assert_close(out[1], qkv[2][1, :, :1].expand(3, 9, 8))
    out.sum().backward()
    for x in qkv:
        assert x.grad.isfinite().all()
        assert (x.grad[0] == 0).all()


@pytest.mark.parametrize("low", [-1e9, -1e4, -100.0, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("given", ["attn_mask", "key_padding_mask", "both"])
def test_a_large_negative_number_masks_as_minus_infinity_does(qkv, low, need_weights, given):
    """A query that has lost all keys it may attend to keeps them, and looks at no others."""
    few = torch.zeros(9, 12).masked_fill(torch.arange(12) >= 3, -INF)
    padded = torch.zeros(2, 12).masked_fill(padding(2, 4), -INF)
    masks = {"attn_mask": few, "key_padding_mask": padded}
    masks = masks if given == "both" else {given: masks[given]}
    found = []
    for value in (low, -INF):
        torch.manual_seed(1)
        of_value = {name: mask.clamp(min=value) for name, mask in masks.items()}
        found.append(drop_key_attention(*qkv, 0.9, need_weights=need_weights, **of_value))
    for ours, expected in zip(*found, strict=True):
        assert torch.equal(ours, expected)


def test_a_large_negative_logit_is_masked():
    allowed = torch.arange(6) < 2
    logits = torch.randn(64, 6)
    found = []
    for low in (-1e9, -INF):
        torch.manual_seed(1)
        found.append(drop_key_softmax(logits.masked_fill(~allowed, low), 0.9))
    assert torch.equal(*found) and not found[0][:, 2:].any()


@pytest.mark.parametrize("how", ["stored", "recomputed", "explicit"])
def test_autocast_computes_in_its_type(qkv, how, monkeypatch):
    if how == "recomputed":
        monkeypatch.setattr(recomputed, "SMALL_SIZE", 0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(1)
        out = drop_key_attention(*qkv, 0.4, need_weights=how == "explicit")
        double = drop_key_attention(*(x.double() for x in qkv), 0.4)
    out = out[0] if how == "explicit" else out
    torch.manual_seed(1)
    exact = drop_key_attention(*qkv, 0.4)
    assert (out.dtype, double.dtype) == (torch.bfloat16, torch.float64)
    torch.testing.assert_close(out.float(), exact, atol=0.02, rtol=0.02)  # 8 bits of mantissa
    out.sum().backward()
    assert qkv[0].grad.dtype == torch.float32


def test_a_ratio_out_of_range_is_refused(qkv):
    with pytest.raises(ValueError, match=r"drop_ratio must be in \[0, 1\), got 1.0"):
        drop_key_attention(*qkv, 1.0)

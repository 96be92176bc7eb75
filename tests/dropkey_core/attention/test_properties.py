"""What holds for any shapes, dtypes, masks, ratios and units of ``drop_key_attention``."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dropkey_core import drop_key_attention
from dropkey_core.attention.patterns import Key
from dropkey_core.attention.places import UNITS

INF = torch.inf
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
lengths = st.integers(1, 9)
ratios = st.floats(0, 0.99)
by_heads, by_queries = Key(shared_over=("heads",)), Key(shared_over=("queries",))
by_both, spared = Key(shared_over=("heads", "queries")), Key(keep_self=True, num_prefix_tokens=1)
units = st.sampled_from([*UNITS, by_heads, by_queries, by_both, spared])
key_units = st.sampled_from(["key", by_heads, by_queries, spared])


@st.composite
def problems(draw, dtypes=DTYPES):
    """Queries, keys and values of any shape and type, and masks of any kind with them."""
    batch, heads, num_queries, num_keys, width, value_width = (draw(lengths) for _ in range(6))
    dtype = draw(st.sampled_from(dtypes))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    def coin(*shape):
        return torch.rand(shape, generator=generator) < draw(st.sampled_from([0.2, 0.5, 0.9]))

    qkv = [
        normal(batch, heads, num_queries, width).requires_grad_(),
        normal(batch, heads, num_keys, width).requires_grad_(),
        normal(batch, heads, num_keys, value_width).requires_grad_(),
    ]
    axes = [length if draw(st.booleans()) else 1 for length in (batch, heads)]
    shape = draw(st.sampled_from([(num_queries, num_keys), (*axes, num_queries, num_keys)]))
    attn_mask = {"none": None, "bool": coin(*shape), "float": normal(*shape)}[
        draw(st.sampled_from(["none", "bool", "float"]))
    ]
    padding = {
        "none": None,
        "bool": coin(batch, num_keys),
        "float": normal(batch, num_keys).masked_fill(coin(batch, num_keys), -INF),
    }[draw(st.sampled_from(["none", "bool", "float"]))]
    return qkv, {"attn_mask": attn_mask, "key_padding_mask": padding}


def may_attend(qkv, masks):
    """Bool (B, H, Lq, Lk): which keys the masks leave to each query."""
    (batch, heads, num_queries, _), num_keys = qkv[0].shape, qkv[1].shape[2]
    allowed = torch.ones(batch, heads, num_queries, num_keys, dtype=torch.bool)
    attn_mask, padding = masks["attn_mask"], masks["key_padding_mask"]
    if attn_mask is not None:
        allowed &= attn_mask if attn_mask.dtype == torch.bool else attn_mask > -INF
    if padding is not None:
        padding = padding if padding.dtype == torch.bool else padding == -INF
        allowed &= ~padding[:, None, None]
    return allowed


@settings(max_examples=150, deadline=None)
@given(problem=problems(), ratio=ratios, unit=units, training=st.booleans())
def test_finite_and_zero_only_where_nothing_is_allowed(problem, ratio, unit, training):
    """Forward and backward, fused and explicit, whatever is padded or dropped."""
    qkv, masks = problem
    bare = ~may_attend(qkv, masks).any(-1)
    for need_weights in (False, True):
        out = drop_key_attention(
            *qkv, ratio, unit=unit, training=training, need_weights=need_weights, **masks
        )
        out = out[0] if need_weights else out
        assert out.dtype == qkv[0].dtype
        assert out.shape == (*qkv[0].shape[:-1], qkv[2].shape[-1])
        assert out.isfinite().all()
        assert (out[bare] == 0).all()
        gradients = torch.autograd.grad(out.double().square().sum(), qkv)
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert (gradients[0][bare] == 0).all()


@settings(max_examples=150, deadline=None)
@given(problem=problems([torch.float64, torch.float32]), ratio=ratios, unit=key_units)
def test_weights_are_a_softmax_over_the_keys_that_are_kept(problem, ratio, unit):
    """Against one written out over the kept keys; each query keeps at least one that it may."""
    qkv, masks = problem
    torch.manual_seed(0)
    out, weights = drop_key_attention(*qkv, ratio, unit=unit, need_weights=True, **masks)
    allowed = may_attend(qkv, masks)
    kept = weights > 0
    assert not (kept & ~allowed).any()
    assert (kept.any(-1) == allowed.any(-1)).all()

    logits = qkv[0] @ qkv[1].mT / qkv[0].shape[-1] ** 0.5
    for mask in (masks["attn_mask"], masks["key_padding_mask"]):
        if mask is not None and mask.dtype != torch.bool:
            logits = logits + (mask[:, None, None] if mask is masks["key_padding_mask"] else mask)
    exponentials = torch.where(kept, logits, -INF).exp()
    total = exponentials.sum(-1, keepdim=True)
    tolerance = {"atol": 1e-5, "rtol": 1e-4}  # float32, sums of up to 9 terms of up to e^10
    torch.testing.assert_close(weights, exponentials / total.clamp_min(1e-30), **tolerance)
    torch.testing.assert_close(out, weights @ qkv[2], **tolerance)


@settings(max_examples=100, deadline=None)
@given(
    problem=problems([torch.float64]),
    ratio=ratios,
    unit=units,
    seed=st.integers(0, 2**40),
    scale=st.sampled_from([None, 0.1, 2.0]),
)
def test_fused_and_explicit_paths_agree(problem, ratio, unit, seed, scale):
    """One seed, one mask: outputs and gradients to double precision's rounding."""
    qkv, masks = problem
    results = []
    for need_weights in (False, True):
        torch.manual_seed(seed)
        given = {"unit": unit, "need_weights": need_weights, "scale": scale, **masks}
        out = drop_key_attention(*qkv, ratio, **given)
        out = out[0] if need_weights else out
        results.append((out, *torch.autograd.grad(out.square().sum(), qkv)))
    if unit != "weight":  # torch's fused dropout draws in an order of its own
        for fused, explicit in zip(*results, strict=True):
            torch.testing.assert_close(fused, explicit, atol=1e-10, rtol=1e-8)


@settings(max_examples=60, deadline=None)
@given(problem=problems([torch.float32]), ratio=ratios, unit=units)
def test_evaluation_and_ratio_zero_are_plain_attention(problem, ratio, unit):
    """Bit for bit the same, and no random number is drawn."""
    qkv, masks = problem
    plain = drop_key_attention(*qkv, 0.0, **masks)
    state = torch.get_rng_state()
    for given_ratio, training in ((0.0, True), (ratio, False)):
        out = drop_key_attention(*qkv, given_ratio, unit=unit, training=training, **masks)
        assert torch.equal(out, plain)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.6])
def test_share_of_lost_keys_is_the_ratio_for_every_head_and_query(ratio):
    """2,000 draws of 8 x 12 keys: each of the 48 queries' shares within 4.8 standard errors.

    So one of them misses by chance once in 13,000 runs. Rounding shared by a row adds up to
    (0.5 / 256)^2 to the variance of a row's share.
    """
    query, key = torch.randn(2000, 4, 12, 2), torch.randn(2000, 4, 12, 2)
    torch.manual_seed(0)
    _, weights = drop_key_attention(query, key, key, ratio, need_weights=True)
    whole = ratio**12  # a query that would lose all keys keeps them
    share = (weights == 0).double().mean((0, -1))
    expected = ratio - whole
    variance = (ratio * (1 - ratio) / 12 + (0.5 / 256) ** 2 + whole) / 2000
    assert (abs(share - expected) < 4.8 * variance**0.5).all()

"""``DropKey``, the module between product and softmax: what pasted ones get wrong."""

import copy
import pickle

import pytest
import torch
from torch import nn

from dropkey_core import AfterSoftmax, Block, DropKey, Key
from dropkey_core.attention.functional import drop_key_softmax

INF = torch.inf
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def random_logits(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape or (2, 3, 9, 16), generator=generator, dtype=dtype)


def drop(logits, *args):
    torch.manual_seed(1)
    return DropKey(*args)(logits)


@pytest.mark.parametrize(
    "unit", ["key", Key(shared_over=("heads",)), Key(keep_self=True), Block(2)]
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3, 9, 16), (6, 9, 16), (9, 16)])
def test_its_softmax_is_that_of_dropkey(shape, dtype, unit):
    """One seed, one draw: that of ``drop_key_softmax``; keys at -inf stay there."""
    logits = random_logits(*shape, dtype=dtype)
    logits[..., 3, 10:] = -INF
    lowered = drop(logits, 0.4, unit)
    torch.manual_seed(1)
    expected = drop_key_softmax(logits, 0.4, unit=unit)
    assert lowered.dtype == dtype
    assert torch.equal(lowered.softmax(-1), expected)
    assert 0.2 < (expected == 0).double().mean() < 0.6
    assert torch.equal(lowered == -INF, logits == -INF)


def test_kept_logits_are_as_they_were_and_gradients_pass():
    logits = random_logits().requires_grad_()
    lowered = drop(logits, 0.4)
    kept = lowered == logits
    torch.testing.assert_close(lowered[~kept], logits[~kept] - 2048)
    factors = random_logits() + 1
    (gradient,) = torch.autograd.grad(lowered, logits, factors)
    assert torch.equal(gradient, factors)
    (gradient,) = torch.autograd.grad(drop(logits, 0.4).softmax(-1).square().sum(), logits)
    assert (gradient[~kept] == 0).all() and (gradient[kept] != 0).any()


def test_without_dropping_it_returns_what_it_got_and_draws_nothing():
    logits, state = random_logits(), torch.get_rng_state()
    assert DropKey(0.5).eval()(logits) is logits
    assert DropKey(0.0)(logits) is logits
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_that_would_lose_all_keys_loses_none(dtype):
    """With 2 keys of 16 open and ratio 0.9 most rows would."""
    logits = random_logits(1, 2, 200, 16, dtype=dtype).masked_fill(torch.arange(16) > 1, -INF)
    weights = drop(logits, 0.9).softmax(-1)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 200, dtype=dtype))
    whole = (weights > 0).sum(-1) == 2
    assert 0.7 < whole.double().mean() < 0.95  # 0.9^2 + 0.1^2 = 0.82
    assert torch.equal(weights[whole], logits.softmax(-1)[whole])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masked", [-INF, "lowest", -1e4])
@pytest.mark.parametrize("when", ["before", "after", "added after"])
def test_masks_may_come_before_or_after(when, masked, dtype):
    """No query looks at what is masked, none is nan; two steps of bfloat16 off at the worst."""
    masked = torch.finfo(dtype).min if masked == "lowest" else masked
    logits, hidden = random_logits(1, 2, 200, 16, dtype=dtype), torch.arange(16) > 1
    if when == "before":
        weights = drop(logits.masked_fill(hidden, masked), 0.9).softmax(-1)
    elif when == "after":
        weights = drop(logits, 0.9).masked_fill(hidden, masked).softmax(-1)
    else:
        weights = (
            drop(logits, 0.9) + torch.zeros(16, dtype=dtype).masked_fill(hidden, masked)
        ).softmax(-1)
    assert weights.isfinite().all()
    assert (weights[..., hidden] == 0).all()
    assert (weights.sum(-1) - 1).abs().max() < 0.01
    lost = (weights[..., :2] == 0).any(-1).double().mean()
    assert 0.1 < lost < 0.3  # of 0.18 rows that keep one of two; the others keep both or lose both


def test_the_rate_is_the_ratio_and_the_ratio_can_change():
    """60,000 keys, 4.5 standard errors; the rounding that a row shares adds 1% to them."""
    module = DropKey(0.3)
    torch.manual_seed(0)
    for ratio in (0.3, 0.1, 0.5):
        module.drop_ratio = ratio
        share = (module(torch.zeros(2, 3, 100, 100)) < 0).double().mean().item()
        assert abs(share - ratio) < 4.6 * (ratio * (1 - ratio) / 60_000) ** 0.5


def test_it_is_an_ordinary_module():
    module = nn.Sequential(DropKey(0.25, Block(2)))
    assert not module.state_dict()
    assert "DropKey(drop_ratio=0.25, unit=Block(" in repr(module)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert (twin[0].drop_ratio, twin[0].unit) == (0.25, Block(2))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((1.0,), r"drop_ratio must be in \[0, 1\), got 1.0"),
        ((0.1, "weight"), "unit must act before the softmax, .* got 'weight'"),
        ((0.1, AfterSoftmax(Block(2))), "unit must act before the softmax, .* got AfterSoftmax"),
        ((0.1, "block"), r"unit must be one of key, .*Block\(size=2\).* got 'block'"),
    ],
)
def test_bad_settings_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        DropKey(*args)


def test_what_are_no_logits_is_refused():
    with pytest.raises(ValueError, match=r"logits must be floating, got torch\.int64"):
        DropKey(0.1)(torch.ones(3, 3, dtype=torch.int64))

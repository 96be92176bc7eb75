"""The expectation over dropped keys: against all masks, random masks and a plain integral."""

import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dropkey_core.attention.alignment import (
    Expected,
    MonteCarlo,
    expected_attention,
    monte_carlo_attention,
    smoothing_coefficients,
)
from dropkey_core.attention.expectation import _expected_softmax, _integral, _Rows
from dropkey_core.attention.functional import drop_key_attention

INF = torch.inf
DOCUMENTED_ERROR = 3e-5


def over_all_masks(logits, drop_ratio):
    """The mean over all 2^N masks; the one that drops every key a row has drops none of them."""
    logits = logits.double()
    num_keys = logits.shape[-1]
    mean = torch.zeros_like(logits)
    for kept in itertools.product([False, True], repeat=num_keys):
        probability = (1 - drop_ratio) ** sum(kept) * drop_ratio ** (num_keys - sum(kept))
        masked = logits.masked_fill(~torch.tensor(kept), -INF)
        bare = (masked == -INF).all(-1, keepdim=True)
        mean += probability * torch.where(bare, logits, masked).softmax(-1)
    return mean


def by_plain_trapezoid(logits, drop_ratio, spacing=0.1):
    """The integral written out, with 7 times the nodes and a range wide enough for any row."""
    log_p = logits.double().log_softmax(-1)
    integral = torch.zeros_like(log_p)
    last = 5 - log_p.amin().item()
    for log_t in torch.arange(-25, last, spacing, dtype=torch.float64).tolist():
        y = (log_p + log_t).clamp(max=700).exp()
        q = drop_ratio + (1 - drop_ratio) * (-y).exp()
        product = q.log().sum(-1, keepdim=True).exp()
        integral += spacing * (1 - drop_ratio) * y * (-y).exp() / q * product
    # The sums must be 1 - r^N before anything is normalised.
    none_left = drop_ratio ** logits.shape[-1]
    torch.testing.assert_close(
        integral.sum(-1), torch.full_like(integral[:, 0], 1 - none_left), atol=1e-9, rtol=0
    )
    return integral + none_left * log_p.exp()


def total_variation(weights, reference):
    return (weights.double() - reference).abs().sum(-1).max().item() / 2


def rows_of_any_spikiness(num_keys):
    noise = torch.randn(2, num_keys, generator=torch.Generator().manual_seed(num_keys))
    giants = torch.full((num_keys,), -30.0)
    giants[:2] = 5
    one_hot = torch.full((num_keys,), -300.0)
    one_hot[-1] = 300
    return torch.stack(
        [
            torch.zeros(num_keys),
            noise[0],
            25 * noise[0],
            25 * noise[1],
            300 * noise[1].clamp(-1, 1),
            giants,
            one_hot,
            -math.log(10) * torch.arange(num_keys).clamp(max=250),
            -10 * torch.arange(num_keys).clamp(max=60),
        ]
    )


RATIOS = [0.01, 0.1, 0.3, 0.7, 0.9]


@pytest.mark.parametrize("drop_ratio", RATIOS)
@pytest.mark.parametrize("num_keys", [1, 2, 3, 9])
def test_error_against_all_masks(num_keys, drop_ratio):
    logits = rows_of_any_spikiness(num_keys)
    exact = over_all_masks(logits, drop_ratio)
    assert total_variation(Expected()(logits, drop_ratio), exact) < DOCUMENTED_ERROR
    assert total_variation(Expected()(logits.double(), drop_ratio), exact) < DOCUMENTED_ERROR
    assert total_variation(Expected(2)(logits, drop_ratio), exact) < 5e-7  # float32's rounding
    assert total_variation(Expected(2)(logits.double(), drop_ratio), exact) < 1e-10
    assert total_variation(Expected(3)(logits.double(), drop_ratio), exact) < 1e-13


@pytest.mark.slow
@pytest.mark.parametrize("num_keys", [17, 850])
@pytest.mark.parametrize("drop_ratio", [0.1, 0.7])
def test_error_with_many_keys(num_keys, drop_ratio):
    logits = rows_of_any_spikiness(num_keys)
    exact = by_plain_trapezoid(logits, drop_ratio)
    assert total_variation(Expected()(logits, drop_ratio), exact) < DOCUMENTED_ERROR
    assert total_variation(Expected(2)(logits.double(), drop_ratio), exact) < 1e-8  # the reference


def test_4096_keys_agree_with_more_nodes():
    logits = rows_of_any_spikiness(4096)
    for drop_ratio in (0.3, 0.7):
        exact = Expected(2)(logits.double(), drop_ratio)
        assert total_variation(Expected()(logits, drop_ratio), exact) < DOCUMENTED_ERROR


@pytest.mark.parametrize("drop_ratio", RATIOS)
@pytest.mark.parametrize("num_keys", [1, 2, 5, 40])
def test_rows_sum_to_what_is_left_before_they_are_normalised(num_keys, drop_ratio):
    logits = rows_of_any_spikiness(num_keys).double()
    logits[:, 3:5] = -INF
    left = 1 - drop_ratio ** (logits > -INF).sum(-1).double()
    one, two = (_integral(_Rows.of(logits, drop_ratio), drop_ratio, n).sum(-1) for n in (1, 2))
    torch.testing.assert_close(one, left, atol=2 * DOCUMENTED_ERROR, rtol=0)
    torch.testing.assert_close(two, left, atol=1e-10, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("drop_ratio", [0.1, 0.5, 0.9])
def test_gradient(drop_ratio):
    torch.manual_seed(0)
    logits = 4 * torch.randn(4, 5, dtype=torch.float64)
    logits[0, 3] = -INF
    logits[1] = -INF
    logits[2] *= 10
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: Expected(2)(x, drop_ratio), logits)
    weights = torch.rand(2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: expected_attention(p, drop_ratio, nodes=2), weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_with_one_node_per_octave(dtype):
    torch.manual_seed(0)
    logits, grad = 3 * torch.randn(3, 60).to(dtype), torch.randn(3, 60).to(dtype)
    gradients = []
    for x, align in ((logits, Expected()), (logits.double(), Expected(3))):
        x.requires_grad_()
        align(x, 0.4).backward(grad.to(x))
        gradients.append(x.grad)
    assert gradients[0].dtype == dtype
    # 8 bits of a bfloat16 in result and gradient; the nodes' error is 1e-5.
    tolerance = 3e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(gradients[0].double(), gradients[1], atol=tolerance, rtol=tolerance)


def test_absent_keys_get_nothing_and_no_gradient():
    weights = torch.tensor([[0.5, 0.0, 0.3, 0.2], [0.0] * 4, [0.0, 1.0, 0.0, 0.0]])
    weights.requires_grad_()
    expected = expected_attention(weights, 0.3)
    without = expected_attention(weights.detach()[:1, [0, 2, 3]], 0.3)
    torch.testing.assert_close(expected.detach()[:1, [0, 2, 3]], without)
    torch.testing.assert_close(expected_attention(5 * weights, 0.3), expected)  # any sum will do
    assert torch.equal(expected.detach()[:, 1], torch.tensor([0.0, 0.0, 1.0]))
    assert torch.equal(expected.detach()[1], torch.zeros(4))
    expected.square().sum().backward()
    assert weights.grad.isfinite().all()
    assert (weights.grad[weights.detach() == 0] == 0).all()


def test_keys_masked_by_a_huge_negative_number():
    """As some models mask: such keys count, but only where all others are dropped."""
    least = torch.finfo(torch.float32).min
    logits = torch.tensor([[0.0, 1.0, least, least], [0.0, -1e9, -1e9, -2e9], [least] * 4])
    assert total_variation(Expected()(logits, 0.7), over_all_masks(logits, 0.7)) < DOCUMENTED_ERROR


@pytest.mark.parametrize("drop_ratio", [1e-300, 1e-9, 0.999])
def test_extreme_ratios(drop_ratio):
    logits = rows_of_any_spikiness(6)
    for nodes in (1, 2):
        expected = Expected(nodes)(logits, drop_ratio)
        assert total_variation(expected, over_all_masks(logits, drop_ratio)) < DOCUMENTED_ERROR


@pytest.mark.parametrize("align", [Expected(), MonteCarlo(10)])
def test_what_is_no_number_stays_in_its_row(align):
    logits = torch.tensor([[0.0, torch.nan], [0.0, INF], [-INF, -INF], [1.0, 2.0]])
    weights = align(logits, 0.3)
    assert weights[:2].isnan().any(-1).all()
    assert torch.equal(weights[2], torch.zeros(2))
    torch.testing.assert_close(weights[3].sum(), torch.tensor(1.0))


@pytest.mark.parametrize("align", [Expected(), MonteCarlo(10)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 1, 3, 5), (0, 5), (3, 0)])
def test_shape_and_type(align, dtype, shape):
    logits = torch.randn(shape).to(dtype)
    weights = align(logits, 0.5)
    assert weights.shape == shape
    assert weights.dtype == dtype
    sums = weights.double().sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums) * (shape[-1] > 0), atol=5e-3, rtol=0)


def test_half_types_are_computed_in_float32_and_strides_do_not_matter():
    logits = torch.randn(7, 2, 3).to(torch.bfloat16).permute(1, 2, 0)
    exact = Expected()(logits.contiguous().float(), 0.5)
    assert torch.equal(Expected()(logits, 0.5), exact.to(torch.bfloat16))
    torch.testing.assert_close(Expected()(logits.float(), 0.5), exact)


def test_ratio_0_is_the_softmax():
    logits = torch.randn(2, 5)
    for align in (Expected(), MonteCarlo(10)):
        assert torch.equal(align(logits, 0.0), logits.softmax(-1))
    for function in (expected_attention, monte_carlo_attention):
        assert torch.equal(function(logits.exp(), 0.0), logits.exp())


ROWS = st.lists(st.floats(-60, 60), min_size=1, max_size=12)
ANY_RATIO = st.floats(0.0, 0.9)


@settings(deadline=None, max_examples=60)
@given(ROWS, ANY_RATIO, st.floats(-100, 100), st.randoms())
def test_rows_sum_to_1_and_follow_shifts_and_permutations(row, drop_ratio, shift, random):
    logits = torch.tensor([row], dtype=torch.float64)
    weights = Expected()(logits, drop_ratio)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(Expected()(logits + shift, drop_ratio), weights, atol=1e-9, rtol=0)
    order = random.sample(range(len(row)), len(row))
    torch.testing.assert_close(
        Expected()(logits[:, order], drop_ratio), weights[:, order], atol=1e-12, rtol=0
    )


@settings(deadline=None, max_examples=100)
@given(ROWS, st.floats(0.01, 0.9))
def test_larger_weights_have_smaller_coefficients(row, drop_ratio):
    """Strictly, wherever weights differ enough for float64 to tell (Eq. 3-4)."""
    weights = torch.tensor(row, dtype=torch.float64).div(3).softmax(-1)
    order = weights.argsort()
    weights, coefficients = weights[order], smoothing_coefficients(weights, drop_ratio)[order]
    differ = weights[1:] > weights[:-1] * (1 + 1e-6) + 1e-10
    assert (coefficients[1:] < coefficients[:-1])[differ].all()
    torch.testing.assert_close(coefficients * weights, expected_attention(weights, drop_ratio))


def test_coefficients_by_hand():
    """Two keys: both kept, one kept, or none, which keeps both."""
    r, p = 0.4, torch.tensor([0.8, 0.2], dtype=torch.float64)
    both = (1 - r) ** 2 + r**2
    by_hand = (both * p + (1 - r) * r) / p
    torch.testing.assert_close(smoothing_coefficients(p, r, nodes=3), by_hand)
    assert by_hand[0] < 1 < by_hand[1]


def test_coefficient_of_an_absent_key_is_0():
    coefficients = smoothing_coefficients(torch.tensor([[0.6, 0.0, 0.4], [0.0, 0.0, 0.0]]), 0.3)
    assert torch.equal(coefficients == 0, torch.tensor([[False, True, False], [True] * 3]))


@pytest.mark.parametrize("drop_ratio", [0.3, 0.8])
def test_random_masks_converge_to_the_expectation(drop_ratio):
    """Every weight within 5 standard errors, which one seed in 20,000 would miss for 90 weights."""
    torch.manual_seed(0)
    samples = 20_000
    logits = torch.randn(3, 5, 6)
    logits[0, 0] *= 10
    logits[1, :, 4:] = -INF
    exact = Expected(2)(logits, drop_ratio)
    # A weight in [0, 1] with this mean varies at most that much.
    standard_error = (exact * (1 - exact) / samples).sqrt()
    mean = MonteCarlo(samples)(logits, drop_ratio)
    assert ((mean - exact).abs() <= 5 * standard_error + 1e-6).all()
    plain = logits.softmax(-1)
    assert ((plain - exact).abs() > 5 * standard_error + 1e-6).any()  # the test could tell


def test_random_masks_follow_the_seed_and_rows_have_their_own():
    weights = torch.ones(100, 6)
    torch.manual_seed(0)
    first, second = (monte_carlo_attention(weights, 0.5, samples=20) for _ in range(2))
    torch.manual_seed(0)
    assert torch.equal(monte_carlo_attention(weights, 0.5, samples=20), first)
    assert not torch.equal(first, second)
    assert len(first.unique(dim=0)) > 90


def test_random_masks_come_in_portions(monkeypatch):
    """However many are asked for, only so many numbers are drawn at once."""
    sizes = []

    def keep_all(shape, *_, allowed, **__):
        sizes.append(math.prod(shape))
        return allowed.expand(shape)

    monkeypatch.setattr("dropkey_core.attention.alignment.random_key_mask", keep_all)
    logits = torch.randn(100, 50)
    mean = MonteCarlo(130)(logits, 0.5)
    torch.testing.assert_close(mean, logits.softmax(-1))
    assert sum(sizes) == 130 * logits.numel()
    assert max(sizes) <= 2**18


def test_inference_of_attention():
    query, key, value = torch.randn(3, 2, 2, 7, 4).unbind()
    logits = query @ key.transpose(-2, -1) / 2
    output = drop_key_attention(query, key, value, 0.3, training=False, inference=Expected())
    torch.testing.assert_close(output, Expected()(logits, 0.3) @ value)
    torch.testing.assert_close(output, expected_attention(logits.softmax(-1), 0.3) @ value)


def test_settings_are_pickled_and_compared():
    for align in (Expected(3), MonteCarlo(4000)):
        assert pickle.loads(pickle.dumps(align)) == align


def test_operator_is_one_that_compilers_and_exporters_understand():
    class Model(torch.nn.Module):
        def forward(self, logits):
            return Expected()(logits, 0.3)

    logits = torch.randn(3, 5, requires_grad=True)
    torch.library.opcheck(_expected_softmax, (logits, 0.3, 1))
    exported = torch.export.export(Model(), (logits,)).module()
    torch.testing.assert_close(exported(logits), Model()(logits))


def test_rows_of_all_kinds_together(monkeypatch):
    """Long inputs are cut into chunks, in which rows end at different nodes."""
    logits = rows_of_any_spikiness(30).repeat(7, 1).requires_grad_()
    grad = torch.randn(63, 30)
    together = Expected()(logits, 0.5)
    (gradient,) = torch.autograd.grad(together, logits, grad)
    monkeypatch.setattr("dropkey_core.attention.expectation._CPU_CHUNK", 5 * 30)
    apart = Expected()(logits, 0.5)
    torch.testing.assert_close(apart, together, atol=DOCUMENTED_ERROR, rtol=0)
    torch.testing.assert_close(
        torch.autograd.grad(apart, logits, grad)[0], gradient, atol=3 * DOCUMENTED_ERROR, rtol=0
    )


@pytest.mark.parametrize("function", [expected_attention, monte_carlo_attention])
def test_refusals(function):
    weights = torch.rand(2, 3)
    with pytest.raises(ValueError, match=r"drop_ratio must be in \[0, 1\), got 1.0"):
        function(weights, 1.0)
    with pytest.raises(ValueError, match=r"weights must be floating, got torch.int64"):
        function(torch.ones(2, 3, dtype=torch.int64), 0.3)
    with pytest.raises(ValueError, match=r"(nodes|samples) must be at least 1, got 0"):
        function(weights, 0.3, 0)
    with pytest.raises(ValueError, match=r"logits must be floating, got torch.bool"):
        Expected()(torch.ones(2, 3, dtype=torch.bool), 0.3)

"""The library under ``torch.compile`` and ``torch.export``: whole graphs, new masks, gradients."""

import math
from functools import cache, partial

import pytest
import torch
import torch._dynamo.testing
from torch import nn
from torch.utils.checkpoint import checkpoint

from dropkey_core import DropKey, MultiheadAttention, drop_key_attention
from dropkey_core.attention.functional import drop_key_softmax
from dropkey_core.attention.patterns import Block, Cross, Key, Window
from dropkey_core.attention.places import AfterSoftmax, Renormalised

pytestmark = pytest.mark.slow

INF = torch.inf
WIDTH, HEADS, LENGTH = 8, 2, 9
UNITS = ["key", "weight", "element", "column", Key(shared_over=("heads",)), Block(2), Cross(1)]
UNITS += [Renormalised(Window(2)), AfterSoftmax(Block(2)), Key(keep_self=True, num_prefix_tokens=1)]


@cache
def works(backend):
    """Whether that backend does, which for inductor takes a C++ compiler."""
    torch._dynamo.reset()
    try:
        torch.compile(lambda x: x.sin() + 1, backend=backend)(torch.ones(3))
    except Exception:
        return False
    return True


@pytest.fixture(params=["eager", "inductor"])
def backend(request):
    """Counts graphs. Where there is no C++ compiler, aot_eager does what inductor does first."""
    name = request.param if works(request.param) else "aot_eager"
    torch._dynamo.reset()
    torch.manual_seed(0)
    return torch._dynamo.testing.CompileCounterWithBackend(name)


def compiled(function, backend):
    return torch.compile(function, backend=backend, fullgraph=True)


def module(**settings):
    torch.manual_seed(0)
    return MultiheadAttention(WIDTH, HEADS, batch_first=True, **settings)


def sequences(batch=2, length=LENGTH):
    return torch.randn(batch, length, WIDTH, generator=torch.Generator().manual_seed(1))


def padding(*lengths, length=LENGTH):
    return torch.arange(length) >= torch.tensor(lengths)[:, None]


def queries_keys_values(length=LENGTH):
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(2, HEADS, length, 4, generator=generator).requires_grad_() for _ in "qkv"]


@pytest.mark.parametrize("given", [{}, {"key_padding_mask": padding(9, 4)}], ids=["none", "some"])
def test_evaluation_is_that_of_eager_code(backend, given):
    attention = module(drop_ratio=0.5).eval()
    x = sequences()
    for need_weights in (True, False):
        expected = attention(x, x, x, need_weights=need_weights, **given)
        ours = compiled(attention, backend)(x, x, x, need_weights=need_weights, **given)
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


def test_training_draws_a_new_mask_in_each_call_from_one_graph(backend):
    """2,000 * 2 * 81 weights: the share of zeros within 4.5 standard errors."""
    drop_ratio, calls = 0.3, 40
    attention = compiled(module(drop_ratio=drop_ratio), backend)
    x = sequences(batch=50)
    dropped = []
    for _ in range(calls):
        _, weights = attention(x, x, x, average_attn_weights=False)
        dropped.append(weights == 0)
    assert backend.frame_count == 1
    dropped = torch.stack(dropped).double()
    standard_error = math.sqrt(drop_ratio * (1 - drop_ratio) / dropped.numel())
    # A query that would lose all 9 keys loses none: 0.3^9 of them.
    expected = drop_ratio - drop_ratio**LENGTH
    assert abs(dropped.mean().item() - expected) < 4.5 * standard_error
    both = (dropped[1:] * dropped[:-1]).mean().item()
    assert abs(both - expected**2) < 4.5 * math.sqrt(
        expected**2 * (1 - expected**2) / dropped.numel()
    )


@pytest.mark.parametrize("given", ["nothing", "padding", "bias"])
def test_output_and_gradients_are_those_of_the_mask_that_was_drawn(backend, given):
    """The mask is read off the weights and put in by hand."""
    bias = torch.linspace(-3, 3, 81).view(9, 9).sin()
    masks = {
        "nothing": {},
        "padding": {"key_padding_mask": padding(9, 4)},
        "bias": {"attn_mask": bias},
    }[given]
    tensors = queries_keys_values()
    attend = compiled(partial(drop_key_attention, drop_ratio=0.4, need_weights=True), backend)
    out, weights = attend(*tensors, **masks)
    assert 0.3 < (weights == 0).double().mean() < 0.7
    query, key, value = tensors
    mask = (bias if given == "bias" else 0.0) + torch.zeros(weights.shape)
    mask = mask.masked_fill(weights == 0, -INF)
    expected_weights = (query @ key.mT / 2 + mask).softmax(-1)
    expected = expected_weights @ value
    torch.testing.assert_close(weights, expected_weights, atol=1e-6, rtol=1e-5)
    factors = torch.randn(out.shape)
    gradients = (torch.autograd.grad(x, tensors, factors) for x in (out, expected))
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


def test_the_fused_path_drops_as_often(backend):
    """With equal logits and unit vectors for values, the output shows which keys are left."""
    drop_ratio, shape = 0.3, (2, 3, 300, 100)
    value = torch.eye(100).expand(2, 3, 100, 100)
    attend = compiled(partial(drop_key_attention, drop_ratio=drop_ratio), backend)
    out = attend(torch.zeros(2, 3, 300, 100), torch.zeros(2, 3, 100, 100), value)
    share = (out == 0).double().mean().item()
    assert abs(share - drop_ratio) < 4.5 * math.sqrt(0.3 * 0.7 / math.prod(shape))
    torch.testing.assert_close(out.sum(-1), torch.ones(shape[:-1]))


@pytest.mark.parametrize("unit", UNITS, ids=str)
def test_every_unit_is_one_graph(backend, unit):
    """Causal, too, which every unit goes with."""
    tensors = queries_keys_values()
    attend = partial(drop_key_attention, drop_ratio=0.3, unit=unit, is_causal=True)
    attend = compiled(attend, backend)
    torch.manual_seed(1)
    first, second = attend(*tensors), attend(*tensors)
    torch.manual_seed(1)
    assert torch.equal(attend(*tensors), first)
    assert not torch.equal(first, second)
    for gradient in torch.autograd.grad(first.square().sum(), tensors):
        assert gradient.isfinite().all()
        assert (gradient != 0).any()


def test_softmax_of_explicit_attention_is_one_graph(backend):
    """With a learned bias among the logits, and a query that may attend to nothing."""
    bias = torch.zeros(9, 9, requires_grad=True)
    query, key, _ = queries_keys_values()
    forbidden = torch.zeros(9, 9).index_fill_(0, torch.tensor(3), -INF)

    def attend(q, k, bias):
        logits = q @ k.mT + bias + forbidden
        return drop_key_softmax(logits, 0.4), DropKey(0.4)(logits)

    weights, lowered = compiled(attend, backend)(query, key, bias)
    share = (lowered < -1000).double().mean()  # a ninth of them are forbidden
    assert 0.3 < share < 0.7
    assert (weights[:, :, 3] == 0).all()
    others = torch.cat((weights[:, :, :3], weights[:, :, 4:]), dim=2)
    torch.testing.assert_close(others.sum(-1), torch.ones(2, HEADS, 8))
    weights.square().sum().backward()
    assert bias.grad.isfinite().all()
    assert (bias.grad[3] == 0).all()
    assert (bias.grad[:3] != 0).any()


def test_a_query_without_keys_to_keep_keeps_all_it_has(backend):
    """One sequence has no key, which gives zeros, the other one, or two that most would lose."""
    attend = compiled(partial(drop_key_attention, drop_ratio=0.9), backend)
    for num_keys in (1, 2):
        tensors = queries_keys_values()
        out = attend(*tensors, key_padding_mask=padding(0, num_keys))
        assert (out[0] == 0).all() and (out[1] != 0).all()
        if num_keys == 1:
            torch.testing.assert_close(out[1], tensors[2][1, :, :1].expand(HEADS, LENGTH, 4))
        for gradient in torch.autograd.grad(out.sum(), tensors):
            assert gradient.isfinite().all()
            assert (gradient[0] == 0).all()


def test_a_ratio_that_changes_compiles_once_more_at_most(backend):
    """A schedule over the steps must not compile in each of them."""
    attention = module()
    step = compiled(attention, backend)
    x = sequences(batch=100)
    for count, ratio in enumerate((0.3, 0.3, 0.1, 0.2, 0.5, 0.45)):
        attention.drop_ratio = ratio
        _, weights = step(x, x, x, average_attn_weights=False)
        share = (weights == 0).double().mean().item()
        error = 4.5 * math.sqrt(ratio * (1 - ratio) / weights.numel())
        assert abs(share - ratio + ratio**LENGTH) < error
        assert backend.frame_count == (1 if count < 2 else 2)


def test_lengths_that_change_compile_once_more_at_most(backend):
    step = compiled(module(drop_ratio=0.3), backend)
    for length in (9, 12, 17, 30):
        x = sequences(length=length)
        out, _ = step(x, x, x, need_weights=False)
        assert out.shape == x.shape
    assert backend.frame_count <= 2


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "around"])
def test_activation_checkpointing(backend, inside):
    """Backward must see the mask of forward, whichever of the two wraps the other.

    The output of each head is linear in the values, so its gradient gives away the weights.
    """
    query, key, value = queries_keys_values()

    def attend(q, k, v):
        return drop_key_attention(q, k, v, 0.4)

    if inside and backend.backend == "eager":
        pytest.skip("torch's backend for debugging repeats no random numbers, not dropout's either")
    if inside:
        run = compiled(lambda *x: checkpoint(attend, *x, use_reentrant=False), backend)
    else:
        run = partial(checkpoint, compiled(attend, backend), use_reentrant=False)
    for _ in range(3):
        out = run(query, key, value)
        factors = torch.randn(out.shape)
        (gradient,) = torch.autograd.grad(out, value, factors)
        # <out, factors> = <weights @ value, factors> = <value, weights^T @ factors>
        torch.testing.assert_close((out * factors).sum(), (value * gradient).sum())


def test_a_training_step_of_a_whole_encoder(backend):
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, dropout=0.0, batch_first=True)
    layer.self_attn = module(drop_ratio=0.3)
    step = compiled(layer, backend)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
    for _ in range(2):
        loss = step(sequences(), src_key_padding_mask=padding(9, 4)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad.isfinite().all() for p in layer.parameters())
        optimizer.step()


class SelfAttention(nn.Module):
    def __init__(self, training):
        super().__init__()
        self.attention = module(drop_ratio=0.3)
        self.train(training)

    def forward(self, x, key_padding_mask):
        return self.attention(x, x, x, key_padding_mask=key_padding_mask)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("training", [False, True])
def test_export_with_any_batch_and_length(training, strict):
    """Exported for training, the program draws a new mask in each call, by torch's generator."""
    attention = SelfAttention(training)
    sizes = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("length", max=512)}
    program = torch.export.export(
        attention,
        (sequences(), padding(9, 4)),
        dynamic_shapes={"x": sizes, "key_padding_mask": sizes},
        strict=strict,
    ).module()
    for lengths in ((9, 4), (21, 1, 30)):
        x = sequences(len(lengths), max(lengths))
        mask = padding(*lengths, length=max(lengths))
        torch.manual_seed(3)
        out, weights = program(x, mask)
        assert out.isfinite().all()
        assert (weights[mask[:, None].expand_as(weights)] == 0).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones(x.shape[:2]))
        again, _ = program(x, mask)
        assert torch.equal(out, again) != training
        torch.manual_seed(3)
        assert torch.equal(program(x, mask)[0], out)
        if not training:
            torch.testing.assert_close(out, attention(x, mask)[0])

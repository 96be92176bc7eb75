"""DropKey under torch.func, fake and meta tensors, tracing, scripting; nested tensors."""

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from dropkey_core import (
    Block,
    Cross,
    DropKey,
    Expected,
    Key,
    MonteCarlo,
    MultiheadAttention,
    Renormalised,
    Window,
    drop_key_attention,
)
from dropkey_core.attention import recomputed
from dropkey_core.attention.functional import drop_key_softmax
from dropkey_core.attention.masks import draw_seed

pytestmark = [
    pytest.mark.filterwarnings("ignore:There is a performance drop"),  # torch's own, of vmap
    pytest.mark.filterwarnings("ignore:.*is deprecated. Please switch"),  # and of torch.jit
]
UNITS = ["key", "weight", "element", "column", Key(shared_over=("heads",)), Window(2), Block(2)]
UNITS += [Key(keep_self=True, num_prefix_tokens=1), Renormalised(Cross(1))]
PADDING = torch.arange(9) > torch.tensor([8, 5, 4])[:, None]  # one row for each sample


def samples(*shape):
    return torch.randn(3, *shape or (2, 2, 9, 4), generator=torch.Generator().manual_seed(0))


def attend(x, ratio=0.4, **given):
    out = drop_key_attention(x, x, x, ratio, **given)
    return out[0] if given.get("need_weights") else out


@pytest.fixture(params=["stored", "recomputed"])
def _mask(request, monkeypatch):
    if request.param == "recomputed":
        monkeypatch.setattr(recomputed, "SMALL_SIZE", 0)


@pytest.mark.usefixtures("_mask")
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("unit", UNITS, ids=str)
def test_vmap_draws_for_each_sample_or_once_for_all(unit, need_weights):
    x = samples(2, 2, 9, 4)[:1].expand(3, -1, -1, -1, -1)

    def run(x):
        return attend(x, unit=unit, need_weights=need_weights)

    torch.manual_seed(1)
    for randomness, alike in (("different", False), ("same", True)):
        out = torch.func.vmap(run, randomness=randomness)(x)
        assert out.isfinite().all()
        assert (torch.equal(out[0], out[1]), torch.equal(out[0], out[2])) == (alike, alike)
        assert not torch.allclose(out[0], attend(x[0], 0.0))
    if unit != "weight":  # torch's own refuses by itself, or draws nothing, by version
        with pytest.raises(RuntimeError, match="randomness"):
            torch.func.vmap(run)(x)


@pytest.mark.usefixtures("_mask")
@pytest.mark.parametrize("given", ["padding", "causal", "bias"])
def test_vmap_with_one_seed_is_a_loop_with_that_seed(given):
    x, bias = samples(), samples(2, 2, 9, 9)

    def run(x, padding, bias):
        masks = {
            "padding": {"key_padding_mask": padding.expand(2, 9)},
            "causal": {"is_causal": True},
            "bias": {"attn_mask": bias},
        }
        return attend(x, **masks[given])

    torch.manual_seed(1)
    out = torch.func.vmap(run, randomness="same")(x, PADDING, bias)
    for one, *inputs in zip(out, x, PADDING, bias, strict=True):
        torch.manual_seed(1)
        torch.testing.assert_close(one, run(*inputs))
    out = torch.func.vmap(run, randomness="different")(x, PADDING, bias)
    assert out.isfinite().all()


@pytest.mark.parametrize("align", [Expected(), MonteCarlo(5), DropKey(0.4)])
def test_vmap_of_what_takes_logits(align):
    logits = samples(2, 9, 9)
    call = align if isinstance(align, DropKey) else lambda x: align(x, 0.4)
    out = torch.func.vmap(call, randomness="different")(logits)
    assert out.shape == logits.shape and out.isfinite().all()
    if align == Expected():
        torch.testing.assert_close(out, align(logits, 0.4))


@pytest.mark.usefixtures("_mask")
def test_gradients_for_each_sample():
    """As vanilla dropout: finite, of masks of their own; with one mask those of autograd."""
    x = samples()

    def loss(x):
        return attend(x).square().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), randomness="different")(x)
    assert per_sample.isfinite().all()
    torch.manual_seed(1)
    ours = torch.func.grad(loss)(x[0])
    leaf = x[0].clone().requires_grad_()
    torch.manual_seed(1)
    torch.testing.assert_close(ours, torch.autograd.grad(loss(leaf), leaf)[0])


@pytest.mark.parametrize("kind", ["softmax", "attention", "module", "expected"])
def test_forward_mode_agrees_with_reverse_mode(kind):
    """<J v, w> = <v, J^T w>. The fused kernel for CPUs knows no forward mode."""
    point, v = samples(5, 5).double().unbind()[:2]
    w = samples(5, 5).double()[2]

    def function(x):
        torch.manual_seed(1)
        return {
            "softmax": lambda: drop_key_softmax(x, 0.4),
            "attention": lambda: attend(x[None, None])[0, 0],
            "module": lambda: DropKey(0.4)(x).softmax(-1),
            "expected": lambda: Expected()(x, 0.4),
        }[kind]()

    with sdpa_kernel(SDPBackend.MATH):
        forward = torch.func.jvp(function, (point,), (v,))[1]
        backward = torch.func.vjp(function, point)[1](w)[0]
    assert (forward != 0).any()
    torch.testing.assert_close((forward * w).sum(), (backward * v).sum(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["fake", "meta"])
@pytest.mark.parametrize("given", ["nothing", "weights", "padding", "causal"])
@pytest.mark.parametrize("unit", UNITS, ids=str)
def test_tensors_without_values(kind, given, unit):
    """Shapes come out, of outputs and gradients."""
    with FakeTensorMode() if kind == "fake" else torch.device("meta"):
        x = torch.empty(2, 2, 9, 4, requires_grad=True)
        masks = {
            "nothing": {},
            "weights": {"need_weights": True},
            "padding": {"key_padding_mask": torch.empty(2, 9, dtype=torch.bool)},
            "causal": {"is_causal": True},
        }
        out = attend(x, unit=unit, **masks[given])
        out.sum().backward()
    assert out.shape == x.grad.shape == (2, 2, 9, 4)


def test_a_default_device_does_not_change_where_seeds_come_from():
    torch.manual_seed(0)
    expected = draw_seed()
    torch.manual_seed(0)
    with torch.device("meta"):
        assert draw_seed() == expected


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("how", ["jit", "fx"])
def test_a_trace_draws_in_each_call(how):
    x = samples(2, 9, 9)[0]
    if how == "jit":
        traced = torch.jit.trace(DropKey(0.5), x, check_trace=False)
    else:
        traced = make_fx(DropKey(0.5))(x)
    assert not torch.equal(traced(x), traced(x))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_does_not_take_the_padding_of_its_example_for_granted():
    class Padded(nn.Module):
        def forward(self, x, padding):
            return attend(x, 0.0, key_padding_mask=padding)

    x = samples()[0]
    traced = torch.jit.trace(Padded(), (x, torch.zeros(2, 9, dtype=torch.bool)))
    torch.testing.assert_close(traced(x, PADDING[1:]), Padded()(x, PADDING[1:]))


@pytest.mark.parametrize("make", [lambda: DropKey(0.1), lambda: MultiheadAttention(8, 2)])
def test_scripting_is_refused_with_what_to_do(make):
    message = r"(DropKey|MultiheadAttention) cannot be scripted: use torch\.export"
    with pytest.raises(RuntimeError, match=message):
        torch.jit.script(nn.Sequential(nn.Linear(2, 2), make()))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_refused_with_what_to_do(layout):
    x = torch.nested.nested_tensor([torch.randn(n, 2, 4) for n in (5, 7)], layout=layout)
    with pytest.raises(ValueError, match=r"must not be nested tensors: pad them"):
        drop_key_attention(x, x, x, 0.3)
    for call in (lambda x: drop_key_softmax(x, 0.3), DropKey(0.3)):
        with pytest.raises(ValueError, match="logits must not be a nested tensor: pad them"):
            call(x)

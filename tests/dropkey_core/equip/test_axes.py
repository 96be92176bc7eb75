"""What a softmax runs over: operations one by one, and attention of all kinds."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from dropkey_core.equip.apply import apply_dropkey
from dropkey_core.equip.axes import (
    CHANNELS,
    KEYS,
    NOTHING_KNOWN,
    OTHER_AXIS,
    TOKENS_OF_CHANNELS,
    ChannelAxes,
    runs_over,
)

B, N, C, H = 2, 5, 12, 3
D = C // H


class Following(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.axes = ChannelAxes()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.axes.follow(func, args, kwargs or {}, result)
        return result


def followed(function):
    """Return the axes of channels of what ``function`` makes of the output of a linear layer."""
    with Following() as mode:
        result = function(F.linear(torch.randn(B, N, C), torch.randn(C, C)))
    return mode.axes.of(result)


PARAMETER = nn.Parameter(torch.randn(C, 7))

OPERATIONS = {
    "linear": (lambda x: x, {2}),
    "elementwise": (lambda x: F.gelu(x * 2 + torch.randn(N, 1)), {2}),
    "with what has none there": (lambda x: x + x @ x.mT @ torch.randn(B, N, C), set()),
    "broadcast": (lambda x: x[..., None] + x[:, :, None, :1], {2}),
    "heads": (lambda x: x.view(B, N, H, D), {2, 3}),
    "heads first": (lambda x: x.view(B, N, H, D).permute(0, 2, 1, 3), {1, 3}),
    "heads in batch": (lambda x: x.view(B, N, H, D).transpose(1, 2).flatten(0, 1), {2}),
    "heads merged": (lambda x: x.unflatten(-1, (H, D)).flatten(2), {2}),
    "tokens and heads mixed": (lambda x: x.reshape(B, N * C), set()),
    "transposed": (lambda x: x.mT, {1}),
    "axes moved": (lambda x: x.movedim(source=2, destination=0), {0}),
    "axis of length 1": (lambda x: x.unsqueeze(1), {3}),
    "part of it": (lambda x: x.chunk(3, dim=-1)[1], {2}),
    "one of three": (lambda x: x.view(B, N, 3, D).unbind(2)[0], {2}),
    "selected": (lambda x: x.select(1, 0), {1}),
    "indexed": (lambda x: x[:, 0, None, ..., ::2], {2}),
    "indexed by a tensor": (lambda x: x[torch.zeros(3, dtype=torch.long)], None),
    "joined": (lambda x: torch.cat([x, torch.randn(B, 1, C)], 1), {2}),
    "product of tokens": (lambda x: x @ x.mT, set()),
    "product of channels": (lambda x: x.mT @ x, {1, 2}),
    "product with a parameter": (lambda x: x @ x.mT @ x @ PARAMETER, {2}),
    "einsum of tokens": (lambda x: torch.einsum("b n d, b m d -> b n m", x, x), set()),
    "einsum of channels": (lambda x: torch.einsum("...nd,...ne->...de", x, x), {1, 2}),
    "einsum with a parameter": (lambda x: torch.einsum("bnd,de->bne", x, PARAMETER), {2}),
    "baddbmm": (lambda x: torch.baddbmm(torch.zeros(B, N, N), x, x.mT), set()),
    "convolution": (lambda x: F.conv1d(x.mT, torch.randn(C, C, 1)), {1}),
    "a layer over heads of a map": (lambda x: F.linear(x @ x.mT, torch.randn(4, N)), {2}),
    "layer norm": (lambda x: F.layer_norm(torch.randn(B, N, C), (C,)), {2}),
    "from outside": (lambda x: torch.randn(B, N, C) * 2, None),
    "fewer axes": (lambda x: x.mean(1), None),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_channels_are_followed_through(operation):
    function, expected = OPERATIONS[operation]
    found = followed(function)
    assert found == expected or (found is not None and set(found) == expected)


@pytest.mark.parametrize(
    ("channels", "shape", "dim", "expected"),
    [
        (set(), (B, N, N), -1, KEYS),
        (None, (B, N, N), 2, KEYS),
        ({1}, (B, H, N, N), -1, KEYS),
        (set(), (N, N), -1, KEYS),
        (None, (N, 4), -1, NOTHING_KNOWN),
        ({2}, (B, N, H), -1, CHANNELS),
        ({1}, (B, H, N, 1), 1, CHANNELS),
        ({1}, (B, C, N), -1, TOKENS_OF_CHANNELS),
        ({1, 2}, (B, C, C), -1, CHANNELS),
        ({1}, (B, 1, N), -1, KEYS),
        (set(), (B, N, N), 1, OTHER_AXIS),
        (None, (3,), 0, NOTHING_KNOWN),
    ],
)
def test_what_a_softmax_runs_over(channels, shape, dim, expected):
    axes = None if channels is None else frozenset(channels)
    assert runs_over(axes, shape, dim) == expected


class Projected(nn.Module):
    """What is done with queries, keys and values of a linear layer: (B, H, N, D) each."""

    def __init__(self, function):
        super().__init__()
        self.qkv, self.gate = nn.Linear(C, 3 * C), nn.Linear(C, H)
        self.weight = nn.Parameter(torch.randn(C, 1))
        self.function = function

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, H, D)).permute(2, 0, 3, 1, 4)
        return self.function(self, x, q, k, v)


class ProjectedAttention(Projected):
    """Softmax attention by its name."""

    def forward(self, x):
        return super().forward(x) if x.dim() else x.softmax(-1)


def gated(self, x, q, k, v):
    """A gate over heads, as in mixtures of heads."""
    self.gates = self.gate(x).softmax(-1)
    output = F.scaled_dot_product_attention(q, k, v)
    return (output * self.gates.transpose(1, 2)[..., None]).transpose(1, 2).flatten(2)


def gated_along_heads(self, x, q, k, v):
    gates = self.gate(x).transpose(1, 2)[..., None]  # (B, H, N, 1)
    self.gates = gates.softmax(1)
    return F.scaled_dot_product_attention(q, k, v) * self.gates


def of_channels(self, x, q, k, v):
    """Cross-covariance attention, as in XCiT and Restormer."""
    q, k, v = (F.normalize(y.transpose(-2, -1), dim=-1) for y in (q, k, v))
    return (q @ k.transpose(-2, -1)).softmax(-1) @ v


def of_channels_fused(self, x, q, k, v):
    return F.scaled_dot_product_attention(q.mT, k.mT, v.mT)


def linear(self, x, q, k, v):
    return q @ (k.transpose(-2, -1).softmax(-1) @ v)


def additive(self, x, q, k, v):
    """SwiftFormer's: a softmax over the only output of a product with a parameter."""
    return (x @ self.weight).softmax(-1) * x


@pytest.mark.parametrize("gate", [gated, gated_along_heads])
def test_gates_over_heads_are_left_and_keys_are_dropped(gate):
    torch.manual_seed(0)
    attention, x = ProjectedAttention(gate), torch.randn(B, N, C)
    expected = attention(x), attention.gates
    apply_dropkey(attention, 0.5)
    for _ in range(3):
        output = attention(x)
        assert torch.equal(attention.gates, expected[1])
        assert not torch.allclose(output, expected[0])


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (of_channels, "over channels"),
        (of_channels_fused, "over channels"),
        (additive, "over channels"),
        (linear, "linear attention"),
    ],
)
def test_attention_without_keys_is_refused_in_the_first_training_forward(function, reason):
    attention, x = ProjectedAttention(function), torch.randn(B, N, C)
    expected = attention(x)
    apply_dropkey(attention, 0.5)
    assert torch.equal(attention.eval()(x), expected)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"ProjectedAttention .*{reason}.*select="):
            attention.train()(x)


class UnbatchedAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(C, 3 * C)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        self.weights = (q @ k.T).softmax(-1)
        return self.weights @ v


def test_logits_of_two_axes_where_the_layers_before_tell_what_they_are():
    attention = UnbatchedAttention()
    apply_dropkey(attention, 0.5)
    for _ in range(2):
        attention(torch.randn(N, C))
        assert (attention.weights == 0).any()


def test_what_was_found_out_is_kept_and_nothing_is_followed_any_more(monkeypatch):
    attention, x = ProjectedAttention(gated), torch.randn(B, N, C)
    apply_dropkey(attention, 0.5)
    attention(x)
    assert attention._dropkey.kinds == {0: CHANNELS, 1: KEYS}
    monkeypatch.setattr(ChannelAxes, "follow", None)
    gates = attention.gates
    attention(x)
    assert torch.equal(attention.gates, gates)


def test_a_softmax_that_comes_later_is_looked_at_in_the_next_forward():
    def with_gate_sometimes(self, x, q, k, v):
        output = F.scaled_dot_product_attention(q, k, v)
        return output * self.gate(x).softmax(-1).transpose(1, 2)[..., None] if self.late else output

    attention, x = ProjectedAttention(with_gate_sometimes), torch.randn(B, N, C)
    attention.late = False
    apply_dropkey(attention, 0.5)
    attention(x)
    attention.late = True
    attention(x)
    attention(x)
    assert attention._dropkey.kinds == {0: KEYS, 1: CHANNELS}


def test_outlook_attention_whose_weights_a_layer_makes_drops_keys():
    attention = pytest.importorskip("timm.models.volo").OutlookAttention(C, H, attn_drop=0.0)
    apply_dropkey(attention, 0.5)
    seen = []
    attention.observe = seen.append
    attention(torch.randn(1, 4, 4, C))
    assert (seen[0] == 0).any() and seen[0].shape[-2:] == (9, 9)

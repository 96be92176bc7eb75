"""``MultiheadAttention`` against ``torch.nn``'s: same arguments, keys and numbers."""

import copy
import itertools

import pytest
import torch
from torch import nn

from dropkey_core import MultiheadAttention, drop_key_attention
from tests.dropkey_core.toys import HEADS, WIDTH, each_copy

INF = torch.inf
BATCH = 3


def pair(**settings):
    """Torch's module and ours with the same parameters, in float64 so that little is forgiven."""
    torch.manual_seed(0)
    reference = nn.MultiheadAttention(WIDTH, HEADS, dtype=torch.float64, **settings)
    ours = MultiheadAttention(WIDTH, HEADS, dtype=torch.float64, **settings)
    for parameter in reference.parameters():  # biases start at 0, which would hide mistakes
        nn.init.normal_(parameter)
    ours.load_state_dict(reference.state_dict(), strict=True)
    return reference, ours


def inputs(sharing, batch_first=True, key_width=WIDTH, batched=True, dtype=torch.float64):
    """Query, key and value: one tensor, two that share a role as named, or three."""
    torch.manual_seed(1)
    num_keys = 4 if sharing in ("all", "query=key") else 5
    query = torch.randn(BATCH, 4, WIDTH, dtype=dtype)
    key, value = (torch.randn(BATCH, num_keys, key_width, dtype=dtype) for _ in range(2))
    key = query if sharing in ("all", "query=key") else key
    value = key if sharing in ("all", "key=value") else value
    # A dict, so that what is one tensor stays one.
    laid = {id(x): x if batch_first else x.transpose(0, 1) for x in (query, key, value)}
    laid = laid if batched else {name: x[0] for name, x in laid.items()}
    return [laid[id(x)] for x in (query, key, value)]


def assert_same(reference, ours, *args, **kwargs):
    """Outputs, weights and parameter gradients agree to float64's rounding."""
    (expected, expected_weights), (out, weights) = (m(*args, **kwargs) for m in (reference, ours))
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=1e-12)
    assert (weights is None) == (expected_weights is None)
    if weights is not None:
        torch.testing.assert_close(weights, expected_weights, atol=1e-12, rtol=1e-12)
    torch.manual_seed(2)
    factors = torch.randn(out.shape, dtype=out.dtype)
    gradients = [
        torch.autograd.grad(o, m.parameters(), factors)
        for o, m in ((out, ours), (expected, reference))
    ]
    for gradient, expected_gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("sharing", ["all", "query=key", "key=value", "none"])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_equal_to_torch_for_all_inputs(sharing, batch_first, bias):
    modules = pair(batch_first=batch_first, bias=bias)
    tensors = inputs(sharing, batch_first)
    for need_weights, average in itertools.product((True, False), repeat=2):
        assert_same(*modules, *tensors, need_weights=need_weights, average_attn_weights=average)


def attn_masks(num_keys):
    return {
        "none": None,
        "bool": torch.rand(4, num_keys) < 0.4,
        "bool per head": torch.rand(BATCH * HEADS, 4, num_keys) < 0.4,
        "float": torch.randn(4, num_keys, dtype=torch.float64),
        "float per head": torch.randn(BATCH * HEADS, 4, num_keys, dtype=torch.float64),
        "causal": torch.zeros(4, num_keys, dtype=torch.float64)
        + torch.full((4, num_keys), -INF, dtype=torch.float64).triu(1),
    }


@pytest.mark.filterwarnings("ignore:Support for mismatched")  # torch's, yet it computes
@pytest.mark.parametrize("attn_mask", attn_masks(5))
@pytest.mark.parametrize("padded", ["none", "bool", "float"])
@pytest.mark.parametrize("appended", [{}, {"add_bias_kv": True}, {"add_zero_attn": True}])
def test_equal_to_torch_for_all_masks(attn_mask, padded, appended):
    modules = pair(batch_first=True, **appended)
    tensors = inputs("none")
    mask = attn_masks(5)[attn_mask]
    if mask is not None and mask.dtype == torch.bool:
        mask[..., 0] = False  # torch gives nan where nothing is left
    padding = torch.arange(5) >= torch.tensor([5, 3, 1])[:, None]
    key_padding_mask = {
        "none": None,
        "bool": padding,
        "float": torch.zeros(BATCH, 5, dtype=torch.float64).masked_fill(padding, -INF),
    }[padded]
    for need_weights in (True, False):
        assert_same(
            *modules,
            *tensors,
            attn_mask=mask,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            is_causal=attn_mask == "causal" and not appended,  # where torch forgets the mask
        )


@pytest.mark.parametrize("batch_first", [True, False])
def test_equal_to_torch_with_other_key_and_value_widths(batch_first):
    modules = pair(kdim=6, vdim=6, add_bias_kv=True, add_zero_attn=True, batch_first=batch_first)
    assert_same(*modules, *inputs("none", batch_first, key_width=6))
    assert_same(*modules, *inputs("key=value", batch_first, key_width=6), need_weights=False)


@pytest.mark.parametrize("sharing", ["all", "none"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_equal_to_torch_without_a_batch(sharing, batch_first):
    modules = pair(batch_first=batch_first)
    tensors = inputs(sharing, batched=False)
    num_keys = len(tensors[1])
    padding = torch.arange(num_keys) >= 3
    mask = torch.rand(HEADS, 4, num_keys) < 0.3
    mask[..., 0] = False
    for need_weights in (True, False):
        given = {"key_padding_mask": padding, "attn_mask": mask, "need_weights": need_weights}
        assert_same(*modules, *tensors, **given)


def test_same_parameters_and_initial_values():
    for settings in ({}, {"kdim": 6, "add_bias_kv": True}, {"bias": False}):
        torch.manual_seed(3)
        reference = nn.MultiheadAttention(WIDTH, HEADS, **settings).state_dict()
        torch.manual_seed(3)
        ours = MultiheadAttention(WIDTH, HEADS, drop_ratio=0.3, **settings).state_dict()
        assert list(ours) == list(reference)
        for name, value in reference.items():
            assert torch.equal(ours[name], value)


def test_drops_in_training_only_and_the_ratio_can_change():
    _, ours = pair(batch_first=True)
    tensors = inputs("query=key")
    plain = ours(*tensors)[0]
    ours.drop_ratio = 0.5
    assert not torch.equal(ours(*tensors)[0], plain)
    ours.eval()
    torch.testing.assert_close(ours(*tensors)[0], plain)


def test_it_drops_what_the_function_drops():
    """The module is its projections around ``drop_key_attention``, mask and all."""
    _, ours = pair(batch_first=True)
    ours.drop_ratio = 0.5
    x = inputs("all")[0]
    padding = torch.arange(4) >= torch.tensor([4, 2, 3])[:, None]
    torch.manual_seed(3)
    out, weights = ours(x, x, x, key_padding_mask=padding, average_attn_weights=False)
    projected = nn.functional.linear(x, ours.in_proj_weight, ours.in_proj_bias)
    q, k, v = projected.view(BATCH, 4, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
    torch.manual_seed(3)
    expected, expected_weights = drop_key_attention(
        q, k, v, 0.5, key_padding_mask=padding, need_weights=True
    )
    torch.testing.assert_close(weights, expected_weights)
    torch.testing.assert_close(out, ours.out_proj(expected.transpose(1, 2).flatten(2)))


@pytest.mark.parametrize("settings", [{"dropout": 0.4}, {"drop_ratio": 0.4, "unit": "weight"}])
def test_both_ways_to_vanilla_dropout_are_torchs(settings):
    """Weights and output under one seed equal those of torch.nn with ``dropout``."""
    reference, plain = pair(dropout=0.4, batch_first=True)
    ours = MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=torch.float64, **settings)
    ours.load_state_dict(plain.state_dict())
    for need_weights in (True, False):
        results = []
        for module in (reference, ours):
            torch.manual_seed(3)
            results.append(module(*inputs("query=key"), need_weights=need_weights)[0])
        torch.testing.assert_close(*results)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_a_sequence_of_padding_never_gives_nan(training, need_weights):
    _, ours = pair(batch_first=True)
    ours.train(training).drop_ratio = 0.9
    padding = torch.arange(5) >= torch.tensor([5, 1, 0])[:, None]
    out, weights = ours(*inputs("none"), key_padding_mask=padding, need_weights=need_weights)
    torch.testing.assert_close(out[2], ours.out_proj.bias.expand(4, WIDTH))
    if need_weights:
        assert (weights[2] == 0).all()
    out.sum().backward()
    assert all(p.grad.isfinite().all() for p in ours.parameters())


@each_copy
def test_copies_behave_like_the_original(duplicate):
    ours = MultiheadAttention(WIDTH, HEADS, dtype=torch.float64, drop_ratio=0.5)
    twin = duplicate(ours)
    results = []
    for module in (ours, twin):
        torch.manual_seed(3)
        results.append(module(*inputs("all", batch_first=False))[0])
    assert torch.equal(*results)
    assert (twin.drop_ratio, twin.unit) == (0.5, "key")
    assert "embed_dim=8, num_heads=2, drop_ratio=0.5, unit='key'" in repr(twin)


def test_works_as_the_attention_of_torchs_layers():
    layer = nn.TransformerDecoderLayer(WIDTH, HEADS, 16, dropout=0.0, batch_first=True)
    expected = copy.deepcopy(layer)
    for name in ("self_attn", "multihead_attn"):
        attention = MultiheadAttention(WIDTH, HEADS, batch_first=True)
        attention.load_state_dict(getattr(layer, name).state_dict())
        setattr(layer, name, attention)
    queries, memory, _ = inputs("none", dtype=torch.float32)
    causal = nn.Transformer.generate_square_subsequent_mask(4)
    args = {"tgt_mask": causal, "tgt_is_causal": True}
    torch.testing.assert_close(
        layer(queries, memory, **args), expected(queries, memory, **args), atol=2e-6, rtol=1e-5
    )
    layer.self_attn.drop_ratio = 0.5
    assert not torch.allclose(layer(queries, memory, **args), expected(queries, memory, **args))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor", "ignore:The PyTorch API of nested")
@pytest.mark.parametrize("when", ["before", "after"])
def test_torchs_fast_path_does_not_bypass_it(when, monkeypatch):
    """In evaluation torch's encoder computes its layers in one call, and makes batches nested.

    A module put into the layer before the encoder is made, or into each layer afterwards.
    """

    def ours(layer):
        attention = MultiheadAttention(WIDTH, HEADS, batch_first=True, drop_ratio=0.5)
        attention.load_state_dict(layer.self_attn.state_dict())
        layer.self_attn = attention

    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True)
    expected = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    if when == "before":
        ours(layer)
    encoder = nn.TransformerEncoder(layer, 2)
    for encoder_layer in encoder.layers if when == "after" else ():
        ours(encoder_layer)
    encoder.eval()
    calls = []
    forward = MultiheadAttention.forward
    monkeypatch.setattr(
        MultiheadAttention, "forward", lambda *a, **k: (calls.append(1), forward(*a, **k))[1]
    )
    x = torch.randn(BATCH, 5, WIDTH)
    padding = torch.arange(5) >= torch.tensor([5, 3, 1])[:, None]
    with torch.no_grad():
        for given in ({}, {"src_key_padding_mask": padding}):
            calls.clear()
            out = encoder(x, **given)
            assert len(calls) >= 2
            kept = ~padding if given else torch.ones_like(padding)
            torch.testing.assert_close(out[kept], expected(x, **given)[kept], atol=1e-5, rtol=1e-5)


def test_autocast():
    ours = MultiheadAttention(WIDTH, HEADS, batch_first=True, drop_ratio=0.3)
    padding = torch.arange(5) >= torch.tensor([5, 3, 1])[:, None]
    tensors = inputs("none", dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = ours(*tensors, key_padding_mask=padding, need_weights=False)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert all(p.grad.isfinite().all() for p in ours.parameters())


def test_export_for_inference():
    """With a padding mask in which nothing is padded, whose values the graph must not depend on."""
    ours = MultiheadAttention(WIDTH, HEADS, batch_first=True, drop_ratio=0.3).eval()
    tensors = tuple(inputs("none", dtype=torch.float32))
    nothing, something = torch.zeros(BATCH, 5, dtype=torch.bool), torch.arange(5).expand(3, 5) > 2
    program = torch.export.export(ours, tensors, {"key_padding_mask": nothing}).module()
    for padding in (nothing, something):
        torch.testing.assert_close(
            program(*tensors, key_padding_mask=padding), ours(*tensors, key_padding_mask=padding)
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drop_ratio": 1.5}, r"drop_ratio must be in \[0, 1\), got 1.5"),
        ({"unit": "row"}, r"unit must be one of key, weight, .* got 'row'"),
        ({"dropout": 0.1, "drop_ratio": 0.3}, r"must be 0.* got dropout=0.1, drop_ratio=0.3"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MultiheadAttention(WIDTH, HEADS, **settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"attn_mask": torch.zeros(5, 4)}, r"attn_mask .*\(4, 5\) or \(6, 4, 5\), got \(5, 4\)"),
        ({"key_padding_mask": torch.zeros(3, 4) > 0}, r"key_padding_mask .*\(3, 5\), got \(3, 4\)"),
        ({"attn_mask": torch.zeros(4, 5).byte()}, r"attn_mask must be bool or .* torch.uint8"),
        ({"is_causal": True}, "attn_mask must be given with is_causal=True"),
    ],
)
def test_bad_masks_are_refused_with_what_fits(given, message):
    with pytest.raises(ValueError, match=message):
        pair(batch_first=True)[1](*inputs("none"), **given)

"""``apply_dropkey`` and its companions: numbers, reports, the way back, and what torch offers."""

import copy
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from dropkey_core.analysis.capture import captured_attention
from dropkey_core.attention.alignment import Expected
from dropkey_core.attention.masks import draw_seed, random_key_mask
from dropkey_core.attention.modules import MultiheadAttention
from dropkey_core.equip.apply import (
    apply_dropkey,
    remove_dropkey,
    set_drop_ratio,
    set_inference,
)
from dropkey_core.equip.check import check_dropkey
from dropkey_core.variants import self_attention
from tests.dropkey_core.toys import (
    HEADS,
    WIDTH,
    SelfAttention,
    compiles_whole,
    each_copy,
    pickled,
    seeded,
)

ROOT = Path(__file__).parents[3]
fused_or_explicit = pytest.mark.parametrize("fused", [True, False])


class Block(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attn = attention

    def forward(self, x):
        return x + self.attn(x)


class Model(nn.Module):
    """A stack of blocks, its attention made by ``make``."""

    def __init__(self, make=SelfAttention, depth=3):
        super().__init__()
        self.blocks = nn.Sequential(*(Block(make()) for _ in range(depth)))

    def forward(self, x):
        return self.blocks(x)


class ChannelAttention(nn.Module):
    def forward(self, x):
        return x @ (x.mT @ x).softmax(-1)


def model_and_input(**settings):
    torch.manual_seed(0)
    return Model(lambda: SelfAttention(**settings)), torch.randn(2, 5, WIDTH)


def ratios(model):
    return [block.attn.drop_ratio for block in model.blocks]


def algorithm_1(q, k, v, ratio, **given):
    """Attention with the mask of the next seed, its heads (B, H, L, 4) merged."""
    mask = random_key_mask((*q.shape[:-1], k.shape[-2]), ratio, draw_seed(), **given)
    assert (mask == -torch.inf).any()
    return ((q @ k.mT / 2 + mask).softmax(-1) @ v).transpose(1, 2).flatten(2)


# --- numbers ---


@fused_or_explicit
def test_training_is_algorithm_1_with_the_masks_of_the_seed(fused):
    """Layer after layer, each with a mask of its own; vanilla dropout has gone."""
    model, x = model_and_input(fused=fused, dropout=0.9)
    apply_dropkey(model, 0.6)
    out = seeded(model, x)
    torch.manual_seed(3)
    for block, ratio in zip(model.blocks, (0.6, 0.4, 0.2), strict=True):
        q, k, v = block.attn.qkv(x).view(2, 5, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        x = x + algorithm_1(q, k, v, ratio)
    torch.testing.assert_close(out, x)


def test_timm_attention_against_algorithm_1():
    attention = pytest.importorskip("timm.layers").Attention(
        WIDTH, HEADS, qk_norm=True, norm_layer=nn.LayerNorm, attn_drop=0.9
    )
    x = torch.randn(2, 5, WIDTH)
    apply_dropkey(attention, 0.4)
    out = seeded(attention, x)
    q, k, v = attention.qkv(x).reshape(2, 5, 3, HEADS, 4).permute(2, 0, 3, 1, 4)
    expected = seeded(algorithm_1, attention.q_norm(q), attention.k_norm(k), v, 0.4)
    torch.testing.assert_close(out, attention.proj(expected))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_transformers_attention_against_algorithm_1(implementation):
    """BERT's, with padding, whose masked keys stay masked and whose dropout of 0.9 has gone."""
    transformers = pytest.importorskip("transformers", minversion="5")  # before: a class for each
    settings = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": 8}
    config = transformers.BertConfig(
        **settings, num_hidden_layers=1, attention_probs_dropout_prob=0.9
    )
    config._attn_implementation = implementation
    attention = transformers.models.bert.modeling_bert.BertSelfAttention(config)
    x, keep = torch.randn(2, 5, WIDTH), torch.arange(5) < torch.tensor([5, 1])[:, None]
    keep = keep[:, None, None]
    lowest = torch.finfo(torch.float32).min
    given = keep if implementation == "sdpa" else torch.where(keep, 0.0, lowest)
    apply_dropkey(attention, 0.6)
    out = seeded(lambda: attention(x, attention_mask=given)[0])

    names = ("query", "key", "value")
    q, k, v = (getattr(attention, n)(x).view(2, 5, HEADS, 4).transpose(1, 2) for n in names)
    allowed = torch.zeros(2, 1, 1, 5).masked_fill(~keep, -torch.inf)
    expected = seeded(lambda: algorithm_1(q, k, v, 0.6, allowed=allowed))
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(out[1], v[1, :, 0].flatten().expand(5, WIDTH))  # its only key


@fused_or_explicit
def test_dropout_of_outputs_stays(fused):
    model, x = model_and_input(fused=fused, output_dropout=0.5)
    attention = model.blocks[0].attn
    apply_dropkey(attention, 0.3)
    share = (attention(x.expand(100, 2, 5, WIDTH).flatten(0, 1)) == 0).float().mean()
    assert 0.45 < share < 0.55  # of 8,000: 9 standard deviations


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@fused_or_explicit
def test_floating_types(dtype, fused):
    model, x = model_and_input(fused=fused)
    model, x = model.to(dtype), x.to(dtype)
    apply_dropkey(model, 0.4)
    out = model(x)
    out.sum().backward()
    assert out.dtype == dtype
    assert all(p.grad.isfinite().all() for p in model.parameters())


@fused_or_explicit
def test_autocast_gives_the_type_of_the_original(fused):
    model, x = model_and_input(fused=fused)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model.blocks[0].attn(x).dtype
        apply_dropkey(model, 0.4)
        out = model.blocks[0].attn(x)
    assert out.dtype == expected
    out.float().sum().backward()


def test_the_unit_is_obeyed():
    """Vanilla dropout by DropKey's name: the same masks as torch's own dropout of weights."""
    model, x = model_and_input(fused=False, dropout=0.4)
    expected = seeded(model, x)
    apply_dropkey(model, 0.4, "constant", unit="weight")
    torch.testing.assert_close(seeded(model, x), expected)


# --- what is equipped, reports, the way back ---


def test_report_has_names_classes_ratios_and_what_was_left_out():
    model = Model(depth=2)
    model.gate = ChannelAttention()
    with pytest.warns(UserWarning, match="left out .*\n.*gate  ChannelAttention  .*channels"):
        report = apply_dropkey(model, 0.3, select=lambda name, _: name != "blocks.1.attn")
    assert str(report).splitlines() == [
        "DropKey in 1 attention module, 1 stack",
        "  blocks.0.attn  SelfAttention  0.3000",
        "Left out: 2",
        "  blocks.1.attn  SelfAttention     select returned False",
        "  gate           ChannelAttention  its softmax runs over channels, not over keys",
    ]
    [site] = report.equipped
    assert (site.name, site.drop_ratio, site.stack) == ("blocks.0.attn", 0.3, "")


def test_what_a_second_call_leaves_out_keeps_its_ratio_and_the_report_says_so():
    model = Model(depth=2)
    apply_dropkey(model, 0.3)
    report = apply_dropkey(model, 0.1, select=lambda name, _: name != "blocks.0.attn")
    assert [m.attn.drop_ratio for m in model.blocks] == [0.3, 0.1]
    [left_out] = report.left_out
    assert "it keeps its drop_ratio 0.3" in left_out.reason


def test_select_spreads_over_what_it_selects_and_silences_the_warning():
    model = Model(depth=4)
    model.gate = ChannelAttention()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        apply_dropkey(model, 0.3, select=lambda name, module: name[7:8] in ("1", "3"))
    assert not hasattr(model.blocks[0].attn, "drop_ratio")
    assert [model.blocks[i].attn.drop_ratio for i in (1, 3)] == pytest.approx([0.3, 0.15])


def test_encoder_and_decoder_have_a_schedule_each():
    model = nn.Transformer(WIDTH, HEADS, 3, 2, 16, batch_first=True)
    report = apply_dropkey(model, 0.3)
    found = {site.name: site.drop_ratio for site in report.equipped}
    expected = {f"encoder.layers.{i}.self_attn": r for i, r in enumerate((0.3, 0.2, 0.1))}
    expected |= {f"decoder.layers.{i}.self_attn": r for i, r in enumerate((0.3, 0.15))}
    expected |= {f"decoder.layers.{i}.multihead_attn": r for i, r in enumerate((0.3, 0.15))}
    assert found == pytest.approx(expected)


def test_a_second_call_sets_anew_and_keeps_inference():
    model, _ = model_and_input()
    apply_dropkey(model, 0.3)
    classes = [type(m) for m in model.modules()]
    set_inference(model, max)
    report = apply_dropkey(model, 0.6, "constant", unit="column")
    assert [type(m) for m in model.modules()] == classes
    assert {site.class_name for site in report.equipped} == {"SelfAttention"}
    attention = model.blocks[2].attn
    assert (attention.drop_ratio, attention.unit, attention.inference) == (0.6, "column", max)


def test_set_drop_ratio_finds_what_is_equipped_and_our_own_modules():
    model = Model(depth=2)
    model.blocks.append(Block(MultiheadAttention(WIDTH, HEADS)))
    model.blocks.append(Block(SelfAttention()))
    apply_dropkey(model, 0.3, select=lambda name, _: name in ("blocks.0.attn", "blocks.1.attn"))
    report = set_drop_ratio(model, 0.9, "linear_increasing")
    assert [site.name for site in report.equipped] == [f"blocks.{i}.attn" for i in range(3)]
    assert [model.blocks[i].attn.drop_ratio for i in range(3)] == pytest.approx([0.3, 0.6, 0.9])
    assert not hasattr(model.blocks[3].attn, "drop_ratio")


def test_our_own_modules_are_set_and_get_their_settings_back():
    attention = MultiheadAttention(WIDTH, HEADS, drop_ratio=0.1, unit="column")
    before = dict(vars(attention))
    for ratio in (0.3, 0.4):
        apply_dropkey(attention, ratio)
        assert (attention.drop_ratio, attention.unit) == (ratio, "key")
    assert type(attention) is MultiheadAttention
    remove_dropkey(attention)
    assert vars(attention) == before


def test_removing_twice_or_from_a_plain_model_does_nothing():
    model, x = model_and_input()
    expected = model(x)
    apply_dropkey(model, 0.3)
    for _ in range(2):
        remove_dropkey(model)
    assert torch.equal(model(x), expected)


def test_hooks_instances_and_names_stay():
    model, x = model_and_input()
    seen = []
    model.blocks[0].attn.register_forward_hook(lambda *args: seen.append(len(args)))
    apply_dropkey(model, 0.25)
    model(x)
    assert seen == [3]
    assert isinstance(model.blocks[0].attn, SelfAttention)
    assert type(model.blocks[0].attn) is type(model.blocks[1].attn)
    assert "DropKeySelfAttention(\n  drop_ratio=0.25, unit='key'" in repr(model.blocks[0].attn)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"drop_ratio": 1.5}, r"drop_ratio must be in \[0, 1\), got 1.5"),
        ({"drop_ratio": "0.1"}, r"drop_ratio must be a number in \[0, 1\), got '0.1'"),
        ({"drop_ratio": [0.1, 0.2]}, "one ratio for each of 3 layers, got 2"),
        ({"drop_ratio": lambda name: float(name[7])}, r"drop_ratio must be in \[0, 1\), got 1.0"),
        ({"drop_ratio": lambda name: 0.1, "schedule": "cosine"}, "schedule must be left out"),
        ({"schedule": "up"}, "schedule must be one of .* got 'up'"),
        ({"unit": "row"}, "unit must be one of .* got 'row'"),
        ({"include": ["blocks.3"]}, "include must be names or classes .* Model is 'blocks.3'"),
        ({"include": [nn.Linear, nn.Conv2d]}, "nothing in Model is <class .*Conv2d'>"),
        ({"include": "blocks.1"}, "blocks.1 has attention in it .* too: blocks.1.attn; leave"),
        ({"example_inputs": "text"}, "Model cannot be run on example_inputs: .*; give a tuple"),
    ],
)
def test_bad_arguments_change_nothing(arguments, text):
    model, _ = model_and_input()
    with pytest.raises(ValueError, match=text):
        apply_dropkey(model, **{"drop_ratio": 0.3} | arguments)
    assert all(type(block.attn) is SelfAttention for block in model.blocks)


@pytest.mark.parametrize(
    ("inference", "text"),
    [
        ("expected", r"inference must be None or a callable .* Expected\(\), got 'expected'"),
        (Expected, r"inference must be an object such as Expected\(\), got the class"),
    ],
)
def test_inference_that_cannot_be_called_is_refused(inference, text):
    model, _ = model_and_input()
    apply_dropkey(model, 0.3)
    with pytest.raises(ValueError, match=text):
        set_inference(model, inference)


@pytest.mark.parametrize(
    "use", [lambda report: report(1), lambda report: report.train(), lambda r: r.parameters()]
)
def test_a_report_that_is_used_as_a_model_says_what_it_is(use):
    report = apply_dropkey(Model(), 0.3)
    with pytest.raises((AttributeError, TypeError), match=r"a report, not a model: .* in place"):
        use(report)
    assert copy.deepcopy(report) == pickled(report) == report


def test_a_model_without_attention_is_refused_with_what_was_looked_for():
    with pytest.raises(ValueError, match=r"Linear has no attention .* torch.nn.MultiheadAttention"):
        apply_dropkey(nn.Linear(2, 2), 0.3)
    with pytest.raises(ValueError, match=r"left out: 0 and 1 more  ChannelAttention  .*channels"):
        apply_dropkey(nn.Sequential(ChannelAttention(), ChannelAttention()), 0.3)
    with pytest.raises(ValueError, match=r"^select returned False .* blocks.0.attn .* 2 more$"):
        apply_dropkey(Model(), 0.3, select=lambda name, module: False)


@pytest.mark.parametrize(
    "use",
    [
        lambda model: set_drop_ratio(model, 0.3),
        lambda model: set_inference(model, None),
        lambda model: check_dropkey(model, torch.randn(2, 5, WIDTH)),
        lambda model: captured_attention(model).__enter__(),
        self_attention,
    ],
)
def test_a_model_that_was_not_equipped_is_refused(use):
    with pytest.raises(ValueError, match="Model has no equipped attention: call apply_dropkey"):
        use(Model())


def attend(x):
    return F.scaled_dot_product_attention(x, x, x)


class Mixer(nn.Module):
    """Attention that nothing in its class tells."""

    def __init__(self, function=attend):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    "include",
    ["mixer", ["mixer"], Mixer, [Mixer], lambda name, module: isinstance(module, Mixer)],
)
def test_include_equips_what_is_not_found(include):
    model = Model(depth=1)
    model.mixer = Mixer()
    report = apply_dropkey(model, 0.4, select=lambda name, module: name != "mixer", include=include)
    assert [site.name for site in report.equipped] == ["blocks.0.attn", "mixer"]
    x = torch.randn(2, 2, 30, 4)
    torch.manual_seed(3)
    mask = random_key_mask((2, 2, 30, 30), model.mixer.drop_ratio, draw_seed())
    expected = (x @ x.mT / 2 + mask).softmax(-1) @ x
    torch.testing.assert_close(seeded(model.mixer, x), expected)
    remove_dropkey(model)
    assert type(model.mixer) is Mixer


class OwnForward(nn.MultiheadAttention):
    def forward(self, x):
        return x


class WithUnit(Mixer):
    unit = 3


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (OwnForward(WIDTH, HEADS), "it overrides forward of torch.nn.MultiheadAttention"),
        (WithUnit(), "it has an attribute unit of its own"),
    ],
)
def test_include_does_not_take_what_would_break(module, reason):
    with pytest.raises(ValueError, match=f"include: 0 cannot be equipped: {reason}"):
        apply_dropkey(nn.Sequential(module), 0.3, include="0")


def test_include_alone_is_enough_and_what_computes_no_attention_is_an_error_in_the_first_step():
    model = Mixer(lambda x: 2 * x)
    assert [site.name for site in apply_dropkey(model, 0.4, include=[""]).equipped] == [""]
    with pytest.raises(RuntimeError, match="Mixer computed neither"):
        model(torch.ones(2, 3))


class Backwards(nn.Module):
    """Runs its blocks from the last to the first, and one of them never."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block(SelfAttention()) for _ in range(4))

    def forward(self, x):
        for block in reversed(self.blocks[:3]):
            x = block(x)
        return x


def test_example_inputs_order_the_layers_also_for_the_next_ratio():
    model = Backwards()
    x = torch.randn(2, 5, WIDTH)
    torch.manual_seed(3)
    with pytest.warns(UserWarning, match="did not reach 1 attention module, .* blocks.3.attn"):
        report = apply_dropkey(model, 0.8, example_inputs=x)
    assert torch.equal(torch.rand(1), seeded(torch.rand, 1))
    assert [site.name for site in report.equipped] == [f"blocks.{i}.attn" for i in (2, 1, 0, 3)]
    assert ratios(model) == pytest.approx([0.4, 0.6, 0.8, 0.2])
    for equal in (copy.deepcopy(model), model):
        set_drop_ratio(equal, 0.4)
        assert ratios(equal) == pytest.approx([0.2, 0.3, 0.4, 0.1])
    apply_dropkey(model, 0.8)
    assert ratios(model) == pytest.approx([0.8, 0.6, 0.4, 0.2])
    with pytest.warns(UserWarning, match="did not reach"):
        apply_dropkey(model, 0.8, example_inputs=(x,))
    remove_dropkey(model)
    assert all(vars(b.attn).keys() == vars(SelfAttention()).keys() for b in model.blocks)


@pytest.mark.parametrize(
    ("drop_ratio", "schedule"),
    [
        ([0.3, 0.0, 0.1], {}),
        (lambda name: {"0": 0.3, "1": 0.0, "2": 0.1}[name[7]], {}),
        (0.3, {"schedule": lambda layer, num_layers: (1.0, 0.0, 1 / num_layers)[layer]}),
    ],
)
def test_ratios_of_your_own(drop_ratio, schedule):
    model, _ = model_and_input()
    apply_dropkey(model, drop_ratio, **schedule)
    assert ratios(model) == pytest.approx([0.3, 0.0, 0.1])
    set_drop_ratio(model, 0.0)
    set_drop_ratio(model, drop_ratio, **schedule)
    assert ratios(model) == pytest.approx([0.3, 0.0, 0.1])


class HiddenAttention(nn.Module):
    """Says softmax and computes it otherwise, as classes with an optional kernel do."""

    def forward(self, x):
        return x + 1 if x.dim() else x.softmax(-1)


class QueryAxisAttention(nn.Module):
    """Linear attention: one softmax over channels, one over tokens."""

    def forward(self, x):
        return x.softmax(-1) @ (x.softmax(-2).mT @ x)


def test_attention_that_cannot_be_intercepted_is_an_error_in_the_first_step():
    x = torch.randn(2, 5, WIDTH)
    for cls, text in [
        (HiddenAttention, "computed neither"),
        (QueryAxisAttention, "other than the"),
    ]:
        attention = cls()
        apply_dropkey(attention, 0.3)
        with pytest.raises(RuntimeError, match=f"{cls.__name__} .*{text}.*select="):
            attention(x)
        attention.eval()(x)
        attention.train().drop_ratio = 0.0
        attention(x)


# --- inference ---


def uniform(calls):
    def inference(logits, drop_ratio):
        calls.append(drop_ratio)
        return torch.full_like(logits, 1.0 / logits.shape[-1])

    return inference


@fused_or_explicit
def test_inference_takes_the_place_of_the_softmax_in_evaluation_only(fused):
    model, x = model_and_input(fused=fused)
    plain = model(x)
    apply_dropkey(model, 0.3)
    calls = []
    set_inference(model, uniform(calls))
    model(x)
    assert not calls
    out = model.eval()(x)
    assert calls == pytest.approx([0.3, 0.2, 0.1])
    for block in model.blocks:
        v = block.attn.qkv(x)[..., 2 * WIDTH :]
        x = x + v.mean(1, keepdim=True)
    torch.testing.assert_close(out, x)
    set_inference(model, None)
    assert torch.equal(model(model_and_input()[1]), plain)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("padding", ["none", "nested", "not nested"])
@pytest.mark.parametrize("norm_first", [True, False])
def test_torchs_encoder_does_not_bypass_inference(padding, norm_first):
    """In evaluation without gradients it has a fast path, which makes padded batches nested."""
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True, norm_first=norm_first)
    encoder = nn.TransformerEncoder(
        layer, 2, enable_nested_tensor=padding == "nested" and not norm_first
    )
    encoder.eval()
    x = torch.randn(3, 5, WIDTH)
    mask = torch.arange(5) >= torch.tensor([5, 3, 1])[:, None]
    given = {} if padding == "none" else {"src_key_padding_mask": mask}
    with torch.no_grad():
        plain = encoder(x, **given)
        apply_dropkey(encoder, 0.3)
        assert torch.equal(encoder(x, **given), plain)
        calls = []
        set_inference(encoder, lambda logits, ratio: (calls.append(ratio), logits.softmax(-1))[1])
        out = encoder(x, **given)
        assert calls == [0.3, 0.15]
        keep = slice(None) if padding == "none" else ~mask
        torch.testing.assert_close(out[keep], plain[keep], atol=1e-5, rtol=1e-4)
        set_inference(encoder, uniform([]))
        assert not torch.allclose(encoder(x, **given)[keep], plain[keep], atol=1e-3)


def test_torchs_encoder_does_not_bypass_our_own_module_either():
    layer, calls = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True), []
    given = {"batch_first": True, "drop_ratio": 0.3, "inference": uniform(calls)}
    layer.self_attn = MultiheadAttention(WIDTH, HEADS, **given)
    with torch.no_grad():
        layer.eval()(torch.randn(2, 5, WIDTH))
    assert calls == [0.3]


# --- copies, compilers, processes ---


@each_copy
@pytest.mark.parametrize("make", [SelfAttention, lambda: nn.MultiheadAttention(WIDTH, HEADS)])
def test_copies_drop_the_same_and_can_be_undone(duplicate, make):
    torch.manual_seed(0)
    model = make()
    apply_dropkey(model, 0.5)
    twin = duplicate(model)
    assert type(twin) is type(model)
    x = torch.randn(2, 5, WIDTH)
    args = (x, x, x) if isinstance(model, nn.MultiheadAttention) else (x,)
    first, second = (seeded(m, *args) for m in (model, twin))
    assert torch.equal(first[0], second[0])
    twin.drop_ratio = 0.1
    assert model.drop_ratio == 0.5
    original = type(make())
    remove_dropkey(twin)
    assert type(twin) is original and isinstance(model, original)


@pytest.fixture
def compiler():
    torch._dynamo.reset()
    yield torch.compile
    torch._dynamo.reset()


def check_compiled(model, compiled, x):
    """It drops other keys each time, trains, and evaluates as the original."""
    outputs = [compiled(x) for _ in range(2)]
    assert not torch.allclose(*outputs)
    outputs[0].square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())
    model.eval()
    torch.testing.assert_close(compiled(x), model(x))
    set_inference(model, uniform([]))
    torch.testing.assert_close(compiled(x), model(x))


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@pytest.mark.slow
@compiles_whole
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=needs_compiler)])
@fused_or_explicit
def test_compiled_whole(compiler, backend, fused):
    model, x = model_and_input(fused=fused, dropout=0.1)
    apply_dropkey(model, 0.5)
    check_compiled(model, compiler(model, backend=backend, fullgraph=True), x)


class WeightsAttention(nn.Module):
    """Equal logits, and values that make the output show the weights."""

    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, torch.eye(x.shape[-2]).expand(2, 3, -1, -1))


class Weights(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(WeightsAttention() for _ in range(2))

    def forward(self, x):
        return [layer(x) for layer in self.layers]


@pytest.mark.slow
@compiles_whole
@pytest.mark.parametrize("start", [0.0, 0.1])
def test_a_ratio_that_changes_over_steps_is_obeyed_when_compiled(compiler, start):
    """Compiled anew once for changing numbers, and once more where it starts at 0."""
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    model = Weights()
    apply_dropkey(model, start)
    step = compiler(model, backend=counter, fullgraph=True)
    for drop_ratio in (start, 0.2, 0.4, 0.3, 0.1, 0.5):
        set_drop_ratio(model, drop_ratio)
        first, last = ((weights == 0).double().mean() for weights in step(torch.zeros(2, 3, 80, 4)))
        assert abs(first - drop_ratio) < 0.015  # of 38,400 keys: 6 standard deviations
        assert abs(last - drop_ratio / 2) < 0.015
    assert counter.frame_count <= (3 if start == 0.0 else 2)


def test_compiled_attention_that_cannot_be_intercepted_is_an_error(compiler):
    attention = HiddenAttention()
    apply_dropkey(attention, 0.3)
    with pytest.raises(Exception, match="computed neither"):
        compiler(attention, backend="eager")(torch.randn(2, 5, WIDTH))


@pytest.mark.slow
@fused_or_explicit
@pytest.mark.parametrize("inference", [None, uniform([])])
def test_export_for_inference(fused, inference):
    model, x = model_and_input(fused=fused)
    apply_dropkey(model, 0.5)
    set_inference(model, inference)
    program = torch.export.export(model.eval(), (x,), strict=False).module()
    torch.testing.assert_close(program(x + 1), model(x + 1))


@pytest.mark.parametrize("use_reentrant", [True, False])
@fused_or_explicit
def test_checkpointing_drops_the_same_keys_again(use_reentrant, fused):
    model, x = model_and_input(fused=fused)
    apply_dropkey(model, 0.5)
    x.requires_grad_()

    def checkpointed(x):
        for block in model.blocks:
            x = checkpoint(block, x, use_reentrant=use_reentrant)
        return x

    def gradients(run, seed=3):
        model.zero_grad()
        seeded(run, x, seed=seed).square().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    expected = gradients(model)
    assert all(map(torch.equal, gradients(checkpointed), expected))
    assert not torch.allclose(gradients(model, seed=4)[0], expected[0])


TWO_PROCESSES = """
import copy, sys
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
sys.path.insert(0, sys.argv[3])
from dropkey_core.equip.apply import apply_dropkey

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
)
torch.manual_seed(0)
layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
model = nn.TransformerEncoder(layer, 2)
apply_dropkey(model, 0.5)
x = torch.randn(2, 5, 8)
alone, together = copy.deepcopy(model), DistributedDataParallel(model)
outputs, gradients = [], []
for run in (alone, together):
    torch.manual_seed(rank)
    outputs.append(run(x))
    outputs[-1].square().mean().backward()
    gradients.append([p.grad for p in run.parameters()])
torch.save([outputs[0].detach(), outputs[1].detach(), *gradients], f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_drop_different_keys_and_average_their_gradients(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, str(rank), str(tmp_path), str(ROOT)],
            env=environment,
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert not torch.allclose(first[0], second[0])
    for alone, together, *_ in (first, second):
        torch.testing.assert_close(together, alone)
    for one, other, *averages in zip(first[2], second[2], first[3], second[3], strict=True):
        for average in averages:
            torch.testing.assert_close(average, (one + other) / 2)

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import nn
from torch.testing import assert_close

from dropkey_core import MultiheadAttention, apply_dropkey, remove_dropkey
from dropkey_core.analysis.capture import captured_attention
from dropkey_core.variants import (
    Reattention,
    apply_reattention,
    from_deepvit,
)


def mix_plainly(weights, reattention, training):
    """The formula, head by head."""
    mixing, norm = reattention.mixing, reattention.norm
    heads = []
    for h, row in enumerate(mixing.weight[:, :, 0, 0]):
        mixed = sum(row[g] * weights[:, g] for g in range(weights.shape[1])) + mixing.bias[h]
        mean, var = norm.running_mean[h], norm.running_var[h]
        if training:
            mean, var = mixed.mean(), mixed.var(unbiased=False)
        standard = (mixed - mean) / (var + 1e-5).sqrt()
        heads.append((standard * norm.weight[h] + norm.bias[h]) * reattention.scale)
    return torch.stack(heads, 1)


def unlike_identity(reattention):
    """Give the normalisation parameters and statistics that matter."""
    for tensor in (reattention.norm.weight, reattention.norm.bias, reattention.norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(reattention.norm.running_var, 0.5, 2.0)
    return reattention


def project_plainly(attention, x):
    """Queries, keys and values (B, H, L, D) of timm's or torch's attention."""
    packed = getattr(attention, "qkv", None)
    if packed is None:
        packed = lambda x: F.linear(x, attention.in_proj_weight, attention.in_proj_bias)  # noqa: E731
    return packed(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)


def attend(attention, x):
    return attention(x) if isinstance(attention, Attention) else attention(x, x, x)[0]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("is_fused", [True, False])
@pytest.mark.parametrize("kind", ["timm", "torch", "ours"])
def test_values_are_averaged_by_the_mixed_weights(kind, is_fused, training):
    torch.manual_seed(0)
    if kind == "timm":
        attention = Attention(8, num_heads=2, qkv_bias=True)
        attention.fused_attn = is_fused
    else:
        cls = nn.MultiheadAttention if kind == "torch" else MultiheadAttention
        attention = cls(8, 2, batch_first=True)
    network = nn.Sequential(attention).train(training)
    apply_dropkey(network, 0.0)
    assert apply_reattention(network, transform_scale=True) == ["0"]
    reattention = unlike_identity(attention.reweigh)
    assert reattention.scale == 4**-0.5
    x = torch.randn(3, 5, 8)
    q, k, v = project_plainly(attention, x)
    weights = mix_plainly((q @ k.mT / 2).softmax(-1), reattention, training)
    averaged = (weights @ v).transpose(1, 2).flatten(2)
    project = attention.proj if kind == "timm" else attention.out_proj
    assert_close(attend(attention, x), project(averaged))


def test_weights_are_dropped_before_they_are_mixed(make_vit):
    vit = make_vit(drop_ratio=0.5).train()
    apply_reattention(vit)
    seen = []
    mixing = vit.blocks[0].attn.reweigh.mixing
    mixing.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with captured_attention(vit) as maps:
        vit(torch.randn(2, 3, 8, 8))
    (dropped,) = seen
    assert 0.3 < (dropped == 0).float().mean() < 0.7
    assert_close(dropped.sum(-1), torch.ones(2, 2, 17))
    (used,) = maps["blocks.0.attn"]
    assert_close(used, mix_plainly(dropped, vit.blocks[0].attn.reweigh, training=True))


def test_depth_rule_counts_the_last_layers_of_each_stack(make_vit):
    assert apply_reattention(make_vit(), last_layers=2) == ["blocks.1.attn", "blocks.2.attn"]
    transformer = nn.Transformer(8, 2, 3, 2, 8, batch_first=True)
    apply_dropkey(transformer, 0.0)
    expected = [
        "encoder.layers.2.self_attn",
        "decoder.layers.1.self_attn",
        "decoder.layers.1.multihead_attn",
    ]
    assert apply_reattention(transformer, last_layers=1) == expected


def test_self_attention_of_volo(volo):
    assert apply_reattention(volo) == ["network.2.0.attn", "network.3.0.attn"]
    assert torch.isfinite(volo.eval()(torch.randn(1, 3, 32, 32))).all()


@pytest.mark.parametrize("training", [True, False])
def test_scale_adjustment_of_all_blocks(make_vit, training):
    torch.manual_seed(0)
    a = 0.002  # as small as that, it shows behind a LayerNorm, too
    vit = make_vit(init_values=0.5)
    plain = copy.deepcopy(vit)
    apply_reattention(vit, last_layers=1, scale_adjustment=a)
    x = torch.randn(2, 17, 8)
    for adjusted, block in zip(vit.blocks[:2], plain.blocks, strict=False):
        y = x + block.ls1(block.attn(block.norm1(a * x))) / a
        y = y + block.ls2(block.mlp(block.norm2(a * y))) / a
        assert_close(adjusted.train(training)(x), y)
    block = vit.blocks[2].train(training)
    y = x + block.ls1(block.attn(block.norm1(x)))  # the hooks act in here, too
    assert_close(block(x), y + block.ls2(block.mlp(block.norm2(y))))


def test_a_branch_with_two_results_is_scaled_too():
    layer = nn.Module()
    layer.norm1 = layer.norm2 = layer.mlp = nn.Identity()
    layer.attn = MultiheadAttention(8, 2, batch_first=True)
    network = nn.Sequential(layer).eval()
    x = torch.randn(1, 5, 8)
    expected, weights = layer.attn(x, x, x)
    apply_reattention(network, scale_adjustment=2.0)
    layer.attn.reweigh = None
    output, same = layer.attn(x, x, x)
    assert_close(output, expected / 2)
    assert_close(same, weights)


def test_removing_dropkey_removes_it_too(make_vit):
    vit = make_vit()
    names = list(vit.state_dict())
    apply_reattention(vit)
    remove_dropkey(vit)
    assert list(vit.state_dict()) == names


def test_official_checkpoints_load_after_renaming(make_vit):
    official = {
        "blocks.2.attn.reatten_matrix.weight": torch.zeros(2, 2, 1, 1),
        "blocks.2.attn.reatten_matrix.bias": torch.ones(2),
        "blocks.2.attn.var_norm.weight": torch.ones(2),
        "blocks.2.attn.var_norm.bias": torch.ones(2),
        "blocks.2.attn.var_norm.running_mean": torch.ones(2),
        "blocks.2.attn.var_norm.running_var": torch.ones(2),
        "blocks.2.attn.var_norm.num_batches_tracked": torch.tensor(7),
    }
    vit = make_vit()
    before = vit.state_dict()
    apply_reattention(vit, last_layers=1)
    vit.load_state_dict(from_deepvit({**before, **official}))
    assert vit.blocks[2].attn.reweigh.mixing.weight.eq(0).all()
    assert vit.blocks[2].attn.reweigh.norm.num_batches_tracked == 7


class Nameless(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention = attention


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"last_layers": 4}, r"last_layers must be in \[1, 3\].*the model, got 4"),
        ({"last_layers": 0}, r"last_layers must be in \[1, 3\].*got 0"),
        ({"scale_adjustment": 0.0}, r"scale_adjustment must be above 0, got 0\.0"),
    ],
)
def test_wrong_options(make_vit, options, message):
    vit = make_vit()
    names = list(vit.state_dict())
    with pytest.raises(ValueError, match=message):
        apply_reattention(vit, **options)
    assert list(vit.state_dict()) == names


def test_wrong_models(make_vit):
    vit = make_vit()
    apply_reattention(vit, last_layers=1)
    with pytest.raises(ValueError, match=r"blocks\.2\.attn.*call remove_reattention first"):
        apply_reattention(vit)
    assert vit.blocks[0].attn.reweigh is None
    with pytest.raises(ValueError, match=r"blocks\.0\.attn \(Attention\) has one head"):
        apply_reattention(make_vit(num_heads=1))
    layer = Nameless(MultiheadAttention(8, 2))
    network = nn.ModuleList([make_vit().blocks[0], layer])
    with pytest.raises(ValueError, match=r"1 \(Nameless\) lacks norm1, norm2, attn, mlp"):
        apply_reattention(network, scale_adjustment=0.5)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert layer.attention.reweigh is None
    with pytest.raises(ValueError, match=r"needs weights \(B, 2, Lq, Lk\), got \(1, 2, 3, 4, 4\)"):
        Reattention(2)(torch.rand(1, 2, 3, 4, 4))

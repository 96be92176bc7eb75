"""The variants, each alone and all at once, in one model with DropKey."""

import copy
import io

import pytest
import torch
from timm.utils import ModelEmaV3
from torch.testing import assert_close

from dropkey_core import apply_dropkey
from dropkey_core.analysis.capture import captured_attention
from dropkey_core.variants import (
    apply_reattention,
    apply_token_pooling,
    attention_diversification,
    remove_reattention,
    remove_token_pooling,
    self_attention,
)
from tests.dropkey_core.toys import compiles_whole


@pytest.fixture
def varied(make_vit):
    torch.manual_seed(0)
    vit = make_vit(drop_ratio=0.3)
    apply_reattention(vit, last_layers=2, transform_scale=True, scale_adjustment=0.5)
    apply_token_pooling(vit, num_scales=3)
    return vit


def total_loss(model, images):
    with captured_attention(model) as maps:
        logits = model(images)
    layers = [maps[name][0] for name in self_attention(model)]
    return logits.square().mean() + attention_diversification(layers, threshold=1.0)


def test_all_at_once_learn(varied):
    images = torch.randn(4, 3, 8, 8)
    optimizer = torch.optim.SGD(varied.parameters(), 0.05)
    losses = []
    for _ in range(10):
        torch.manual_seed(0)
        loss = total_loss(varied, images)
        optimizer.zero_grad()
        loss.backward()
        missing = [name for name, p in varied.named_parameters() if p.grad is None]
        assert not missing
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_names_of_parameters(varied):
    mixing = ["mixing.weight", "mixing.bias", "norm.weight", "norm.bias"]
    predictor = ["0.weight", "1.weight", "1.bias", "2.weight"]
    expected = {f"blocks.{i}.attn.reweigh.{name}" for i in (1, 2) for name in mixing}
    expected |= {f"blocks.{i}.token_pooling.predictor.{n}" for i in range(3) for n in predictor}
    names = {name for name, _ in varied.named_parameters()}
    assert {name for name in names if "reweigh" in name or "pooling" in name} == expected


@pytest.mark.parametrize("how", ["deepcopy", "torch.save", "state_dict", "ema"])
def test_copies_are_apart_and_removing_restores_them(varied, make_vit, how):
    images = torch.randn(4, 3, 8, 8)
    varied(images)  # so that running statistics are no longer the initial ones
    if how == "deepcopy":
        twin = copy.deepcopy(varied)
    elif how == "torch.save":
        file = io.BytesIO()
        torch.save(varied, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    elif how == "ema":
        ema = ModelEmaV3(varied, decay=0.0)
        ema.update(varied)
        twin = ema.module
    else:
        twin = make_vit(drop_ratio=0.3)  # what comes first makes no difference
        apply_token_pooling(twin, num_scales=3)
        apply_reattention(twin, last_layers=2, transform_scale=True, scale_adjustment=0.5)
        twin.load_state_dict(varied.state_dict())
    expected = varied.eval()(images)
    assert_close(twin.eval()(images), expected, rtol=0, atol=0)
    with torch.no_grad():
        twin.blocks[0].token_pooling.predictor[2].weight.mul_(-9)
    assert not torch.equal(twin(images), expected)  # the copy uses its own parameters
    torch.manual_seed(0)
    plain = make_vit(drop_ratio=0.3).eval()
    for model in (twin, varied):
        remove_token_pooling(model)
        remove_reattention(model)
        assert list(model.state_dict()) == list(plain.state_dict())
        assert repr(model) == repr(plain)
        assert_close(model(images), plain(images), rtol=0, atol=0)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.blocks.modules())


def test_equipping_again_keeps_the_variants(varied):
    names = list(varied.state_dict())
    apply_dropkey(varied, 0.1, unit="weight")
    assert list(varied.state_dict()) == names


@compiles_whole
@pytest.mark.slow
def test_compiled(varied):
    images = torch.randn(4, 3, 8, 8)
    compiled = torch.compile(varied.eval(), backend="eager", fullgraph=True)
    assert_close(compiled(images), varied(images))

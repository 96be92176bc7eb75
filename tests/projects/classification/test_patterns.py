"""Blocks and crosses find the patches of every attention of a network."""

import pytest
import torch

from dropkey_core.attention import AfterSoftmax, BeforeSoftmax, Block, Cross, Key
from dropkey_core.equip.equipped import drops_keys
from projects.classification import build_model

SMALL_VOLO = {
    "layers": [1, 1, 0, 0],
    "embed_dims": [8, 8, 8, 8],
    "num_heads": [1, 2, 2, 2],
    "patch_size": 4,
    "mlp_ratio": 1.0,
    "stem_hidden_dim": 8,
}


def units(model):
    return {name: m.unit for name, m in model.network.named_modules() if drops_keys(m)}


def trains(model, side):
    samples = [{"image": torch.zeros(3, side, side), "label": 0}] * 2
    loss = sum(model(samples).values())
    loss.backward()
    return loss.isfinite()


@pytest.mark.parametrize("place", [BeforeSoftmax, AfterSoftmax])
@pytest.mark.parametrize("pattern", [Block(3), Block(5), Cross(1), Cross(3)], ids=str)
def test_volo(place, pattern):
    """64 pixels, patches of 4, outlook on 16 x 16, self-attention on 8 x 8, then a class token."""
    model = build_model(
        "volo", 3, 64, architecture_options=SMALL_VOLO, drop_unit=place(pattern), drop_ratio=0.3
    )
    found = units(model)
    size = pattern.size
    assert found == {
        "network.0.0.attn": place(Key()),
        "network.2.0.attn": place(type(pattern)(size)),
        "post_network.0.attn": place(type(pattern)(size, num_prefix_tokens=1)),
        "post_network.1.attn": place(type(pattern)(size, num_prefix_tokens=1)),
    }
    assert trains(model, 64)


def test_t2t_has_a_class_token(tiny):
    assert set(units(tiny(drop_unit=Block(2))).values()) == {
        BeforeSoftmax(Block(2, num_prefix_tokens=1))
    }


def test_deit_has_two_tokens():
    model = build_model("deit_tiny_distilled_patch16_224", 3, 32, drop_unit=Cross(1))
    assert set(units(model).values()) == {BeforeSoftmax(Cross(1, num_prefix_tokens=2))}


@pytest.mark.parametrize("unit", ["key", "weight", Block(2, num_prefix_tokens=4), Key()])
def test_anything_else_stays_what_was_asked_for(tiny, unit):
    assert set(units(tiny(drop_unit=unit)).values()) == {unit}

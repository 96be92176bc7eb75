import pytest
from torch import nn

from dropkey_core import MultiheadAttention, apply_dropkey
from dropkey_core.variants import self_attention
from dropkey_core.variants.blocks import block_name


def test_self_attention_of_blocks_but_neither_outlook_nor_class_attention(volo, make_vit):
    assert list(self_attention(make_vit())) == ["blocks.0.attn", "blocks.1.attn", "blocks.2.attn"]
    assert list(self_attention(volo)) == ["network.2.0.attn", "network.3.0.attn"]


def test_attention_outside_containers_is_not_meant_but_can_be_selected():
    model = nn.Module()
    model.stem = MultiheadAttention(8, 2)
    model.blocks = nn.ModuleList([MultiheadAttention(8, 2)])
    assert list(self_attention(model)) == ["blocks.0"]
    assert list(self_attention(model, lambda name, _: name == "stem")) == ["stem"]
    with pytest.raises(ValueError, match=r"MultiheadAttention has no self-attention.*select"):
        self_attention(MultiheadAttention(8, 2))


def test_errors(volo, make_vit):
    with pytest.raises(ValueError, match=r"network\.0\.0\.attn \(OutlookAttention\): its maps"):
        self_attention(volo, lambda name, _: name.startswith("network"))
    with pytest.raises(ValueError, match=r"post_network\.0\.attn \(ClassAttention\): only the"):
        self_attention(volo, lambda name, _: name.startswith("post_network"))
    with pytest.raises(ValueError, match="no self-attention to act on"):
        self_attention(make_vit(), lambda *_: False)


def test_the_block_is_the_element_of_the_innermost_container():
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 8), 2)
    assert block_name(decoder, "layers.1.self_attn") == "layers.1"
    layer = nn.TransformerEncoderLayer(8, 2, 8)
    apply_dropkey(layer, 0.0)
    assert block_name(layer, "self_attn") == ""
    assert block_name(nn.Sequential(layer), "0.self_attn") == "0"

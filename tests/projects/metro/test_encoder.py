import pytest
import torch

from dropkey_core.attention import MultiheadAttention
from projects.metro.encoder import EncoderBlock, PostNormLayer


def layer(embed_dim=8, ffn_dim=12, dropout=0.0, drop_ratio=0.0):
    attention = MultiheadAttention(embed_dim, 2, batch_first=True, drop_ratio=drop_ratio)
    return PostNormLayer(attention, ffn_dim, dropout)


def unsettle(module):
    """Move every bias and norm away from 0 and 1."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)


@pytest.mark.slow
def test_a_layer_is_berts():
    bert = pytest.importorskip("transformers.models.bert.modeling_bert")
    torch.manual_seed(0)
    config = bert.BertConfig(
        hidden_size=8, num_attention_heads=2, intermediate_size=12, layer_norm_eps=1e-12
    )
    config._attn_implementation = "eager"
    theirs, ours = bert.BertLayer(config).eval(), layer().eval()
    unsettle(theirs)
    state = theirs.state_dict()
    for kind in ("weight", "bias"):
        parts = [state[f"attention.self.{role}.{kind}"] for role in ("query", "key", "value")]
        getattr(ours.self_attn, f"in_proj_{kind}").data = torch.cat(parts)
    for our_name, name in (
        ("self_attn.out_proj", "attention.output.dense"),
        ("norm1", "attention.output.LayerNorm"),
        ("linear1", "intermediate.dense"),
        ("linear2", "output.dense"),
        ("norm2", "output.LayerNorm"),
    ):
        ours.get_submodule(our_name).load_state_dict(theirs.get_submodule(name).state_dict())
    x = torch.randn(2, 5, 8)
    expected = theirs(x)
    expected = expected[0] if isinstance(expected, tuple) else expected
    torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)


def test_dropout_takes_both_sublayers_but_not_the_shortcut():
    torch.manual_seed(0)
    dropped = layer(dropout=1.0)
    unsettle(dropped)
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(dropped(x), dropped.norm2(dropped.norm1(x)))
    dropped.eval()
    assert not torch.allclose(dropped(x), dropped.norm2(dropped.norm1(x)), atol=0.1)


def test_a_block_adds_positions_before_and_the_shortcut_behind():
    torch.manual_seed(0)
    block = EncoderBlock(6, 3, 5, [layer()], dropout=0.0)
    unsettle(block)
    tokens = torch.randn(2, 5, 6)
    x = tokens @ block.embedding.weight.T + block.embedding.bias + block.position
    x = block.layers[0](x)
    expected = x @ block.head.weight.T + block.head.bias
    expected = expected + tokens @ block.shortcut.weight.T + block.shortcut.bias
    torch.testing.assert_close(block(tokens), expected)


def test_a_blocks_dropout_takes_what_enters_the_layers():
    torch.manual_seed(0)
    block = EncoderBlock(6, 3, 5, [layer()], dropout=1.0)
    tokens = torch.randn(2, 5, 6)
    nothing = block.head(block.layers[0](torch.zeros(2, 5, 8)))
    torch.testing.assert_close(block(tokens), nothing + block.shortcut(tokens))


def test_initial_values_are_berts():
    torch.manual_seed(0)
    block = EncoderBlock(400, 200, 100, [layer(256, 64)], dropout=0.1)
    for name, parameter in block.named_parameters():
        if parameter.dim() == 2:
            assert abs(parameter.std() - 0.02) < 0.001, name
            assert abs(parameter.mean()) < 0.001, name
        else:
            expected = float("norm" in name and name.endswith("weight"))
            assert (parameter == expected).all(), name

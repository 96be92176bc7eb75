import pytest
import torch
from torch import nn

from projects.detr.build import BodySettings, build_transformer

LAYERS = {"num_encoder_layers": 2, "num_decoder_layers": 3}


@pytest.fixture(params=[False, True], ids=["post_norm", "pre_norm"])
def transformer(request):
    torch.manual_seed(0)
    sizes = {"embed_dim": 16, "num_heads": 2, "ffn_dim": 24}
    model = build_transformer(BodySettings(**LAYERS, **sizes, pre_norm=request.param))
    return model.eval()


def inputs(cells=6, queries=4, batch=2):
    torch.manual_seed(1)
    return (
        torch.randn(batch, cells, 16),
        torch.randn(batch, cells, 16),
        torch.randn(queries, 16),
    )


def torch_layer(layer, kind, pre_norm):
    """torch's own layer with the weights of ours; positions must be zero for it."""
    reference = kind(16, 2, 24, norm_first=pre_norm, batch_first=True)
    reference.load_state_dict(layer.state_dict())
    return reference.eval()


def test_layers_equal_those_of_torch(transformer):
    """Without positions an encoder and a decoder layer are the ones of ``torch.nn``."""
    pre_norm = transformer.encoder.norm is not None
    memory, _, queries = inputs()
    queries = queries.expand(2, -1, -1)
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    ours, theirs = transformer.encoder.layers[0], nn.TransformerEncoderLayer
    torch.testing.assert_close(
        ours(memory, torch.zeros(1), padding)[~padding],
        torch_layer(ours, theirs, pre_norm)(memory, src_key_padding_mask=padding)[~padding],
    )
    ours, theirs = transformer.decoder.layers[0], nn.TransformerDecoderLayer
    reference = torch_layer(ours, theirs, pre_norm)
    torch.testing.assert_close(
        ours(queries, torch.zeros(1), memory, memory, padding),
        reference(queries, memory, memory_key_padding_mask=padding),
    )


def test_returns_every_decoder_layer(transformer):
    outputs = transformer(*inputs(), None)
    assert outputs.shape == (3, 2, 4, 16)
    assert not torch.allclose(outputs[0], outputs[2])
    # Normalised, as the norm's initial scale 1 and shift 0 leave it.
    torch.testing.assert_close(outputs.mean(-1), torch.zeros(3, 2, 4), atol=1e-5, rtol=0)


def test_padding_is_as_if_absent(transformer):
    x, position, queries = inputs()
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[:, 4:] = True
    whole = transformer(x, position, queries, padding)
    cut = transformer(x[:, :4], position[:, :4], queries, None)
    torch.testing.assert_close(whole, cut)


def test_positions_reach_queries_and_keys_only(transformer):
    """Cells in another order, with their positions, are the same image; positions do matter."""
    x, position, queries = inputs()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    outputs = transformer(x, position, queries, None)
    torch.testing.assert_close(transformer(x[:, order], position[:, order], queries, None), outputs)
    assert not torch.allclose(transformer(x, position[:, order], queries, None), outputs)
    # A lone cell attends to itself whatever its position, which is not in what it gathers.
    layer = transformer.encoder.layers[0]
    value_only = layer(x[:, :1], torch.randn(2, 1, 16), None)
    torch.testing.assert_close(layer(x[:, :1], torch.zeros(2, 1, 16), None), value_only)


def test_matrices_start_after_glorot():
    """In transformer and decoder alike; norms and biases keep their own start."""
    torch.manual_seed(0)
    model = build_transformer(BodySettings(**LAYERS, embed_dim=64, num_heads=4, ffn_dim=128))
    weight = model.encoder.layers[0].linear1.weight
    bound = (6 / (64 + 128)) ** 0.5
    assert 0.95 * bound < weight.abs().max() <= bound
    assert torch.equal(model.decoder.norm.weight, torch.ones(64))

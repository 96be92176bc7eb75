import pytest
import torch
from torch.nn.functional import linear

from dropkey_core import apply_dropkey, set_drop_ratio
from dropkey_core.analysis.capture import captured_attention
from projects.detr.box_decoder import Cells, ConditionalAttention
from projects.detr.build import BodySettings, build_transformer

D, H = 16, 2


@pytest.fixture
def attention():
    torch.manual_seed(0)
    return ConditionalAttention(D, H)


def inputs():
    torch.manual_seed(1)
    return torch.randn(2, 4, 2 * D), torch.randn(2, 6, 2 * D), torch.randn(2, 6, D)


def by_hand(attention, query, key, value):
    """Weights of softmax((q_c k_c + q_p k_p) / sqrt(2 D / H)), head by head, and the output."""
    weights = attention.in_proj_weight.chunk(3)
    q, k, v = (
        linear(x[..., :D], weight) for x, weight in zip((query, key, value), weights, strict=True)
    )
    qp, kp = attention.query_place(query[..., D:]), attention.key_place(key[..., D:])
    maps, outputs = [], []
    for head in range(H):
        own = slice(head * D // H, (head + 1) * D // H)
        logits = q[..., own] @ k[..., own].mT + qp[..., own] @ kp[..., own].mT
        maps.append((logits / (2 * D / H) ** 0.5).softmax(-1))
        outputs.append(maps[-1] @ v[..., own])
    return torch.stack(maps, 1), attention.out_proj(torch.cat(outputs, -1))


def test_content_meets_content_and_place_meets_place(attention):
    weights, output = by_hand(attention.eval(), *inputs())
    found, shown = attention(*inputs(), average_attn_weights=False)
    torch.testing.assert_close(found, output)
    torch.testing.assert_close(shown, weights)
    torch.testing.assert_close(attention(*inputs(), need_weights=False)[0], output)


def test_keys_drop_as_in_any_attention_of_ours(attention):
    set_drop_ratio(attention, 0.5)
    with captured_attention(attention) as maps:
        attention(*inputs(), need_weights=False)
    dropped = (maps[""][0] == 0).float().mean()
    assert 0.2 < dropped < 0.8
    report = apply_dropkey(attention, 0.25, unit="weight")
    assert [site.drop_ratio for site in report.equipped] == [0.25]
    assert attention.drop_ratio == 0.25 and attention.unit == "weight"


def test_padding_is_as_if_absent(attention):
    query, key, value = inputs()
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[:, 4:] = True
    cut = attention(query, key[:, :4], value[:, :4], need_weights=False)[0]
    whole = attention(query, key, value, key_padding_mask=padding, need_weights=False)[0]
    torch.testing.assert_close(whole, cut)


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    sizes = {"embed_dim": D, "num_heads": H, "ffn_dim": 24, "num_encoder_layers": 1}
    body = BodySettings(**sizes, num_decoder_layers=2, query_boxes=True, position_temperature=20.0)
    return build_transformer(body).decoder.eval()


def start():
    torch.manual_seed(2)
    cells = Cells(torch.randn(1, 6, D), torch.randn(1, 6, D), None)
    return torch.randn(1, 3, D), torch.rand(1, 3, 4) * 0.5 + 0.25, cells


def no_step(x):
    return x.new_zeros(*x.shape[:-1], 4)


def small_step(x):
    return x[..., :4]


def test_each_layer_goes_on_from_the_boxes_of_the_one_before(decoder):
    x, boxes, cells = start()
    outputs, found = decoder(x, boxes, cells, [small_step, small_step])
    assert outputs.shape == (2, 1, 3, D)
    steps = found.logit() - torch.cat([boxes.logit()[None], found[:1].logit()])
    torch.testing.assert_close(steps, outputs[..., :4], atol=1e-4, rtol=1e-4)
    _, still = decoder(x, boxes, cells, [no_step, no_step])
    torch.testing.assert_close(still, boxes.expand(2, -1, -1, -1))


def depends(result, on):
    (gradient,) = torch.autograd.grad(result.sum(), on, allow_unused=True, retain_graph=True)
    return gradient is not None and bool((gradient != 0).any())


def test_no_gradient_from_the_boxes_of_a_layer_to_the_step_before(decoder):
    x, boxes, cells = start()
    step = torch.full((1, 3, 4), 0.1, requires_grad=True)
    outputs, found = decoder(x, boxes, cells, [lambda _: step, small_step])
    assert depends(found[0], step)
    assert not depends(found[1], step)
    assert not depends(outputs[1], step)


def test_boxes_say_where_a_query_looks(decoder):
    """The same content with another centre, and with another size, finds something else."""
    x, boxes, cells = start()
    before, _ = decoder(x, boxes, cells, [no_step, no_step])
    for coordinate in range(4):
        other = boxes.clone()
        other[..., coordinate] = 0.1
        after, _ = decoder(x, other, cells, [no_step, no_step])
        assert (after - before).abs().max() > 1e-3, coordinate

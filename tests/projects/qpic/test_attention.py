import numpy as np
import torch

from projects.detr.picture import Picture
from projects.qpic.attention import draw_attention_maps, find_with_attention
from projects.qpic.picture import Pair


def test_attention_of_each_query_sums_to_1_and_spares_padding(small_qpic, small_samples):
    model = small_qpic().eval()
    found, attention = find_with_attention(model, small_samples)
    assert attention.shape == (2, 5, 3, 3)  # 96 x 96 pixels at stride 32
    torch.testing.assert_close(attention.sum((2, 3)), torch.ones(2, 5))
    assert (attention[0, :, 2:] == 0).all()  # 64 pixels high
    assert (attention[1, :, :, 2:] == 0).all()  # 64 pixels wide
    with torch.no_grad():
        expected = model(small_samples)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_is_the_last_layers_attention_to_the_image(small_qpic, small_samples):
    """With its keys made alike the last layer looks everywhere equally; the first may do as it
    likes."""
    model = small_qpic().eval()
    width = 32
    last = model.transformer.decoder.layers[-1].multihead_attn
    with torch.no_grad():
        last.in_proj_weight[width : 2 * width] = 0
    _, attention = find_with_attention(model, small_samples[:1])
    torch.testing.assert_close(attention, torch.full((1, 5, 2, 3), 1 / 6))


def test_one_map_per_pair():
    image = np.full((60, 80, 3), 90, np.uint8)
    pairs = [Pair((10, 10, 30, 50), (40, 20, 60, 40), "ball", ["hold"], [0.9])] * 5
    maps = [np.eye(3, 4)] * 5
    figure = draw_attention_maps(Picture("a", image, pairs), pairs, maps, (1, 1), "heading")
    assert len(figure.axes) == 5
    heights = {axes.get_position().y0 for axes in figure.axes}
    assert len(heights) == 2  # four in the first row
    said = [text.get_text() for text in figure.texts]
    assert said == ["heading"] + ["hold ball 0.90"] * 5
    (shown,) = {axes.images[1].get_array().shape for axes in figure.axes}
    assert shown == (3, 4)

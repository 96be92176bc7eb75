import numpy as np
import torch

from projects.detr.attention import run_with_attention
from projects.detr.picture import Picture
from projects.qpic.gallery import attention_pictures
from projects.qpic.picture import Pair


def test_is_the_last_layers_attention_to_the_image(small_qpic, small_samples):
    """With its keys made alike the last layer looks everywhere equally."""
    model = small_qpic().eval()
    width = 32
    last = model.transformer.decoder.layers[-1].multihead_attn
    with torch.no_grad():
        last.in_proj_weight[width : 2 * width] = 0
    found, attention = run_with_attention(model, last, small_samples[0])
    torch.testing.assert_close(attention, torch.full((5, 2, 3), 1 / 6))  # 64 x 96 at stride 32
    with torch.no_grad():
        torch.testing.assert_close(found, model(small_samples[:1])[0])


def test_one_map_per_pair_from_its_query():
    picture = Picture("a", np.full((60, 80, 3), 90, np.uint8))
    pair = Pair((10, 10, 30, 50), (40, 20, 60, 40), "ball", {"hold": 0.9, "lift": 0.8}, 2)
    attention = torch.arange(3.0)[:, None, None].expand(3, 2, 4)
    (drawn,) = attention_pictures(picture, [pair], attention, torch.zeros(3, 64, 100))
    assert drawn.title == "hold ball 0.90\nlift ball 0.80"
    assert drawn.attention.shape == (64, 100) and (drawn.attention == 2).all()
    assert drawn.annotations[0].boxes == [pair.human, pair.object]
    assert drawn.annotations[0].label == ""

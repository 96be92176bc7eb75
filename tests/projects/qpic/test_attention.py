import numpy as np
import torch
from PIL import Image

from projects.detr.attention import run_with_attention
from projects.drawing import CELL, Picture
from projects.qpic import attention
from projects.qpic.mapper import QpicMapper
from projects.qpic.predictor import InteractionDetector


def test_is_the_last_layers_attention_to_the_image(small_qpic, small_samples):
    """With its keys made alike the last layer looks everywhere equally."""
    model = small_qpic().eval()
    width = 32
    last = model.transformer.decoder.layers[-1].multihead_attn
    with torch.no_grad():
        last.in_proj_weight[width : 2 * width] = 0
    found, weights = run_with_attention(model, last, small_samples[0])
    torch.testing.assert_close(weights, torch.full((5, 2, 3), 1 / 6))  # 64 x 96 at stride 32
    with torch.no_grad():
        torch.testing.assert_close(found, model(small_samples[:1])[0])


def test_one_map_for_each_of_the_surest_pairs_with_its_boxes(small_qpic, tmp_path, monkeypatch):
    model = small_qpic().eval()
    objects, verbs = (len(head.bias) for head in (model.obj_class_embed, model.verb_class_embed))
    names = [str(n) for n in range(max(objects, verbs))]
    mapper = QpicMapper(training=False, min_sizes=[64])
    detector = InteractionDetector(model, mapper, names, names)
    Image.new("RGB", (96, 64)).save(tmp_path / "a.png")
    drawn = []
    whole = attention.panel_of
    monkeypatch.setattr(attention, "panel_of", lambda p: drawn.append(p) or whole(p))
    record = {"file_name": str(tmp_path / "a.png")}
    panels = attention.attention_panels(detector, record, (), score_threshold=0.0)
    assert 2 <= len(panels) <= 1 + attention.NUM_PAIRS
    assert panels[0].caption == "a.png"
    assert all(panel.pixels.shape == (round(CELL[0] * 64 / 96), CELL[0], 3) for panel in panels)
    (pair,) = drawn[1].markings
    assert len(pair.boxes) == 2 and pair.label == ""
    assert isinstance(drawn[1], Picture) and drawn[1].attention.shape == (64, 96)
    assert np.isfinite(drawn[1].attention).all()

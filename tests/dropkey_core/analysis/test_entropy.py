import math

import pytest
import timm
import torch
from torch.testing import assert_close

from dropkey_core.analysis.entropy import attention_entropy, entropy
from dropkey_core.analysis.layers import look, short_names
from dropkey_core.equip import apply_dropkey


def test_entropy_of_known_rows():
    rows = torch.tensor([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0]])
    assert_close(entropy(rows), torch.tensor([0.0, math.log(4), math.log(2)]))


def test_entropy_of_a_model_is_that_of_its_class_tokens_rows(vit, images):
    results = attention_entropy(vit.train(), [images[:3], images[3:]])
    assert vit.training
    _, layers = look(vit.eval(), images)
    assert [result.layer for result in results] == ["0", "1"]
    for result, layer in zip(results, layers, strict=True):
        rows = layer.weights[:, :, 0].double()
        expected = -(rows * rows.log()).sum(-1)
        assert result.mean == pytest.approx(expected.mean().item(), rel=1e-5)
        assert result.std == pytest.approx(expected.std().item(), rel=1e-3)
        assert result.num_values == 4 * 3
        assert result.greatest == pytest.approx(math.log(7))


def test_entropy_of_all_queries(vit, images):
    results = attention_entropy(vit, [images], query="all")
    _, layers = look(vit.eval(), images)
    rows = layers[1].weights.double()
    assert results[1].mean == pytest.approx(-(rows * rows.log()).sum(-1).mean().item(), rel=1e-5)


def test_only_volos_class_attention_has_a_class_token():
    model = timm.create_model("volo_d1_224", img_size=32, num_classes=3).eval()
    apply_dropkey(model, 0.0)
    _, layers = look(model, torch.randn(1, 3, 32, 32))
    found = [layer for layer in layers if layer.class_weights is not None]
    assert [layer.name for layer in found] == ["post_network.0.attn", "post_network.1.attn"]
    assert found[0].class_weights.shape == (1, 12, 5)
    assert found[0].patch_weights.shape == (1, 12, 4)


def test_what_cannot_be_measured_is_refused(vit):
    with pytest.raises(ValueError, match="query must be class or all, got 'first'"):
        attention_entropy(vit, [], query="first")
    with pytest.raises(ValueError, match="no images"):
        attention_entropy(vit, [])
    gap = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=1, class_token=False, global_pool="avg"
    )
    apply_dropkey(gap, 0.0)
    with pytest.raises(ValueError, match="no class token"):
        attention_entropy(gap, [torch.randn(1, 3, 32, 32)])


def test_short_names():
    names = ["network.blocks.0.attn", "network.blocks.11.attn"]
    assert short_names(names) == ["0", "11"]
    assert short_names(["a.attn", "b.0.attn"]) == ["a", "b.0"]
    assert short_names(["attn"]) == ["attn"]

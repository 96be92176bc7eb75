import pytest
import timm
import torch
from torch.testing import assert_close

from dropkey_core.analysis.attention_maps import class_attention_maps, grid_of
from dropkey_core.analysis.focus import attention_focus, share_of_top
from dropkey_core.analysis.layers import look
from dropkey_core.analysis.similarity import cosine_similarity, layer_similarity
from dropkey_core.equip import apply_dropkey


def test_share_of_top():
    weights = torch.tensor([[0.1, 0.6, 0.1, 0.2], [0.25, 0.25, 0.25, 0.25]])
    assert_close(share_of_top(weights, 2), torch.tensor([0.8, 0.5]))
    assert_close(share_of_top(weights, 9), torch.ones(2))


def test_focus_of_the_class_token(vit, images):
    results = attention_focus(vit, [images[:3], images[3:]], top=2)
    _, layers = look(vit, images)
    for result, layer in zip(results, layers, strict=True):
        largest = layer.weights[:, :, 0].sort(dim=-1, descending=True).values[..., :2]
        shares = largest.sum(-1).mean(1)
        assert result.mean == pytest.approx(shares.mean().item(), rel=1e-5)
        assert result.std == pytest.approx(shares.std().item(), rel=1e-3)
        assert (result.num_images, result.even) == (4, 2 / 7)


def test_focus_of_all_queries(vit, images):
    results = attention_focus(vit, [images], top=1, query="all")
    received = look(vit, images)[1][1].weights.mean(2)  # (B, H, Lk)
    assert results[1].mean == pytest.approx(received.amax(-1).mean().item(), rel=1e-5)


def test_batches_and_outputs_are_shown(vit, images):
    seen = []
    attention_focus(vit, [images, images[:1]], after_batch=lambda *both: seen.append(both))
    assert [(len(batch), outputs.shape) for batch, outputs in seen] == [(4, (4, 3)), (1, (1, 3))]


def test_similarity_of_columns():
    one = torch.tensor([[0.2, 0.8], [0.4, 0.6]])
    other = torch.tensor([[0.1, 0.9], [0.2, 0.8]])
    expected = (0.8 * 0.9 + 0.6 * 0.8) / (1.0 * (0.9**2 + 0.8**2) ** 0.5)
    assert_close(cosine_similarity(one, other), torch.tensor([1.0, expected]))


def test_similarity_of_layers(vit, images):
    found = layer_similarity(vit, [images[:3], images[3:]])
    _, layers = look(vit, images)
    first, second = (layer.weights for layer in layers)
    product = (first * second).sum(2) / (first.norm(dim=2) * second.norm(dim=2))
    assert found.matrix.diagonal().tolist() == pytest.approx([1, 1])
    assert found.matrix[0, 1].item() == pytest.approx(product.mean().item(), rel=1e-5)
    assert found.matrix[1, 0] == found.matrix[0, 1]
    assert found.num_images == 4


def test_maps_are_rows_of_the_class_token_in_the_image_order(vit, images):
    maps = class_attention_maps(vit, images, (32, 48))
    _, layers = look(vit, images)
    assert list(maps) == ["0", "1"]
    assert maps["1"].shape == (4, 3, 2, 3)
    assert_close(maps["1"].flatten(2), layers[1].weights[:, :, 0, 1:])


@pytest.mark.parametrize(
    ("patches", "size", "grid"),
    [(196, (224, 224), (14, 14)), (6, (32, 48), (2, 3)), (850, (800, 1088), (25, 34))],
)
def test_grid(patches, size, grid):
    assert grid_of(patches, size) == grid


def test_patches_in_no_grid_are_refused():
    with pytest.raises(ValueError, match="197 patches form no grid"):
        grid_of(197, (224, 224))


def test_what_cannot_be_measured_is_refused(vit, images):
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        attention_focus(vit, [images], top=0)
    shallow = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1)
    apply_dropkey(shallow, 0.0)
    with pytest.raises(ValueError, match="two layers of attention, the model has 1"):
        layer_similarity(shallow, [torch.randn(1, 3, 32, 32)])

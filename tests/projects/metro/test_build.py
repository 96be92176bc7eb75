import dataclasses

import numpy as np
import pytest
import torch

from dropkey_core.attention import MultiheadAttention
from dropkey_core.engine import UserError
from projects.metro import build


def drops(model):
    modules = [module for module in model.modules() if isinstance(module, MultiheadAttention)]
    return [(round(module.drop_ratio, 4), module.unit) for module in modules]


def test_the_ratio_falls_over_the_layers_of_all_blocks(small_metro):
    model = small_metro(num_layers=4, drop_ratio=0.3)
    expected = [(round(0.3 * (1 - site / 12), 4), "key") for site in range(12)]
    assert drops(model) == expected
    last = model.blocks[2].layers[3].self_attn
    assert last.drop_ratio == pytest.approx(0.025)


def test_the_official_dropout_is_one_of_the_settings(small_metro):
    model = small_metro(drop_unit="weight", drop_ratio=0.1, drop_schedule="constant")
    assert drops(model) == [(0.1, "weight")] * 6


def test_other_dropouts_are_not_the_attentions(small_metro):
    model = small_metro(dropout=0.25, drop_ratio=0.0)
    assert drops(model) == [(0.0, "key")] * 6
    ratios = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert ratios == [0.25] * 9  # one per block, one per layer


def test_defaults_are_the_official_sizes(toy_body, monkeypatch):
    """243,070,293 parameters, without those that the official network never uses."""
    full, first, second = 6890, 1723, 431
    body = dataclasses.replace(
        toy_body,
        template=np.zeros((full, 3)),
        joint_regressor=np.zeros((24, full)),
        h36m_regressor=np.zeros((17, full)),
        coarse_vertices_1=np.arange(first),
        coarse_vertices_2=np.arange(second),
    )
    monkeypatch.setattr(build, "read_body", lambda path: body)
    with torch.device("meta"):
        model = build.build_model("official", pretrained_backbone=False)
    unused = 2048 * 1000 + 1000  # HRNet's classifier
    for width in (1024, 256, 128):
        embeddings = (30522 + 512 + 2) * width + 2 * width
        pooler = width * width + width
        unused += embeddings + pooler + (512 - 445) * width  # ... and positions past the tokens
    assert sum(p.numel() for p in model.parameters()) == 243_070_293 - unused
    heads = [layer.self_attn.num_heads for block in model.blocks for layer in block.layers]
    assert heads == [4] * 12


def test_a_finer_map_has_more_cells(small_metro):
    assert small_metro(backbone_stages=3).image_tokens.weight.shape == (22, 16)
    assert small_metro(image_size=96).image_tokens.weight.shape == (22, 9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 100}, "image_size must be a multiple of the backbone's stride 32, got 100"),
        ({"image_size": 0}, "image_size must be a multiple of the backbone's stride 32, got 0"),
        ({"token_dims": [8]}, "token_dims must have one number less than embed_dims, got 1 and 3"),
        ({"embed_dims": [32, 18, 8]}, "embed_dims must be multiples of num_heads=4, got 18"),
        ({"level_weights": [1.0]}, "level_weights must have 3 numbers, .* got 1"),
        ({"backbone": "vgg16"}, "backbone must be an HRNet or ResNet of timm"),
    ],
)
def test_sizes_that_do_not_fit(small_metro, settings, message):
    with pytest.raises(UserError, match=message):
        small_metro(**settings)


def test_ratios_have_a_range(small_metro):
    with pytest.raises(ValueError, match=r"1\.5"):
        small_metro(drop_ratio=1.5)
    with pytest.raises(ValueError, match="wieght"):
        small_metro(drop_unit="wieght")


def test_a_missing_body_is_named(small_metro, tmp_path):
    with pytest.raises(UserError, match=f"body model not found: {tmp_path}/none.npz"):
        build.build_model(tmp_path / "none.npz")


def test_upsampling_may_begin_as_interpolation(small_metro, toy_body):
    upsampling = small_metro(interpolated_upsampling=True).upsampling
    coarsest = torch.tensor(toy_body.template[toy_body.coarse_vertices[1]]).float()
    full, coarse, same = upsampling(coarsest[None])
    assert torch.equal(same[0], coarsest)
    span = np.ptp(toy_body.template)
    for mesh, true in (
        (full, toy_body.template),
        (coarse, toy_body.template[toy_body.coarse_vertices[0]]),
    ):
        assert np.abs(mesh[0].detach().numpy() - true).mean() < 0.1 * span
    random = small_metro().upsampling(coarsest[None])[0]
    assert np.abs(random[0].detach().numpy() - toy_body.template).mean() > 0.1 * span

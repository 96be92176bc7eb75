import pytest
import torch

from dropkey_core.attention import MultiheadAttention
from dropkey_core.engine.errors import UserError
from projects.detr.build import build_model

# Rows of the official ResNet-50 checkpoint that pin down naming, layout and sizes of each part.
OFFICIAL_ENTRIES = {
    "transformer.encoder.layers.5.self_attn.in_proj_weight": (768, 256),
    "transformer.encoder.layers.0.linear1.weight": (2048, 256),
    "transformer.encoder.layers.0.norm2.bias": (256,),
    "transformer.decoder.layers.5.self_attn.out_proj.weight": (256, 256),
    "transformer.decoder.layers.0.multihead_attn.in_proj_bias": (768,),
    "transformer.decoder.layers.0.norm3.weight": (256,),
    "transformer.decoder.norm.weight": (256,),
    "class_embed.weight": (92, 256),
    "bbox_embed.layers.2.weight": (4, 256),
    "query_embed.weight": (100, 256),
    "input_proj.weight": (256, 2048, 1, 1),
    "backbone.0.body.conv1.weight": (64, 3, 7, 7),
    "backbone.0.body.bn1.running_var": (64,),
    "backbone.0.body.layer4.2.conv2.weight": (512, 512, 3, 3),
    "backbone.0.body.layer1.0.downsample.1.running_mean": (256,),
}


@pytest.fixture(scope="module")
def official_model():
    return build_model(pretrained_backbone=False)


def shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_has_the_official_entries(official_model):
    entries = shapes(official_model)
    assert len(entries) == 458
    assert {name: entries[name] for name in OFFICIAL_ENTRIES} == OFFICIAL_ENTRIES
    assert sum(tensor.numel() for tensor in official_model.state_dict().values()) == 41_631_008
    parameters = list(official_model.parameters())
    assert sum(p.numel() for p in parameters if p.requires_grad) == 41_302_368
    assert sum(not p.requires_grad for p in parameters) == 11


def test_resnet101_has_the_official_number_of_entries():
    with torch.device("meta"):
        model = build_model("resnet101", pretrained_backbone=False)
    assert len(model.state_dict()) == 713


def drop_settings(model):
    """(drop_ratio, unit) of every attention by its place."""
    return {
        name: (pytest.approx(module.drop_ratio), module.unit)  # equal up to rounding
        for name, module in model.named_modules()
        if isinstance(module, MultiheadAttention)
    }


PLACES = {
    "encoder_self": "transformer.encoder.layers.{}.self_attn",
    "decoder_self": "transformer.decoder.layers.{}.self_attn",
    "decoder_cross": "transformer.decoder.layers.{}.multihead_attn",
}


@pytest.mark.parametrize("sites", [[], *([site] for site in PLACES), list(PLACES)])
def test_ratios_fall_within_each_stack_at_the_chosen_sites(small_detr, sites):
    """Four encoder layers and two decoder layers: each stack falls at its own pace."""
    model = small_detr(num_encoder_layers=4, drop_ratio=0.4, drop_sites=sites)
    ratios = {"encoder": [0.4, 0.3, 0.2, 0.1], "decoder": [0.4, 0.2]}
    expected = {
        place.format(layer): (ratio if site in sites else 0.0, "key")
        for site, place in PLACES.items()
        for layer, ratio in enumerate(ratios[site.split("_")[0]])
    }
    assert drop_settings(model) == expected


def test_vanilla_dropout_and_other_schedules(small_detr):
    model = small_detr(drop_unit="weight", drop_schedule="constant", drop_ratio=0.1)
    assert list(drop_settings(model).values()) == [(0.1, "weight")] * 6


def test_ratio_0_drops_nothing(small_detr):
    model = small_detr(drop_ratio=0.0, dropout=0.0)
    assert list(drop_settings(model).values()) == [(0.0, "key")] * 6
    images = torch.randn(1, 3, 64, 64)
    training = model.predict_batch(images)["pred_logits"]
    torch.testing.assert_close(training, model.eval().predict_batch(images)["pred_logits"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "vgg16"}, "backbone must be one of .*got 'vgg16'"),
        ({"backbone_norm": "sync"}, "backbone_norm must be .*got 'sync'"),
        ({"drop_sites": ["encoder"]}, "drop_sites may hold encoder_self, .*got encoder"),
    ],
)
def test_bad_settings_are_named(small_detr, settings, message):
    with pytest.raises(UserError, match=message):
        small_detr(**settings)

import pytest
import torch

from dropkey_core.engine import UserError
from dropkey_core.equip.equipped import drops_keys
from dropkey_core.variants import Reattention, TokenPooling
from projects.classification import build_model, network


def drops(model):
    """Name, ratio and unit of all attention that drops keys."""
    return {
        name: (round(module.drop_ratio, 4), module.unit)
        for name, module in model.named_modules()
        if drops_keys(module)
    }


def test_the_ratio_falls_over_the_blocks(tiny):
    assert drops(tiny(drop_ratio=0.3).network) == {
        "blocks.0.attn": (0.3, "key"),
        "blocks.1.attn": (0.15, "key"),
    }


def test_an_option_that_is_null_is_as_good_as_absent(tiny):
    """So that an override takes away what another network's YAML sets."""
    assert len(drops(tiny({"depth": None, "embed_dim": None}).network)) == 14  # T2T-ViT-14's


@pytest.mark.parametrize(("ratio", "unit"), [(0.1, "weight"), (0.0, "key")])
def test_vanilla_dropout_and_nothing_dropped_are_settings(tiny, ratio, unit):
    model = tiny(drop_unit=unit, drop_ratio=ratio, drop_schedule="constant")
    assert set(drops(model).values()) == {(ratio, unit)}


def test_tokens_to_token_drops_nothing(tiny):
    """As in the official network, where its attention has a dropout site with a ratio of 0."""
    model = tiny({"tokens": "transformer"}, drop_ratio=0.3)
    assert set(drops(model.network)) == {"blocks.0.attn", "blocks.1.attn"}


@pytest.mark.parametrize(("name", "num_sites"), [("d1", 20), ("d2", 26), ("d3", 38)])
def test_volo_drops_at_every_site(name, num_sites):
    """Self-attention, outlook attention and class attention: all that has dropout officially."""
    with torch.device("meta"):
        network = build_model(f"volo_{name}", drop_ratio=0.3).network
    sites = drops(network)
    assert len(sites) == num_sites
    assert sites["network.0.0.attn"] == (0.3, "key")  # outlook attention comes first
    assert sites["post_network.1.attn"] == (round(0.3 / num_sites, 4), "key")
    dropouts = {
        n.removesuffix(".attn_drop") for n, _ in network.named_modules() if "attn_drop" in n
    }
    assert dropouts <= set(sites)


def test_volo_trains_on_small_images():
    torch.manual_seed(0)
    sizes = {"layers": [1, 1, 1, 1], "embed_dims": [16, 32, 32, 32], "num_heads": [2, 2, 2, 2]}
    model = build_model("volo", 4, 32, architecture_options=sizes, drop_ratio=0.3)
    assert len(drops(model)) == 6
    loss = model([{"image": torch.randn(3, 32, 32), "label": i} for i in range(2)])["loss_cls"]
    loss.backward()
    assert all(p.grad is not None for p in model.network.parameters() if p.requires_grad)


def test_timms_networks_take_image_size_and_options():
    options = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    model = build_model("vit_tiny_patch16_224", 5, 16, architecture_options=options, drop_path=0.2)
    assert model.network.pos_embed.shape == (1, 17, 32)
    assert model.network.head.out_features == 5
    assert model.network.blocks[1].drop_path1.drop_prob == pytest.approx(0.2)
    assert len(drops(model)) == 2


def test_variants_come_in_alone_and_together(tiny):
    def modules(model, kind):
        return [name for name, module in model.network.named_modules() if isinstance(module, kind)]

    variants = {"reattention": {"last_layers": 1}, "token_pooling": None}
    both = tiny(variants=variants, drop_ratio=0.2)
    assert modules(both, Reattention) == ["blocks.1.attn.reweigh"]
    assert modules(both, TokenPooling) == ["blocks.0.token_pooling", "blocks.1.token_pooling"]
    assert both.diversification is None
    assert drops(both.network)["blocks.0.attn"] == (0.2, "key")
    judged = tiny(variants={"diversification": {"weight": 2.0, "threshold": 3.0}})
    assert not modules(judged, Reattention | TokenPooling)
    assert (judged.diversification.weight, judged.diversification.threshold) == (2.0, 3.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "t2t_vit_15"}, "architecture must be .* such as t2t_vit_1.*'t2t_vit_15'"),
        ({"architecture": "resnet18"}, "timm cannot make a resnet18 .* choose a network with soft"),
        (
            {"architecture_options": {"embed_dims": 8}},
            "options.embed_dims.; nearest is .*s.embed_dim'",
        ),
        ({"architecture_options": {"img_size": 8}}, "img_size: set model.image_size instead"),
        ({"architecture_options": {"depth": "two"}}, "architecture_options of t2t_vit_14 .*two"),
        ({"variants": {"reatention": {}}}, "variants.reatention.; nearest is .*s.reattention'"),
        (
            {"variants": {"reattention": {"layers": 2}}},
            "layers.; nearest is .*reattention.last_layers",
        ),
        ({"pretrained_backbone": True}, "convert the official checkpoint by tools/convert_checkpo"),
        (
            {"architecture": "vit_tiny_patch8_224", "pretrained_backbone": True},
            "has no weights vit_tiny_patch8_224: set model.pretrained_backbone=false|architecture",
        ),
        ({"architecture": "volo"}, "architecture_options of volo must hold layers, four numbers"),
        ({"architecture": "volo", "pretrained_backbone": True}, "or model.architecture=volo_d1"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"image_size": 2}, "image_size 2 is too small for the soft splits"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        build_model(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drop_path": 1.0}, r"drop_path must be in \[0, 1\), got 1.0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"mixup": -0.5}, "mixup must be 0 or above, got -0.5"),
    ],
)
def test_numbers_out_of_range_are_named(tiny, settings, message):
    with pytest.raises(ValueError, match=message):
        tiny(**settings)


def test_weights_out_of_reach_are_one_line(monkeypatch):
    def unreachable(*arguments, **settings):
        raise OSError("no route to host\nand a long story")

    monkeypatch.setattr(network.timm, "create_model", unreachable)
    with pytest.raises(UserError, match=r"weights volo_d1_224 .*\(no route to host\): copy them"):
        build_model("volo_d1", pretrained_backbone=True)

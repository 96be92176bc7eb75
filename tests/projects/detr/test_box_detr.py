"""DETR's options for small sets: each alone and all together, on a tiny model."""

import pytest
import torch

from dropkey_core.engine import UserError
from projects.detr.attention import run_with_attention

BOXES = {"query_boxes": True, "position_temperature": 20.0}
FOCAL = {"focal": True, "class_weight": 2.0}
ALL = {**BOXES, **FOCAL, "select_queries": True, "backbone_top_down": 1, "pre_norm": True}
OPTIONS = {
    "none": {},
    "top_down": {"backbone_top_down": 1},
    "focal": FOCAL,
    "boxes": BOXES,
    "selection": {**BOXES, **FOCAL, "select_queries": True},
    "all": ALL,
}
NOTHING_DRAWN = {"dropout": 0.0, "drop_ratio": 0.0}


@pytest.fixture(params=OPTIONS.values(), ids=OPTIONS)
def options(request):
    return request.param


def without_objects(samples):
    nothing = {"labels": torch.zeros(0, dtype=torch.int64), "boxes_cxcywh": torch.zeros(0, 4)}
    return [{**sample, **nothing} for sample in samples]


def test_all_that_is_trained_learns(small_detr, small_samples, options):
    """From a batch with objects and from one without any, so that processes agree."""
    for samples in (small_samples, without_objects(small_samples)):
        model = small_detr(**options)
        total = sum(model(samples).values())
        assert total.isfinite()
        total.backward()
        missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing


def test_dropping_is_felt_in_training_and_in_training_only(small_detr, small_samples, options):
    def loss(ratio):
        torch.manual_seed(3)
        model = small_detr(**options, dropout=0.0, drop_ratio=ratio)
        torch.manual_seed(4)
        return sum(model(small_samples).values()).item()

    assert abs(loss(0.5) - loss(0.0)) > 1e-4
    model = small_detr(**options, drop_ratio=0.5).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(small_samples), model(small_samples), rtol=0, atol=0)


def test_evaluation_finds_as_many_as_there_are_queries(small_detr, small_samples, options):
    model = small_detr(**options)
    with torch.no_grad():
        found = model.eval()(small_samples)
    assert [len(image["scores"]) for image in found] == [5, 5]
    assert all((image["scores"] > 0).all() and (image["scores"] < 1).all() for image in found)


def test_padding_does_not_matter_in_evaluation(small_detr, options):
    """What lies in masked cells changes nothing, wherever the boxes of the queries are from."""
    model = small_detr(**options).eval()
    images = torch.randn(1, 3, 128, 128)
    padding_mask = torch.ones(1, 128, 128, dtype=torch.bool)
    padding_mask[..., :96, :64] = False

    def soil(module, inputs, features):
        features = features.clone()
        inside = features.shape[-1] // 2
        features[..., 3 * inside // 2 :, :] = features[..., inside:] = 100.0
        return features

    with torch.no_grad():
        clean = model.predict_batch(images, padding_mask)
        with model.backbone[0].register_forward_hook(soil):
            soiled = model.predict_batch(images, padding_mask)
    torch.testing.assert_close(soiled, clean)


def test_cells_are_judged_against_four_copies(small_detr, small_samples):
    model = small_detr(**OPTIONS["selection"], **NOTHING_DRAWN)
    losses = model(small_samples)
    images, padding_mask = model.batch(small_samples)
    with torch.no_grad():
        _, cells = model.detect(images, padding_mask)
    labels = [sample["labels"].repeat(4) for sample in small_samples]
    boxes = [sample["boxes_cxcywh"].repeat(4, 1) for sample in small_samples]
    for name, loss in model.loss(cells, labels, boxes).items():
        torch.testing.assert_close(losses[f"cells_{name}"], loss.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["focal", "all"])
def test_parts_of_a_batch_add_up_to_it(small_detr, small_samples, name):
    model = small_detr(**OPTIONS[name], **NOTHING_DRAWN)
    whole = model(small_samples)
    totals = model.totals(small_samples)
    parts = [model([sample], totals) for sample in small_samples]
    for key, loss in whole.items():
        torch.testing.assert_close(parts[0][key] + parts[1][key], loss)


def test_an_image_of_fewer_cells_than_queries(small_detr):
    model = small_detr(**ALL)
    sample = {"image": torch.zeros(3, 5, 7, dtype=torch.uint8), "height": 5, "width": 7}
    targets = {"labels": torch.tensor([1]), "boxes_cxcywh": torch.full((1, 4), 0.5)}
    assert sum(model([{**sample, **targets}]).values()).isfinite()
    with torch.no_grad():
        assert len(model.eval()([sample])[0]["scores"]) == 1


def test_attention_of_the_encoder_can_be_shown(small_detr):
    model = small_detr(**ALL).eval()
    sample = {"image": torch.zeros(3, 64, 96, dtype=torch.uint8), "height": 64, "width": 96}
    layer = model.transformer.encoder.layers[-1]
    _, attention = run_with_attention(model, layer.self_attn, sample)
    assert attention.shape == (24, 4, 6)
    _, attention = run_with_attention(
        model, model.transformer.decoder.layers[-1].multihead_attn, sample
    )
    assert attention.shape == (5, 4, 6)


def test_ratios_and_sites_are_those_of_the_plain_model(small_detr):
    def ratios(**changes):
        model = small_detr(**changes, drop_sites=["encoder_self", "decoder_cross"])
        modules = model.transformer.named_modules()
        return {name: m.drop_ratio for name, m in modules if hasattr(m, "drop_ratio")}

    assert ratios(**ALL) == ratios()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"select_queries": True}, "select_queries needs query_boxes=true and focal=true"),
        ({"backbone_top_down": 4}, r"backbone_top_down must be in 0..3, .*got 4"),
    ],
)
def test_bad_settings_are_named(small_detr, settings, message):
    with pytest.raises(UserError, match=message):
        small_detr(**settings)

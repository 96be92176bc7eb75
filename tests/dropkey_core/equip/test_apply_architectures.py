"""``apply_dropkey`` on real architectures of torch, timm, torchvision and transformers, made tiny.

Each is checked, and trained two steps.
"""

import importlib
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from dropkey_core.equip.apply import apply_dropkey, remove_dropkey
from dropkey_core.equip.check import check_dropkey
from dropkey_core.equip.equipped import EquippedAttention


def from_library(name, *args, **settings):
    module, _, attribute = name.rpartition(".")
    pytest.importorskip(module.split(".")[0])
    return getattr(importlib.import_module(module), attribute)(*args, **settings)


def timm(name, **settings):
    return from_library(f"timm.models.{name}", num_classes=4, **settings)


def transformers(name, **settings):
    """A model with random weights, its attention fused. Given its name and its configuration's."""
    model, config = name.split()
    return from_library(f"transformers.{model}", from_library(f"transformers.{config}", **settings))


def eager(make):
    model = make()
    model.set_attn_implementation("eager")
    return model


def detr():
    backbone = from_library(
        "transformers.ResNetConfig",
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        out_features=["stage2"],
    )
    settings = dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 32)
    settings |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    settings |= {"encoder_layers": 2, "decoder_layers": 2, "d_model": 16, "num_queries": 5}
    return transformers(
        "DetrModel DetrConfig",
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone_config=backbone,
        backbone=None,
        attention_dropout=0.1,
        **settings,
    )


PLAIN = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_heads": 2, "depth": 2}
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY |= {"intermediate_size": 64}
TINY_IMAGE = TINY | {"image_size": 32, "patch_size": 8}
T5 = {"d_model": 32, "d_kv": 16, "num_layers": 2, "num_heads": 2, "d_ff": 64, "vocab_size": 20}
SWIN = {"embed_dim": 16, "depths": (1, 2), "num_heads": (1, 2)}


def volo():
    heads = {"embed_dims": [16, 32, 32, 32], "num_heads": [2, 2, 2, 2]}
    return timm("volo.VOLO", layers=[1, 1, 1, 1], img_size=32, use_aux_head=False, **heads)


# name: (how to make it, its inputs by name or in order, number of sites, number of stacks)
IMAGE = (2, 3, 32, 32)
ARCHITECTURES = {
    "torch Transformer": (
        lambda: nn.Transformer(16, 2, 2, 2, 32, batch_first=True),
        [(2, 6, 16), (2, 5, 16)],
        (6, 2),
    ),
    "timm ViT": (lambda: timm("vision_transformer.VisionTransformer", **PLAIN), [IMAGE], (2, 1)),
    "timm DeiT": (lambda: timm("deit.VisionTransformerDistilled", **PLAIN), [IMAGE], (2, 1)),
    "timm VOLO": (volo, [IMAGE], (6, 1)),
    "timm Swin": (
        lambda: timm("swin_transformer.SwinTransformer", img_size=32, window_size=4, **SWIN),
        [IMAGE],
        (3, 1),
    ),
    "timm EVA": (lambda: timm("eva.Eva", use_rot_pos_emb=True, **PLAIN), [IMAGE], (2, 1)),
    "timm BEiT": (lambda: timm("beit.Beit", use_rel_pos_bias=True, **PLAIN), [IMAGE], (2, 1)),
    "timm CaiT": (lambda: timm("cait.Cait", **PLAIN), [IMAGE], (4, 1)),
    "timm Hiera": (
        lambda: timm(
            "hiera.Hiera", img_size=(64, 64), embed_dim=16, num_heads=1, stages=(1, 1, 1), q_pool=2
        ),
        [(2, 3, 64, 64)],
        (3, 1),
    ),
    "timm SigLIP": (
        lambda: timm(
            "vision_transformer.VisionTransformer", global_pool="map", class_token=False, **PLAIN
        ),
        [IMAGE],
        (3, 1),
    ),
    "torchvision ViT": (
        lambda: from_library("torchvision.models.VisionTransformer", 32, 8, 2, 2, 32, 64, 0, 0.1),
        [IMAGE],
        (2, 1),
    ),
    "torchvision Swin": (
        lambda: from_library(
            "torchvision.models.SwinTransformer", [4, 4], 16, [1, 2], [1, 2], [4, 4], num_classes=4
        ),
        [IMAGE],
        (3, 1),
    ),
    "transformers ViT": (
        lambda: transformers("ViTModel ViTConfig", **TINY_IMAGE),
        {"pixel_values": IMAGE},
        (2, 1),
    ),
    "transformers DINOv2": (
        lambda: transformers("Dinov2Model Dinov2Config", **TINY_IMAGE),
        {"pixel_values": IMAGE},
        (2, 1),
    ),
    "transformers SegFormer": (
        lambda: transformers(
            "SegformerModel SegformerConfig",
            num_encoder_blocks=2,
            depths=[1, 1],
            hidden_sizes=[16, 32],
            num_attention_heads=[1, 2],
            sr_ratios=[2, 1],
            patch_sizes=[7, 3],
            strides=[4, 2],
            mlp_ratios=[2, 2],
        ),
        {"pixel_values": IMAGE},
        (2, 1),
    ),
    "transformers Swin": (
        lambda: transformers(
            "SwinModel SwinConfig", image_size=32, patch_size=4, window_size=4, **SWIN
        ),
        {"pixel_values": IMAGE},
        (3, 1),
    ),
    "transformers BERT": (
        lambda: transformers("BertModel BertConfig", **TINY, vocab_size=20),
        {"input_ids": [[1, 2, 3, 4], [5, 6, 0, 0]], "attention_mask": [[1] * 4, [1, 1, 0, 0]]},
        (2, 1),
    ),
    "transformers GPT-2": (
        lambda: transformers("GPT2Model GPT2Config", n_embd=32, n_layer=2, n_head=2, vocab_size=20),
        {"input_ids": [[1, 2, 3, 4], [5, 6, 7, 8]]},
        (2, 1),
    ),
    "transformers Llama": (
        lambda: transformers(
            "LlamaModel LlamaConfig", **TINY, num_key_value_heads=1, vocab_size=20
        ),
        {"input_ids": [[1, 2, 3, 4], [5, 6, 7, 8]]},
        (2, 1),
    ),
    "transformers T5": (
        lambda: transformers("T5Model T5Config", **T5),
        {"input_ids": [[1, 2, 3], [4, 5, 6]], "decoder_input_ids": [[1, 2], [3, 4]]},
        (6, 2),
    ),
    "transformers DETR": (detr, {"pixel_values": (2, 3, 64, 64)}, (6, 2)),
}
for name in ("transformers ViT", "transformers BERT", "transformers DETR"):
    make, *rest = ARCHITECTURES[name]
    ARCHITECTURES[f"{name} eager"] = (partial(eager, make), *rest)


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    """A model, its inputs in order and by name, and its numbers of sites and stacks."""
    torch.manual_seed(0)
    make, inputs, numbers = ARCHITECTURES[request.param]
    model = make()
    with torch.no_grad():  # what starts at 0 (heads, layer scale) would hide the attention
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    if isinstance(inputs, dict):
        return model, [], {name: as_input(x) for name, x in inputs.items()}, numbers
    return model, [as_input(x) for x in inputs], {}, numbers


def as_input(x):
    """Random numbers of that shape, or the numbers themselves."""
    return torch.randn(x) if isinstance(x, tuple) else torch.tensor(x)


def tensor_of(output):
    return output if isinstance(output, torch.Tensor) else output[0]


def test_every_site_drops_and_nothing_else_attends(architecture):
    model, inputs, named, (num_sites, num_stacks) = architecture
    report = apply_dropkey(model, 0.4, "constant")
    assert len(report.equipped) == num_sites
    assert len({site.stack for site in report.equipped}) == num_stacks
    check = check_dropkey(model, *inputs, **named)
    assert [site.name for site in check.sites if not site.lost] == []
    assert check.uncovered == ()
    assert check.evaluation_difference == 0.0


def test_two_training_steps(architecture):
    model, inputs, named, _ = architecture
    apply_dropkey(model, 0.4, "constant")
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.01)
    losses = []
    for _ in range(2):
        loss = tensor_of(model(*inputs, **named)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(torch.tensor(losses).isfinite()) and losses[0] != losses[1]
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_self_and_cross_attention_of_t5_are_one_layer():
    """Also though each is an element of a list, beside the feed-forward network."""
    report = apply_dropkey(transformers("T5Model T5Config", **T5), 0.4)
    ratios = [site.drop_ratio for site in report.equipped if site.stack == "decoder"]
    assert ratios == [0.4, 0.4, 0.2, 0.2]


def test_evaluation_keys_and_way_back_to_the_last_bit(architecture):
    model, inputs, named, _ = architecture
    model.eval()

    def run():
        return tensor_of(model(*inputs, **named))

    keys, classes = list(model.state_dict()), [type(m) for m in model.modules()]
    attributes = [dict(vars(m)) for m in model.modules()]
    with torch.no_grad():
        expected = run()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            apply_dropkey(model, 0.4)
        assert torch.equal(run(), expected)
        assert list(model.state_dict()) == keys
        remove_dropkey(model)
        assert torch.equal(run(), expected)
    assert [type(m) for m in model.modules()] == classes
    assert all(
        vars(m).keys() == before.keys()
        for m, before in zip(model.modules(), attributes, strict=True)
    )


def test_ratio_0_trains_as_the_original_with_its_own_dropout(architecture):
    model, inputs, named, _ = architecture
    model.train()
    outputs = []
    for equipped in (False, True):
        if equipped:
            apply_dropkey(model, 0.0)
            assert any(isinstance(m, EquippedAttention) for m in model.modules())
        torch.manual_seed(1)
        outputs.append(tensor_of(model(*inputs, **named)))
    assert torch.equal(*outputs)

"""DETR against the independent implementation in ``transformers``: outputs, losses, gradients."""

import pytest
import torch

from projects.detr.build import build_model
from projects.detr.hugging_face import to_our_names

transformers = pytest.importorskip("transformers", reason="transformers is the reference")


@pytest.fixture(scope="module")
def models():
    """Their model and ours with the same weights: ResNet-50, two layers, norms unsettled."""
    torch.manual_seed(0)
    sizes = {"encoder_layers": 2, "decoder_layers": 2, "d_model": 32, "num_queries": 5}
    sizes |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    sizes |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=transformers.ResNetConfig(out_features=["stage4"]),
        num_labels=3,
        attn_implementation="eager",
        **sizes,
    )
    theirs = transformers.DetrForObjectDetection(config).eval()
    for parameter in theirs.requires_grad_().parameters():
        if parameter.dim() == 1:  # biases and layer norms, which start at 0 and 1
            parameter.data += 0.1 * torch.randn(parameter.shape)
        elif parameter.dim() == 2:  # large, or all attention would be uniform
            parameter.data = torch.randn(parameter.shape) * parameter.shape[1] ** -0.5
    for name, buffer in theirs.named_buffers():
        if name.endswith(("normalization.weight", "running_var")):
            buffer.uniform_(0.5, 1.0)
        elif name.endswith(("normalization.bias", "running_mean")):
            buffer.normal_(0, 0.1)
    ours = build_model(
        num_classes=3,
        num_queries=5,
        embed_dim=32,
        num_heads=4,
        num_encoder_layers=2,
        num_decoder_layers=2,
        ffn_dim=48,
        pretrained_backbone=False,
    ).eval()
    ours.load_state_dict(to_our_names(theirs.state_dict()))
    return theirs, ours


@pytest.fixture(scope="module")
def judged(models):
    """Outputs of both on a padded batch, and losses of the last layer, without dropout."""
    theirs, ours = models
    torch.manual_seed(1)
    images = torch.randn(2, 3, 96, 128)
    padding_mask = torch.zeros(2, 96, 128, dtype=torch.bool)
    padding_mask[0, 70:] = True
    padding_mask[1, :, 64:] = True
    labels = [torch.tensor([0, 2, 2]), torch.tensor([1])]
    boxes = [torch.rand(3, 4) * 0.4 + 0.1, torch.rand(1, 4) * 0.4 + 0.1]
    decoded = []
    first_layer = theirs.model.decoder.layers[0]
    with first_layer.register_forward_hook(lambda module, args, output: decoded.append(output)):
        their_outputs = theirs(
            images,
            pixel_mask=(~padding_mask).long(),
            labels=[{"class_labels": c, "boxes": b} for c, b in zip(labels, boxes, strict=True)],
        )
    (earlier,) = decoded  # 4.x: a tuple of which the states come first
    their_outputs.earlier = earlier[0] if isinstance(earlier, tuple) else earlier
    our_outputs = ours.predict_batch(images, padding_mask)
    return their_outputs, our_outputs, ours.loss(our_outputs, labels, boxes)


def test_every_layer_predicts_the_same(models, judged):
    theirs, ours, _ = judged
    assert theirs.logits.std(0).max() > 0.1  # the two images do not look alike
    torch.testing.assert_close(ours["pred_logits"][-1], theirs.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours["pred_boxes"][-1], theirs.pred_boxes, atol=1e-5, rtol=0)
    # The heads on the first layer. transformers' own auxiliary outputs are no reference: when it
    # makes them it feeds the normed states to the next layer, which DETR does not.
    reference, _ = models
    earlier = reference.model.decoder.layernorm(theirs.earlier)
    logits, boxes = reference.class_labels_classifier(earlier), reference.bbox_predictor(earlier)
    torch.testing.assert_close(ours["pred_logits"][0], logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours["pred_boxes"][0], boxes.sigmoid(), atol=1e-5, rtol=0)


def test_the_same_losses(judged):
    theirs, _, losses = judged
    for name, weight in (("loss_ce", 1), ("loss_bbox", 5), ("loss_giou", 2)):
        assert losses[name].item() == pytest.approx(weight * theirs.loss_dict[name].item(), 1e-5)


def test_the_same_gradients(models, judged):
    """Of the last layer's losses, in every parameter that DETR trains."""
    theirs, ours = models
    their_outputs, _, losses = judged
    weights = {"loss_ce": 1, "loss_bbox": 5, "loss_giou": 2}
    sum(weight * their_outputs.loss_dict[name] for name, weight in weights.items()).backward()
    sum(losses[name] for name in weights).backward()
    expected = to_our_names({name: p.grad for name, p in theirs.named_parameters()})
    learned = {name: p.grad for name, p in ours.named_parameters() if p.requires_grad}
    assert set(learned) <= set(expected)
    for name, gradient in learned.items():
        # Room for ReLUs that rounding switches, and for gradients that are zero but for rounding
        # (the queries start from zero).
        error, size = (gradient - expected[name]).norm(), expected[name].norm()
        assert error < 1e-2 * size + 1e-6, f"{name}: {error} of {size}"

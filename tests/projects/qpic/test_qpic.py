import math

import pytest
import torch

from projects.qpic.qpic import interactions


def test_a_batch_returns_the_heads_on_each_decoder_layer(small_qpic):
    model = small_qpic(num_decoder_layers=3, num_verb_classes=7).eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        queries, outputs = model.decode(images), model.predict_batch(images)
    assert queries.shape == (3, 2, 5, 32)
    heads = {"verb_logits": model.verb_class_embed, "obj_logits": model.obj_class_embed}
    heads |= {"sub_boxes": model.sub_bbox_embed, "obj_boxes": model.obj_bbox_embed}
    assert outputs.keys() == {f"pred_{name}" for name in heads}
    for name, head in heads.items():
        torch.testing.assert_close(outputs[f"pred_{name}"], head(queries))
    assert 0 < outputs["pred_sub_boxes"].min() < outputs["pred_obj_boxes"].max() < 1


def test_interactions_by_hand():
    """One query in an image 100 wide and 50 high: a tall human, a wide object, two verbs."""
    outputs = {
        "pred_obj_logits": torch.tensor([[0.0, math.log(2), math.log(5)]]),
        "pred_verb_logits": torch.tensor([[0.0, math.log(3)]]),
        "pred_sub_boxes": torch.tensor([[0.25, 0.5, 0.1, 0.8]]),
        "pred_obj_boxes": torch.tensor([[0.9, 0.5, 0.4, 0.2]]),
    }
    layers = {name: torch.stack([0 * last, last])[:, None] for name, last in outputs.items()}
    (found,) = interactions(layers, [(50, 100)])
    torch.testing.assert_close(found["sub_boxes"], torch.tensor([[20.0, 5.0, 30.0, 45.0]]))
    # Not clipped to the image.
    torch.testing.assert_close(found["obj_boxes"], torch.tensor([[70.0, 20.0, 110.0, 30.0]]))
    assert found["obj_labels"].tolist() == [1]  # the best real class: "no object" is likelier
    torch.testing.assert_close(found["verb_scores"], torch.tensor([[0.25 * 0.5, 0.25 * 0.75]]))


def test_interactions_refer_to_the_original_image(small_qpic, small_samples):
    model = small_qpic(num_verb_classes=7).eval()
    with torch.no_grad():
        found = model(small_samples)
        outputs = model.predict_batch(*model.batch(small_samples))
    for image, sample, boxes in zip(
        found, small_samples, outputs["pred_obj_boxes"][-1], strict=True
    ):
        _, y, _, height = boxes.unbind(-1)
        top = (y - height / 2) * sample["height"]
        torch.testing.assert_close(image["obj_boxes"][:, 1], top)
        assert image["sub_boxes"].shape == (5, 4)
        assert image["verb_scores"].shape == (5, 7)
        assert image["obj_labels"].shape == (5,)
        assert image["obj_labels"].max() < 3


def test_training_returns_weighted_losses(small_qpic, small_samples):
    model = small_qpic()
    losses = model(small_samples)
    parts = ("obj_ce", "verb_ce", "sub_bbox", "obj_bbox", "sub_giou", "obj_giou")
    assert set(losses) == {f"loss_{part}{layer}" for part in parts for layer in ("", "_0")}
    sum(losses.values()).backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


@pytest.mark.slow
def test_learns_one_batch_by_heart(small_qpic, small_samples):
    """Heads, matching and losses pull in one direction: right classes, verbs and boxes."""
    model = small_qpic(dropout=0.0, drop_ratio=0.0, backbone_norm="batch", backbone_stages=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        sum(model(small_samples).values()).backward()
        optimizer.step()
    outputs = model.predict_batch(*model.batch(small_samples))  # statistics of this very batch
    found = interactions(outputs, [(1, 1)])[0]
    best = found["verb_scores"].max(1).values.argmax()
    assert found["verb_scores"][best].argmax() == 1
    assert found["verb_scores"][best].max() > 0.5
    assert found["obj_labels"][best] == 2
    torch.testing.assert_close(
        found["sub_boxes"][best], torch.tensor([0.4, 0.2, 0.6, 0.8]), atol=0.08, rtol=0
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_agrees_with_cpu(small_qpic, small_samples):
    model = small_qpic()
    losses = model.eval().loss(model.predict_batch(*model.batch(small_samples)), small_samples)
    model.cuda()
    on_gpu = [{k: v.cuda() for k, v in s.items() if hasattr(v, "cuda")} for s in small_samples]
    for name, loss in model.loss(model.predict_batch(*model.batch(on_gpu)), on_gpu).items():
        torch.testing.assert_close(loss.cpu(), losses[name], rtol=1e-3, atol=1e-3)

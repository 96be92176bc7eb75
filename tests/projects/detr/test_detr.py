import pytest
import torch

from projects.detr.detr import IMAGENET_MEAN, IMAGENET_STD, detections


def by_hand(pixels):
    """Normalised image (3, h, w) in double precision."""
    mean, std = (
        torch.tensor(v, dtype=torch.double).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (pixels.double() / 255 - mean) / std


def test_batch_is_normalised_and_padded(small_detr, small_samples):
    images, padding_mask = small_detr().batch(small_samples)
    assert images.shape == (2, 3, 96, 96)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    for image, mask, sample in zip(images, padding_mask, small_samples, strict=True):
        height, width = sample["image"].shape[-2:]
        inside = image[:, :height, :width].double()
        torch.testing.assert_close(inside, by_hand(sample["image"]), atol=1e-6, rtol=0)
        assert not mask[:height, :width].any()
        assert mask.sum() == 96 * 96 - height * width
        assert (image[:, mask] == 0).all()


def test_on_a_canvas_an_image_gets_alone_what_it_gets_in_a_batch(small_detr, small_samples):
    model = small_detr(canvas=96).eval()
    images, padding_mask = model.batch(small_samples[:1])
    height, width = small_samples[0]["image"].shape[-2:]
    assert images.shape[-2:] == padding_mask.shape[-2:] == (96, 96)
    assert (~padding_mask).sum() == height * width
    with torch.no_grad():
        together, alone = model(small_samples), model(small_samples[:1])
    torch.testing.assert_close(alone[0]["boxes_xyxy"], together[0]["boxes_xyxy"])


def test_a_batch_of_one_size_needs_no_mask_which_is_a_mask_of_nothing(small_detr, small_samples):
    model = small_detr().eval()
    images, padding_mask = model.batch([small_samples[0]] * 2)
    assert images.shape == (2, 3, 64, 96)
    assert padding_mask is None
    with torch.no_grad():
        without = model.predict_batch(images)
        with_mask = model.predict_batch(images, torch.zeros(2, 64, 96, dtype=torch.bool))
    torch.testing.assert_close(without, with_mask)


def test_what_a_batch_returns(small_detr):
    outputs = small_detr(num_decoder_layers=3).predict_batch(torch.randn(2, 3, 64, 96))
    assert set(outputs) == {"pred_logits", "pred_boxes"}
    assert outputs["pred_logits"].shape == outputs["pred_boxes"].shape == (3, 2, 5, 4)
    assert 0 < outputs["pred_boxes"].min() < outputs["pred_boxes"].max() < 1


def test_a_padded_image_is_seen_as_if_alone(small_detr):
    """A map of the same cells, padded or not, gives the same detections.

    Only the map may differ: beyond the border convolutions see zeros in the padding, but also what
    earlier layers made of them, so that the outermost cells change a little in any DETR.
    """
    model = small_detr().eval()
    cells = torch.randn(1, 512, 3, 2)
    padded = torch.nn.functional.pad(cells, (0, 2, 0, 1))
    padding_mask = torch.ones(1, 128, 128, dtype=torch.bool)
    padding_mask[..., :96, :64] = False
    with torch.no_grad():
        with model.backbone[0].register_forward_hook(lambda *_: cells):
            alone = model.predict_batch(torch.zeros(1, 3, 96, 64))
        with model.backbone[0].register_forward_hook(lambda *_: padded):
            together = model.predict_batch(torch.zeros(1, 3, 128, 128), padding_mask)
    torch.testing.assert_close(together, alone)


def test_a_tall_box_stays_tall():
    """Centre (1/4, 1/2), width 1/10, height 4/5, in an image 100 wide and 50 high."""
    outputs = {
        "pred_logits": torch.tensor([[[[9.0, 0.0, 0.0]]], [[[0.0, 2.0, 9.0]]]]),
        "pred_boxes": torch.tensor([[[[0.5] * 4]], [[[0.25, 0.5, 0.1, 0.8]]]]),
    }
    (found,) = detections(outputs, [(50, 100)])
    torch.testing.assert_close(found["boxes_xyxy"], torch.tensor([[20.0, 5.0, 30.0, 45.0]]))
    assert found["labels"].tolist() == [1]  # the best real class, though "no object" is likelier
    logits = outputs["pred_logits"][1, 0, 0]
    torch.testing.assert_close(found["scores"], logits.softmax(0)[1:2])


def test_scores_of_focal_classification_are_sigmoids():
    """Of the best real class, whatever the logit of "no object"."""
    outputs = {
        "pred_logits": torch.tensor([[[[-1.0, 2.0, 9.0]]]]),
        "pred_boxes": torch.tensor([[[[0.5] * 4]]]),
    }
    (found,) = detections(outputs, [(50, 100)], focal=True)
    assert found["labels"].tolist() == [1]
    torch.testing.assert_close(found["scores"], torch.tensor([2.0]).sigmoid())


def test_detections_refer_to_the_original_image(small_detr, small_samples):
    model = small_detr().eval()
    with torch.no_grad():
        found = model(small_samples)
        outputs = model.predict_batch(*model.batch(small_samples))
    for image, sample, boxes in zip(found, small_samples, outputs["pred_boxes"][-1], strict=True):
        x, _, width, _ = boxes.unbind(-1)
        left = (x - width / 2) * sample["width"]
        torch.testing.assert_close(image["boxes_xyxy"][:, 0], left)
        assert image["scores"].shape == image["labels"].shape == (5,)
        assert image["labels"].max() < 3


def test_one_seed_one_loss(small_detr, small_samples):
    """Everything random in a step follows from torch's generator; evaluation draws nothing."""
    model = small_detr(drop_ratio=0.5)

    def loss(seed):
        torch.manual_seed(seed)
        return sum(model(small_samples).values()).item()

    assert loss(1) == loss(1)
    assert loss(1) != loss(2)
    model.eval()
    state = torch.get_rng_state()
    with torch.no_grad():
        first, second = model(small_samples), model(small_samples)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_small_images_with_no_object(small_detr):
    sample = {
        "image": torch.zeros(3, 5, 7, dtype=torch.uint8),
        "height": 5,
        "width": 7,
        "labels": torch.zeros(0, dtype=torch.int64),
        "boxes_cxcywh": torch.zeros(0, 4),
    }
    losses = small_detr()([sample])
    parts = ("ce", "bbox", "giou")
    assert set(losses) == {f"loss_{part}{layer}" for part in parts for layer in ("", "_0")}
    loss = sum(losses.values())
    loss.backward()
    assert loss.isfinite()


def test_normalisation_is_not_saved(small_detr):
    assert not [name for name in small_detr().state_dict() if "pixel" in name]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_agrees_with_cpu(small_detr, small_samples):
    model = small_detr().eval()
    with torch.no_grad():
        expected = model(small_samples)
        found = model.cuda()(small_samples)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours["boxes_xyxy"].cpu(), theirs["boxes_xyxy"], atol=0.1, rtol=0)

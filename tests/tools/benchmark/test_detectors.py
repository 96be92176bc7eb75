from types import SimpleNamespace

import pytest
import torch
from detectors import Fcos, RtDetr, boxes_in_sample, stretched

SIZES = {"embed_dim": 32, "num_heads": 2, "num_decoder_layers": 1, "ffn_dim": 16}
BUILDERS = {
    "fcos": lambda: Fcos(3, 64, 64),
    "rt-detr": lambda: RtDetr(3, **SIZES, num_queries=7),
}


@pytest.fixture
def samples():
    """Two images of 64 x 64 pixels that were 128 x 192 (height x width), with an object each."""
    torch.manual_seed(0)
    return [
        {
            "image": torch.randint(256, (3, 64, 64), dtype=torch.uint8),
            "height": 128,
            "width": 192,
            "labels": torch.tensor([label]),
            "boxes_cxcywh": torch.tensor([[0.5, 0.25, 0.5, 0.25]]),
        }
        for label in (0, 2)
    ]


def test_boxes_are_those_of_the_sample(samples):
    assert boxes_in_sample(samples[0]).tolist() == [[16, 8, 48, 24]]


def test_images_of_a_batch_are_stretched_to_one_size():
    left_dark = torch.cat([torch.zeros(3, 60, 45), torch.ones(3, 60, 45)], dim=2)  # 60 x 90
    batch = stretched([left_dark, torch.ones(3, 62, 36)])
    assert batch.shape == (2, 3, 64, 64)
    assert batch[0, :, :, :31].max() < 0.1  # the middle stays the middle: nothing is padded
    assert batch[0, :, :, 33:].min() > 0.9
    assert (batch[1] == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_all_of_it_learns(name, samples):
    torch.manual_seed(0)
    model = BUILDERS[name]().train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    curve = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = sum(model(samples).values())
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    assert min(curve[3:]) < 0.95 * curve[0]
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert not [m for m in model.modules() if "Frozen" in type(m).__name__]
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) >= 20 and all(norm.num_batches_tracked == 5 for norm in norms)
    with torch.no_grad():
        for found in model.eval()(samples):
            assert found["boxes_xyxy"].shape == (len(found["scores"]), 4)
            assert found["labels"].shape == found["scores"].shape


class StandIn(torch.nn.Module):
    """In place of the library's model: keeps what it is given, and answers what it is told to."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, *given, **named):
        self.given = given or (named.get("pixel_values"), named.get("labels"))
        return self.answer


def test_fcos_gets_pixels_of_the_sample_and_gives_those_of_the_original(samples):
    model, score = BUILDERS["fcos"](), torch.tensor([0.9])
    box = torch.tensor([[16.0, 8.0, 48.0, 24.0]])
    model.detector = StandIn({"loss": torch.tensor(1.0)})
    assert model.train()(samples) == {"loss": 1.0}
    images, targets = model.detector.given
    torch.testing.assert_close(images[1], samples[1]["image"] / 255)
    for target, sample in zip(targets, samples, strict=True):
        assert torch.equal(target["boxes"], box) and torch.equal(target["labels"], sample["labels"])
    model.detector = StandIn(
        [{"boxes": box, "scores": score, "labels": s["labels"]} for s in samples]
    )
    for found, sample in zip(model.eval()(samples), samples, strict=True):
        assert found["boxes_xyxy"].tolist() == [[48, 16, 144, 48]]
        assert found["scores"] is score and found["labels"] is sample["labels"]


def test_rt_detr_gets_shares_and_gives_pixels_of_the_original(samples):
    model = BUILDERS["rt-detr"]()
    model.detector = StandIn(SimpleNamespace(loss=2.0))
    assert model.train()(samples) == {"loss_all": 2.0}
    images, targets = model.detector.given
    assert images.shape == (2, 3, 64, 64) and images.max() <= 1
    assert [(t["class_labels"], t["boxes"]) for t in targets] == [
        (sample["labels"], sample["boxes_cxcywh"]) for sample in samples
    ]
    logits = torch.tensor([[[-9.0, 0.0, -9.0]], [[-9.0, -9.0, 1.0]]])
    boxes = torch.stack([sample["boxes_cxcywh"] for sample in samples])
    model.detector = StandIn(SimpleNamespace(logits=logits, pred_boxes=boxes))
    found = model.eval()(samples)
    assert [one["boxes_xyxy"].tolist() for one in found] == [[[48, 16, 144, 48]]] * 2
    assert [one["labels"].tolist() for one in found] == [[1], [2]]
    assert [one["scores"].item() for one in found] == pytest.approx([0.5, 0.731], abs=1e-3)

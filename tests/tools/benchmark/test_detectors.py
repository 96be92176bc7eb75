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


def is_batch_norm(module):
    return isinstance(module, torch.nn.BatchNorm2d)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_learns_an_object_and_finds_it_in_the_original(name, samples):
    torch.manual_seed(0)
    model = BUILDERS[name]().train()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        sum(model(samples).values()).backward()
        optimizer.step()
    for norm in filter(is_batch_norm, model.modules()):
        norm.momentum = None  # sixty steps do not fill running means: the mean of these
        norm.reset_running_stats()
    model(samples)
    model.eval()
    with torch.no_grad():
        found = model(samples)
    for one, sample in zip(found, samples, strict=True):
        best = int(one["scores"].argmax())
        assert one["labels"][best] == sample["labels"][0]
        expected = torch.tensor([48.0, 16.0, 144.0, 48.0])
        # In pixels of the sample's image they would differ by 96.
        torch.testing.assert_close(one["boxes_xyxy"][best], expected, atol=24.0, rtol=0)

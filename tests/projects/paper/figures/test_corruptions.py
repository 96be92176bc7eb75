import colorsys

import pytest
import torch
from torch.testing import assert_close

from projects.paper.figures.corruptions import SEVERITIES, STRENGTHS, corruption


@pytest.fixture
def image():
    torch.manual_seed(0)
    smooth = torch.linspace(0, 1, 64).outer(torch.linspace(0, 1, 64))
    return (torch.stack([smooth, smooth.T.flip(0), 1 - smooth]) * 200 + 20).to(torch.uint8)


def damage(image, name, severity):
    return (corruption(name, severity)(image).float() - image.float()).square().mean().item()


@pytest.mark.parametrize("name", STRENGTHS)
@pytest.mark.parametrize("size", [32, 64])
def test_each_severity_is_worse_than_the_one_before(image, name, size):
    image = image[:, :size, :size].contiguous()
    if name in ("blur", "jpeg"):  # what they take away must be there
        image = torch.randint(256, image.shape, dtype=torch.uint8)
    kept = image.clone()
    errors = [damage(image, name, severity) for severity in SEVERITIES]
    assert errors == sorted(errors) and errors[0] > 0
    assert torch.equal(image, kept)
    result = corruption(name, 5)(image)
    assert result.dtype == torch.uint8 and result.shape == image.shape


def test_strength_of_noise():
    grey = torch.full((3, 256, 256), 128, dtype=torch.uint8)
    noisy = corruption("noise", 1)(grey).float() / 255
    assert noisy.std().item() == pytest.approx(0.08, rel=0.02)
    noisy = corruption("noise", 1)(grey[:, :63].contiguous()).float() / 255
    assert noisy.std().item() == pytest.approx(0.04, rel=0.02)


def test_brightness_raises_the_value_of_hsv():
    pixels = [(10, 200, 30), (0, 0, 0), (250, 250, 10)]
    image = torch.tensor(pixels, dtype=torch.uint8).T.reshape(3, 3, 1).expand(3, 3, 64).contiguous()
    bright = corruption("brightness", 1)(image.repeat(1, 22, 1))[:, :3, 0].T
    for before, after in zip(pixels, bright.tolist(), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(channel / 255 for channel in before))
        expected = [255 * channel for channel in colorsys.hsv_to_rgb(h, s, min(v + 0.1, 1))]
        assert after == pytest.approx(expected, abs=1.001)  # cut off to whole numbers


def test_contrast_shrinks_around_the_mean(image):
    flat = corruption("contrast", 1)(image).float()
    mean = image.float().mean((1, 2), keepdim=True)
    assert_close(flat, 0.4 * (image.float() - mean) + mean, atol=1.0, rtol=0)


def test_what_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"corruption must be one of noise, .* got 'fog'"):
        corruption("fog", 1)
    with pytest.raises(ValueError, match="severity must be 1, 2, 3, 4 or 5, got 6"):
        corruption("noise", 6)

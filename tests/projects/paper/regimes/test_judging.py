import pytest
import torch
from torch import nn

from projects.paper.regimes.judging import Images, calibration_error, judge


class Brightest(nn.Module):
    """Takes the brightest channel for the class, with logits of 0 and the logarithm of 3."""

    def forward(self, pixels):
        channels = pixels.mean((2, 3))
        return torch.eye(3)[channels.argmax(1)] * torch.tensor(3.0).log()


def test_judged_in_parts_as_by_hand():
    """300 images, more than one part: confidence 3/5; half of them right."""
    pixels = torch.zeros(300, 3, 2, 2, dtype=torch.uint8)
    pixels[:, 1] = 255
    labels = torch.tensor([1, 2] * 150)
    judgement = judge(Brightest(), Images(pixels, labels))
    assert judgement.top1 == 50.0
    assert judgement.loss == pytest.approx((torch.tensor(0.6).log() + torch.tensor(0.2).log()) / -2)
    assert judgement.ece == pytest.approx(10.0, abs=1e-4)


def test_calibration_error_by_hand():
    # Two images of confidence 0.9, one of them right; one of 0.6, right: other bins.
    confident, unsure = [0.9, 0.1], [0.4, 0.6]
    logits = torch.tensor([confident, confident, unsure]).log()
    right = torch.tensor([True, False, True])
    expected = (abs(0.5 - 0.9) * 2 + abs(1 - 0.6)) / 3
    assert calibration_error(logits, right) == pytest.approx(100 * expected, abs=1e-4)

"""Image corruptions of ImageNet-C: noise, blur, brightness, contrast, JPEG (arXiv 1903.12261).

Each has five severities. Formulas and strengths are those of ImageNet-C, and of CIFAR-10-C for
small images; the noise is another draw. Shapes: (3, H, W) RGB images.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

Corruption = Callable[[Tensor], Tensor]

# Images with a shorter side below get the weaker strengths, which were made for 32 pixels.
SMALL = 64
SEVERITIES = (1, 2, 3, 4, 5)
# Strength of each severity: on large images, on small ones.
STRENGTHS: dict[str, tuple[Sequence[float], Sequence[float]]] = {
    # standard deviation, of pixels in [0, 1]
    "noise": ((0.08, 0.12, 0.18, 0.26, 0.38), (0.04, 0.06, 0.08, 0.09, 0.10)),
    # standard deviation of the Gaussian, in pixels
    "blur": ((1, 2, 3, 4, 6), (0.4, 0.6, 0.7, 0.8, 1)),
    # added to the value of HSV
    "brightness": ((0.1, 0.2, 0.3, 0.4, 0.5), (0.05, 0.1, 0.15, 0.2, 0.3)),
    # factor on the distance from the mean
    "contrast": ((0.4, 0.3, 0.2, 0.1, 0.05), (0.75, 0.5, 0.4, 0.3, 0.15)),
    # quality
    "jpeg": ((25, 18, 15, 10, 7), (80, 65, 58, 50, 40)),
}


def corruption(name: str, severity: int) -> Corruption:
    """Return what corrupts an image.

    Args:
        name: of ``STRENGTHS``.
        severity: 1 (weak) to 5.

    Returns:
        image (3, H, W) uint8 RGB -> another one; noise is drawn from torch's global generator

    Raises:
        ValueError: another name or severity.
    """
    if name not in STRENGTHS:
        raise ValueError(f"corruption must be one of {', '.join(STRENGTHS)}, got {name!r}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5, got {severity!r}")
    return partial(_corrupted, name=name, severity=severity)


def _corrupted(image: Tensor, name: str, severity: int) -> Tensor:
    is_small = min(image.shape[-2:]) < SMALL
    strength = STRENGTHS[name][int(is_small)][severity - 1]
    if name == "jpeg":
        return _recompressed(image, int(strength))
    pixels = _FORMULAS[name](image.float() / 255, strength)
    return (pixels.clamp(0, 1) * 255).to(torch.uint8)  # cut off, as in the original


def _noisy(pixels: Tensor, deviation: float) -> Tensor:
    return pixels + deviation * torch.randn_like(pixels)


def _blurred(pixels: Tensor, deviation: float) -> Tensor:
    from scipy.ndimage import gaussian_filter1d

    # Edge pixels go on beyond the edge; the Gaussian is cut off at four deviations.
    rows = gaussian_filter1d(pixels.numpy(), deviation, axis=1, mode="nearest")
    return torch.from_numpy(gaussian_filter1d(rows, deviation, axis=2, mode="nearest"))


def _brightened(pixels: Tensor, step: float) -> Tensor:
    # With hue and saturation as they were, a new value scales all three channels alike; black,
    # which has neither, becomes grey.
    value = pixels.amax(dim=0, keepdim=True)  # (1, H, W)
    new_value = (value + step).clamp(max=1)
    return torch.where(value > 0, pixels * (new_value / value.clamp(min=1e-6)), new_value)


def _flattened(pixels: Tensor, factor: float) -> Tensor:
    mean = pixels.mean(dim=(1, 2), keepdim=True)
    return (pixels - mean) * factor + mean


def _recompressed(image: Tensor, quality: int) -> Tensor:
    from torchvision.io import decode_jpeg, encode_jpeg

    result: Tensor = decode_jpeg(encode_jpeg(image.contiguous(), quality=quality))
    return result


_FORMULAS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "noise": _noisy,
    "blur": _blurred,
    "brightness": _brightened,
    "contrast": _flattened,
}

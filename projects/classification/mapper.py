"""From a record to a sample: the image cut to the model's size, augmented and normalised."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from dropkey_core.engine import UserError
from dropkey_core.engine.files.images import read_image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CROPS = ("resized", "padded")
INTERPOLATIONS = {
    "bicubic": v2.InterpolationMode.BICUBIC,
    "bilinear": v2.InterpolationMode.BILINEAR,
}


class ClassificationMapper:
    """Augmentation as in the recipes of DeiT, T2T-ViT and VOLO, or as usual on CIFAR.

    In training, in this order, on uint8 pixels: a crop (``resized``: a random part of the image,
    resized; ``padded``: the resized image, moved by up to ``padding`` pixels), a flip, colour
    jitter, ``rand_augment_ops`` random operations; then, on normalised values, a rectangle of
    noise. In testing the image is resized so that its shorter side is ``image_size / crop_pct`` and
    the middle is cut out. An image that has the right size already is not resized.

    The operations are torchvision's RandAugment (arXiv 1909.13719), which draws from torch, so that
    a run can be resumed exactly; timm's, which the official recipes use, draws from Python's
    random. As in timm each is applied with probability 0.5 and at ``rand_augment_magnitude`` of 10;
    other than there the magnitude does not vary (timm: normally, by 0.5), nothing is inverted or
    partly brightened, and posterising leaves 4 bits where timm's leaves 1.

    Args:
        training: whether to augment.
        image_size: side of the square sample in pixels.
        crop: ``resized`` or ``padded``, in training.
        min_scale: smallest part of the image's area that a ``resized`` crop takes.
        padding: greatest shift of a ``padded`` crop in pixels; what comes in is black.
        flip_probability: share of images that are mirrored left to right.
        colour_jitter: greatest relative change of brightness, contrast and saturation.
        rand_augment_ops: number of random operations, each with probability 0.5.
        rand_augment_magnitude: their strength, a whole number from 0 to 10.
        erasing_probability: share of images in which a rectangle becomes noise (arXiv 1708.04896).
        crop_pct: side of the part that is cut out in testing, relative to the shorter side.
        interpolation: ``bicubic`` or ``bilinear``; either averages when an image shrinks.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel.

    Raises:
        UserError: an argument outside its range.
    """

    def __init__(
        self,
        training: bool,
        image_size: int = 224,
        crop: str = "resized",
        min_scale: float = 0.08,
        padding: int = 4,
        flip_probability: float = 0.5,
        colour_jitter: float = 0.0,
        rand_augment_ops: int = 0,
        rand_augment_magnitude: int = 9,
        erasing_probability: float = 0.0,
        crop_pct: float = 0.875,
        interpolation: str = "bicubic",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        check_choice("crop", crop, CROPS)
        check_choice("interpolation", interpolation, INTERPOLATIONS)
        check_range("min_scale", min_scale, 0, 1)
        check_range("crop_pct", crop_pct, 0.01, 1)
        check_range("rand_augment_magnitude", rand_augment_magnitude, 0, 10)
        check_range("flip_probability", flip_probability, 0, 1)
        check_range("erasing_probability", erasing_probability, 0, 1)
        check_colours(mean, std)
        method = INTERPOLATIONS[interpolation]
        self.pixels: list[v2.Transform] = []  # what happens to uint8 images
        self.noise: v2.Transform | None = None  # what happens to normalised ones
        if training:
            self.pixels = [
                *random_crop(crop, image_size, min_scale, padding, method),
                *flips_and_colours(flip_probability, colour_jitter),
                *random_operations(rand_augment_ops, rand_augment_magnitude, mean),
            ]
            if erasing_probability:
                self.noise = v2.RandomErasing(erasing_probability, value="random")
        else:
            self.pixels = [CentreCrop(image_size, crop_pct, method)]
        # (x / 255 - mean) / std in one subtraction and one product
        self.mean = torch.tensor(mean).mul(255).view(3, 1, 1)
        self.scale = torch.tensor(std).mul(255).reciprocal().view(3, 1, 1)

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Make the sample of one record.

        Args:
            record: ``label``, ``image_id``, and ``image`` (3, h, w) uint8 RGB or ``file_name``.

        Returns:
            ``image`` (3, S, S) float32, normalised; ``label``, ``image_id``; ``file_name`` if the
            record has one.

        Raises:
            UserError: the image cannot be read.
        """
        image = record["image"] if "image" in record else read_image(record["file_name"])
        for step in self.pixels:
            image = step(image)
        image = self.normalised(image)
        if self.noise is not None:
            image = self.noise(image)
        kept = {name: record[name] for name in ("label", "image_id", "file_name") if name in record}
        return {"image": image, **kept}

    def normalised(self, image: Tensor) -> Tensor:
        """Pixels (3, h, w) uint8 as float32 of about mean 0 and deviation 1, contiguous."""
        return (image.contiguous().float() - self.mean).mul_(self.scale)


class CentreCrop(v2.Transform):
    """The middle of an image whose shorter side first becomes ``size / crop_pct``.

    Args:
        size: side of the square in pixels.
        crop_pct: its part of the shorter side.
        interpolation: of the resize, which an image of the right size is spared.
    """

    def __init__(self, size: int, crop_pct: float, interpolation: v2.InterpolationMode) -> None:
        super().__init__()
        self.size = size
        self.shorter = int(size / crop_pct)  # rounded down, as in timm
        self.resize = v2.Resize(self.shorter, interpolation=interpolation)
        self.crop = v2.CenterCrop(size)

    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]
        """(3, h, w) uint8 -> (3, size, size) uint8."""
        if min(image.shape[1:]) != self.shorter:
            image = self.resize(image)
        if tuple(image.shape[1:]) != (self.size, self.size):
            image = self.crop(image)
        return image


def random_crop(
    crop: str,
    image_size: int,
    min_scale: float,
    padding: int,
    interpolation: v2.InterpolationMode,
) -> list[v2.Transform]:
    """A square of ``image_size`` pixels; see ``ClassificationMapper``."""
    if crop == "resized":
        return [
            v2.RandomResizedCrop(image_size, scale=(min_scale, 1.0), interpolation=interpolation)
        ]
    return [CentreCrop(image_size, 1.0, interpolation), v2.RandomCrop(image_size, padding=padding)]


def flips_and_colours(flip_probability: float, colour_jitter: float) -> list[v2.Transform]:
    """Mirrored images, and other colours."""
    steps: list[v2.Transform] = []
    if flip_probability:
        steps.append(v2.RandomHorizontalFlip(flip_probability))
    if colour_jitter:
        steps.append(v2.ColorJitter(colour_jitter, colour_jitter, colour_jitter))
    return steps


def random_operations(count: int, magnitude: int, mean: Sequence[float]) -> list[v2.Transform]:
    """``count`` of RandAugment's operations, each with probability 0.5, at ``magnitude`` of 10.

    What comes in where an image was moved or turned has the ``mean`` colour, as in timm.
    """
    one = v2.RandAugment(
        num_ops=1,
        magnitude=magnitude,
        num_magnitude_bins=11,
        interpolation=v2.InterpolationMode.BILINEAR,
        fill=[round(255 * channel) for channel in mean],
    )
    return [v2.RandomApply([one], p=0.5) for _ in range(count)]


def check_choice(name: str, value: str, allowed: Sequence[str] | dict[str, Any]) -> None:
    """Raise UserError unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise UserError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def check_range(name: str, value: float, least: float, most: float) -> None:
    """Raise UserError unless ``value`` is in [least, most]."""
    if not least <= value <= most:
        raise UserError(f"{name} must be from {least} to {most}, got {value}")


def check_colours(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise UserError unless an image can be normalised with these."""
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError(
            f"mean and std must be three numbers each, std above 0; got {list(mean)} and "
            f"{list(std)}"
        )

"""Data augmentation: from a record to a sample, by timm's transforms as the official recipes."""

from collections.abc import Sequence
from typing import Any

from timm.data import create_transform
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision import transforms
from torchvision.transforms.functional import to_pil_image

from dropkey_core.engine import UserError
from dropkey_core.engine.files.images import read_image
from projects.classification.labelled_images import check_choice

CROPS = ("resized", "padded")
INTERPOLATIONS = ("bicubic", "bilinear")
MAX_MAGNITUDE = 9.99  # at 10 timm posterises to 0 bits: a black image, which Pillow 13 refuses


class ClassificationMapper:
    """Augmentation of the recipes of DeiT, T2T-ViT and VOLO, or as usual on CIFAR.

    All is ``timm.data.create_transform``, with which these networks were trained. In training: a
    crop (``resized``: a random part of the image, resized; ``padded``: the resized image, moved by
    up to ``padding`` pixels), a flip, random operations (RandAugment, arXiv 1909.13719), and a
    rectangle of noise. In testing the image is resized so that its shorter side is
    ``image_size / crop_pct``, and the middle is cut out.

    What is random comes from torch's, numpy's and Python's global generators, which the engine's
    loaders seed for each sample.

    Args:
        training: whether to augment.
        image_size: side of the square sample in pixels.
        crop: ``resized`` or ``padded``, in training.
        padding: greatest shift of a ``padded`` crop in pixels; what comes in is black.
        flip_probability: share of images that are mirrored left to right.
        rand_augment_ops: number of random operations, each with probability 0.5; 0 is none.
        rand_augment_magnitude: their mean strength, a whole number from 0 to 10; it varies from
            image to image with a standard deviation of 0.5.
        erasing_probability: share of images in which a rectangle becomes noise (arXiv 1708.04896).
        crop_pct: side of the part that is cut out in testing, relative to the shorter side; above
            1 it has a black frame, as the larger VOLOs are evaluated.
        interpolation: ``bicubic`` or ``bilinear``, which average when an image shrinks; for
            ``resized`` crops also ``random``: one of the two for each image.
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
        padding: int = 4,
        flip_probability: float = 0.5,
        rand_augment_ops: int = 0,
        rand_augment_magnitude: int = 9,
        erasing_probability: float = 0.0,
        crop_pct: float = 0.875,
        interpolation: str = "bicubic",
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
    ) -> None:
        check_choice("crop", crop, CROPS)
        resized = training and crop == "resized"
        check_choice("interpolation", interpolation, INTERPOLATIONS + ("random",) * resized)
        for name, value, least, most in (
            ("crop_pct", crop_pct, 0.01, 2),
            ("rand_augment_magnitude", rand_augment_magnitude, 0, 10),
            ("flip_probability", flip_probability, 0, 1),
            ("erasing_probability", erasing_probability, 0, 1),
        ):
            if not least <= value <= most:
                raise UserError(f"{name} must be from {least} to {most}, got {value}")
        check_colours(mean, std)
        # With 2 and 9 it is timm's rand-m9-mstd0.5-inc1 of the official recipes.
        operations = f"rand-m{rand_augment_magnitude}-n{rand_augment_ops}-mstd0.5-inc1"
        self.transform = create_transform(
            image_size,
            is_training=training,
            hflip=flip_probability,
            color_jitter=None,  # the recipes' random operations take its place
            auto_augment=operations if rand_augment_ops else None,
            interpolation=interpolation,
            mean=tuple(mean),
            std=tuple(std),
            re_prob=erasing_probability,
            re_mode="pixel",
            crop_pct=crop_pct,
        )
        for step in self.transform.transforms:
            for operation in getattr(step, "ops", []):  # of RandAugment
                operation.magnitude_max = MAX_MAGNITUDE
        if training and not resized:  # as DeiT's code does for CIFAR
            self.transform.transforms[0] = padded_crop(image_size, padding, interpolation)

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
        kept = {name: record[name] for name in ("label", "image_id", "file_name") if name in record}
        return {"image": self.transform(to_pil_image(image)), **kept}


def padded_crop(image_size: int, padding: int, interpolation: str) -> transforms.Compose:
    """The middle of the resized image, moved by up to ``padding`` pixels."""
    return transforms.Compose(
        [
            transforms.Resize(image_size, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(image_size),
            transforms.RandomCrop(image_size, padding),
        ]
    )


def check_colours(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise UserError unless an image can be normalised with these."""
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError(
            f"mean and std must be three numbers each, std above 0; got {list(mean)} and "
            f"{list(std)}"
        )

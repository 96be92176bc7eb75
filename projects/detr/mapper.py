"""From a record (detectron2's dataset dict) to a sample: image read, augmented, boxes with it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import box_convert
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from dropkey_core.engine.files.images import read_image
from projects.detr.coco import XYWH_ABS

XYXY_ABS = 0  # detectron2's BoxMode.XYXY_ABS
BOX_FORMATS = {XYXY_ABS: "xyxy", XYWH_ABS: "xywh"}

# The resize before a crop has no limit in DETR; this one only keeps a ribbon of an image from
# filling the memory.
LONGEST_SIDE = 10_000


class DetrMapper:
    """DETR's preparation of images and boxes (arXiv 2005.12872, section A.4), on uint8 pixels.

    In training an image is flipped with ``flip_probability``; with ``crop_probability`` resized
    to one of ``crop_min_sizes`` and cropped at random; then always resized so that its shorter side
    is one of ``min_sizes`` and its longer one at most ``max_size``. In testing it is only resized,
    to the largest of ``min_sizes``. All randomness comes from torch's global generator.

    Args:
        training: whether to augment and to give targets.
        min_sizes: lengths of the shorter side, in pixels. Default: 480, 512, ..., 800 in training,
            800 in testing.
        max_size: the longer side's greatest length, in pixels.
        flip_probability: share of images that are mirrored left to right.
        crop_probability: share of images that are cropped; 0 for small images.
        crop_min_sizes: lengths of the shorter side before the crop, in pixels.
        crop_range: shortest and longest side of the crop, in pixels.
        vertical_flip_probability: share of images that are mirrored top to bottom: for images
            without up and down, such as those of microscopes.
    """

    def __init__(
        self,
        training: bool,
        min_sizes: Sequence[int] | None = None,
        max_size: int = 1333,
        flip_probability: float = 0.5,
        crop_probability: float = 0.5,
        crop_min_sizes: Sequence[int] = (400, 500, 600),
        crop_range: Sequence[int] = (384, 600),
        vertical_flip_probability: float = 0.0,
    ) -> None:
        self.training = training
        flips: list[v2.Transform] = [v2.RandomHorizontalFlip(flip_probability)]
        if vertical_flip_probability:  # else nothing is drawn for it
            flips.append(v2.RandomVerticalFlip(vertical_flip_probability))
        crop = maybe_cropped(crop_probability, crop_min_sizes, crop_range)
        self.transform = resized_after([*flips, crop], training, min_sizes, max_size)

    def teaches(self, record: Mapping[str, Any]) -> bool:
        """Whether a record has an object that is no crowd region."""
        return any(not annotation.get("iscrowd", 0) for annotation in record["annotations"])

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Make the sample of one record.

        Args:
            record: ``file_name``; where known ``height`` and ``width`` of the image in pixels; in
                training ``annotations``, see ``load_coco``.

        Returns:
            ``image`` (3, h, w) uint8 RGB; ``height``, ``width`` of the image *before* resizing, in
            pixels; ``file_name``; ``image_id`` if the record has one. In training also
            ``boxes_cxcywh`` (n, 4) float32 in [0, 1] of the sample's image, and ``labels`` (n,)
            int64 class indices. Crowd regions and what the crop left nothing of are not in them.

        Raises:
            UserError: the image cannot be read or has another size than the record says.
        """
        sample, image = image_of(record)
        if not self.training:
            return {**sample, "image": self.transform(image).as_subclass(Tensor)}
        boxes, labels = targets(record["annotations"], image.shape[-2:])
        image, boxes = self.transform(image, boxes)
        kept = has_area(boxes)
        return {
            **sample,
            "image": image.as_subclass(Tensor),
            "boxes_cxcywh": relative_cxcywh(boxes)[kept],
            "labels": labels[kept],
        }


def image_of(record: dict[str, Any]) -> tuple[dict[str, Any], tv_tensors.Image]:
    """A record's image; its name, id, ``height`` and ``width`` in pixels begin a sample.

    A record that has the ``image`` itself, (3, h, w) uint8 RGB, needs no file.
    """
    if "image" in record:
        image = tv_tensors.Image(record["image"])
    else:
        known_size = (record["height"], record["width"]) if "height" in record else None
        is_resized = record.get("resize", False)
        image = tv_tensors.Image(read_image(record["file_name"], known_size, is_resized))
    sample = {key: record[key] for key in ("file_name", "image_id") if key in record}
    sample["height"], sample["width"] = image.shape[-2:]
    return sample, image


def targets(
    annotations: Sequence[dict[str, Any]], image_size: Sequence[int]
) -> tuple[tv_tensors.BoundingBoxes, Tensor]:
    """Boxes (n, 4) xyxy in pixels, clipped to the image (h, w), and labels (n,); without crowds."""
    single = [annotation for annotation in annotations if not annotation.get("iscrowd", 0)]
    modes = {int(annotation["bbox_mode"]) for annotation in single} or {XYXY_ABS}
    if len(modes) > 1 or not modes <= BOX_FORMATS.keys():
        raise ValueError(
            f"bbox_mode must be 0 (XYXY_ABS) or 1 (XYWH_ABS), the same in all annotations of an "
            f"image, got {sorted(modes)}"
        )
    given = torch.tensor([annotation["bbox"] for annotation in single]).reshape(-1, 4).float()
    boxes_xyxy = box_convert(given, BOX_FORMATS[modes.pop()], "xyxy")
    boxes = tv_tensors.BoundingBoxes(boxes_xyxy, format="XYXY", canvas_size=image_size)
    labels = torch.tensor([annotation["category_id"] for annotation in single], dtype=torch.int64)
    return F.clamp_bounding_boxes(boxes), labels


def has_area(boxes: tv_tensors.BoundingBoxes) -> Tensor:
    """Which boxes (n, 4) xyxy have one: (n,) bool."""
    boxes_xyxy = boxes.as_subclass(Tensor)
    return (boxes_xyxy[:, 2:] > boxes_xyxy[:, :2]).all(dim=1)


def relative_cxcywh(boxes: tv_tensors.BoundingBoxes) -> Tensor:
    """Boxes (n, 4) xyxy in pixels as (n, 4) cxcywh in [0, 1] of their image."""
    height, width = boxes.canvas_size
    boxes_cxcywh = box_convert(boxes.as_subclass(Tensor), "xyxy", "cxcywh")
    return boxes_cxcywh / boxes_cxcywh.new_tensor([width, height, width, height])


def resized_after(
    augmentations: Sequence[v2.Transform],
    training: bool,
    min_sizes: Sequence[int] | None,
    max_size: int,
) -> v2.Transform:
    """In training the augmentations and then the resize, in testing that to the largest size."""
    if min_sizes is None:
        min_sizes = range(480, 801, 32) if training else [800]
    if training:
        return v2.Compose([*augmentations, ResizeShorterSide(min_sizes, max_size)])
    return ResizeShorterSide([max(min_sizes)], max_size)


def maybe_cropped(
    probability: float, min_sizes: Sequence[int], crop_range: Sequence[int]
) -> v2.Transform:
    """DETR's choice, before the last resize: as it is, or resized to ``min_sizes`` and cropped."""
    return v2.RandomApply(
        [ResizeShorterSide(min_sizes, LONGEST_SIDE), RandomSizeCrop(*crop_range)], probability
    )


class ResizeShorterSide(v2.Transform):
    """Resize so that the shorter side is one of ``sizes``, in pixels, each as likely as the others.

    The longer side becomes at most ``max_size``, which prevails.

    Raises:
        ValueError: no size, or one below 1.
    """

    def __init__(self, sizes: Sequence[int], max_size: int) -> None:
        super().__init__()
        if not sizes or min(*sizes, max_size) < 1:
            raise ValueError(f"sizes must be 1 pixel or more, got {list(sizes)} and {max_size}")
        self.sizes = [int(size) for size in sizes]
        self.max_size = max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the new (height, width)."""
        shorter = self.sizes[int(torch.randint(len(self.sizes), ()))]
        return {"size": resized(v2.query_size(flat_inputs), shorter, self.max_size)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize image or boxes."""
        return F.resize(inpt, params["size"], antialias=True)


class RandomSizeCrop(v2.Transform):
    """Cut out a rectangle, with sides and place at random; boxes are clipped to it.

    Its sides have from ``min_size`` to ``max_size`` pixels, where the image has as many.

    Raises:
        ValueError: not 1 <= min_size <= max_size.
    """

    def __init__(self, min_size: int, max_size: int) -> None:
        super().__init__()
        if not 1 <= min_size <= max_size:
            raise ValueError(f"crop_range must be 1 <= least <= most, got {min_size}, {max_size}")
        self.min_size = min_size
        self.max_size = max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, int]:
        """Draw the rectangle, in pixels."""
        image_height, image_width = v2.query_size(flat_inputs)
        width = self.side(image_width)
        height = self.side(image_height)
        top = random_integer(0, image_height - height)
        left = random_integer(0, image_width - width)
        return {"top": top, "left": left, "height": height, "width": width}

    def side(self, available: int) -> int:
        """Draw a side of the crop, of at most the ``available`` pixels."""
        return random_integer(min(self.min_size, available), min(self.max_size, available))

    def transform(self, inpt: Any, params: dict[str, int]) -> Any:
        """Crop image or boxes."""
        return F.crop(inpt, **params)


def random_integer(low: int, high: int) -> int:
    """One of low, ..., high, from torch's global generator."""
    return int(torch.randint(low, high + 1, ()))


def resized(image_size: tuple[int, int], shorter: int, max_size: int) -> tuple[int, int]:
    """(height, width) after a resize, rounded as in DETR.

    Args:
        image_size: (height, width) before.
        shorter: wanted length of the shorter side.
        max_size: greatest length of the longer side; ``shorter`` shrinks to keep it, to a whole
            pixel, so that the longer side may still be a few pixels longer.
    """
    short_before, long_before = sorted(image_size)
    if long_before / short_before * shorter > max_size:
        shorter = round(max_size * short_before / long_before)
    longer = shorter * long_before // short_before
    if shorter == 0:  # a ribbon
        shorter, longer = 1, max_size
    return (shorter, longer) if image_size[0] <= image_size[1] else (longer, shorter)

"""From a record to a sample: image read, augmented as in QPIC, pairs with it.

Shapes: p pairs (subject, object), C object classes, V verbs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from projects.detr.mapper import (
    has_area,
    image_of,
    maybe_cropped,
    relative_cxcywh,
    resized_after,
)
from projects.qpic.interaction_file import NO_OBJECT


class QpicMapper:
    """QPIC's preparation of images and pairs (arXiv 2103.05399, section 4.2), on uint8 pixels.

    As DETR's (``projects.detr.DetrMapper``), with the colours changed at random before the resize:
    brightness, contrast and saturation by up to ``colour_jitter`` each, in any order. Boxes follow
    every crop; a pair that loses a box to it goes. All randomness comes from torch's global
    generator. Other than in QPIC's code no image is trained on without some of its pairs because
    it has more boxes than the model has queries.

    Args:
        training: whether to augment and to give targets.
        num_object_classes: C.
        num_verb_classes: V.
        min_sizes: see ``DetrMapper``, as the others.
        colour_jitter: greatest relative change of brightness, contrast and saturation.
    """

    def __init__(
        self,
        training: bool,
        num_object_classes: int = 80,
        num_verb_classes: int = 117,
        min_sizes: Sequence[int] | None = None,
        max_size: int = 1333,
        flip_probability: float = 0.5,
        colour_jitter: float = 0.4,
        crop_probability: float = 0.5,
        crop_min_sizes: Sequence[int] = (400, 500, 600),
        crop_range: Sequence[int] = (384, 600),
    ) -> None:
        self.training = training
        self.num_object_classes = num_object_classes
        self.num_verb_classes = num_verb_classes
        flip = v2.RandomHorizontalFlip(flip_probability)
        jitter = v2.ColorJitter(colour_jitter, colour_jitter, colour_jitter)
        crop = maybe_cropped(crop_probability, crop_min_sizes, crop_range)
        self.transform = resized_after([flip, jitter, crop], training, min_sizes, max_size)

    def teaches(self, record: Mapping[str, Any]) -> bool:
        """Whether a record has an interaction."""
        return bool(record["hois"])

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Make the sample of one record.

        Args:
            record: ``file_name``; where known ``height`` and ``width`` of the image in pixels; in
                training ``boxes_xyxy``, ``labels`` and ``hois``, see ``load_hico_det``.

        Returns:
            ``image`` (3, h, w) uint8 RGB; ``height``, ``width`` of the image *before* resizing, in
            pixels; ``file_name``; ``image_id`` if the record has one. In training also, with one
            row per pair, its verbs together: ``sub_boxes_cxcywh`` and ``obj_boxes_cxcywh`` (p, 4)
            float32 in [0, 1] of the sample's image, ``obj_labels`` (p,) int64, ``verb_labels``
            (p, V) float32, 1 for the pair's verbs and 0 for others. Without object, the object's
            box is all zeros and its label C.

        Raises:
            UserError: the image cannot be read or has another size than the record says.
        """
        sample, image = image_of(record)
        if not self.training:
            return {**sample, "image": self.transform(image).as_subclass(Tensor)}
        boxes = F.clamp_bounding_boxes(
            tv_tensors.BoundingBoxes(
                torch.tensor(record["boxes_xyxy"], dtype=torch.float32).reshape(-1, 4),
                format="XYXY",
                canvas_size=image.shape[-2:],
            )
        )
        image, boxes = self.transform(image, boxes)
        return {**sample, "image": image.as_subclass(Tensor), **self.pairs(record, boxes)}

    def pairs(self, record: dict[str, Any], boxes: tv_tensors.BoundingBoxes) -> dict[str, Tensor]:
        """The targets of a record's pairs, with its boxes (n, 4) as the augmentation left them."""
        there = has_area(boxes).tolist()
        verbs_of: dict[tuple[int, int], list[int]] = {}
        for subject, object_, verb in record["hois"]:
            if there[subject] and (object_ == NO_OBJECT or there[object_]):
                verbs_of.setdefault((subject, object_), []).append(verb)
        subjects, objects = torch.tensor(list(verbs_of), dtype=torch.int64).reshape(-1, 2).unbind(1)

        # One more row, which NO_OBJECT = -1 finds: no box and the class "no object".
        boxes_cxcywh = torch.cat([relative_cxcywh(boxes), boxes.new_zeros(1, 4)])
        labels = torch.tensor([*record["labels"], self.num_object_classes], dtype=torch.int64)
        verb_labels = torch.zeros(len(verbs_of), self.num_verb_classes)
        for pair, verbs in enumerate(verbs_of.values()):
            verb_labels[pair, verbs] = 1
        return {
            "sub_boxes_cxcywh": boxes_cxcywh[subjects],
            "obj_boxes_cxcywh": boxes_cxcywh[objects],
            "obj_labels": labels[objects],
            "verb_labels": verb_labels,
        }

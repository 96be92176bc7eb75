#!/usr/bin/env python
"""Train a detector of another library by a DETR recipe of ours: same samples, same evaluation.

tools/benchmark/detectors.py fcos --config projects/detr/small.yaml optimizer.lr=5e-4
tools/benchmark/detectors.py rt-detr --config projects/detr/small.yaml

``fcos`` is torchvision's FCOS on a ResNet-18 with a feature pyramid, ``rt-detr`` transformers'
RT-DETR on a ResNet-18 with the width, layers and queries of the recipe's model; both with random
weights. It says the seconds of training beside the metrics.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import box_convert
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from report import argument_parser, run_benchmark

from dropkey_core.engine import load_config, train
from projects.detr.coco import read_categories

Samples = Sequence[dict[str, Any]]
SIDE = 32  # of what the sides of RT-DETR's images are multiples
FPN_WIDTH = 256


class Fcos(nn.Module):
    """torchvision's FCOS (arXiv 1904.01355) behind the interface of ``Detr.forward``.

    Args:
        num_classes: C.
        min_size: shorter side of an image in pixels; samples have it already.
        max_size: most of the longer side.
    """

    def __init__(self, num_classes: int, min_size: int, max_size: int) -> None:
        super().__init__()
        body = resnet_fpn_backbone(
            backbone_name="resnet18",
            weights=None,
            norm_layer=nn.BatchNorm2d,
            trainable_layers=5,
            returned_layers=[2, 3, 4],
            extra_blocks=LastLevelP6P7(FPN_WIDTH, FPN_WIDTH),
        )
        self.detector = FCOS(body, num_classes, min_size=min_size, max_size=max_size)

    def forward(self, samples: Samples) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses by name in training; else ``boxes_xyxy`` in pixels, ``scores`` and ``labels``."""
        images = [sample["image"].float() / 255 for sample in samples]
        if self.training:
            targets = [
                {"labels": sample["labels"], "boxes": boxes_in_sample(sample)} for sample in samples
            ]
            return self.detector(images, targets)
        return [
            {
                "boxes_xyxy": found["boxes"] * original_scale(sample),
                "scores": found["scores"],
                "labels": found["labels"],
            }
            for sample, found in zip(samples, self.detector(images), strict=True)
        ]


class RtDetr(nn.Module):
    """transformers' RT-DETR (arXiv 2304.08069) behind the interface of ``Detr.forward``.

    Args:
        num_classes: C.
        sizes: ``embed_dim``, ``num_heads``, ``num_decoder_layers``, ``ffn_dim``, ``num_queries``.
    """

    def __init__(self, num_classes: int, **sizes: int) -> None:
        super().__init__()
        from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

        backbone = RTDetrResNetConfig(
            depths=[2, 2, 2, 2],
            hidden_sizes=[64, 128, 256, 512],
            layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        )
        width = sizes["embed_dim"]
        config = RTDetrConfig(
            backbone_config=backbone,
            freeze_backbone_batch_norms=False,
            num_labels=num_classes,
            encoder_in_channels=[128, 256, 512],
            encoder_hidden_dim=width,
            encoder_ffn_dim=sizes["ffn_dim"],
            encoder_attention_heads=sizes["num_heads"],
            d_model=width,
            decoder_in_channels=[width] * 3,
            decoder_ffn_dim=sizes["ffn_dim"],
            decoder_layers=sizes["num_decoder_layers"],
            decoder_attention_heads=sizes["num_heads"],
            num_queries=sizes["num_queries"],
            eval_size=None,
            anchor_image_size=None,
        )
        self.detector = RTDetrForObjectDetection(config)

    def forward(self, samples: Samples) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """The loss in training; else ``boxes_xyxy`` in pixels, ``scores`` and ``labels``."""
        images = stretched([sample["image"].float() / 255 for sample in samples])
        if self.training:
            targets = [
                {"class_labels": sample["labels"], "boxes": sample["boxes_cxcywh"]}
                for sample in samples
            ]
            return {"loss_all": self.detector(pixel_values=images, labels=targets).loss}
        outputs = self.detector(pixel_values=images)
        found = []
        for sample, logits, boxes in zip(
            samples, outputs.logits.float(), outputs.pred_boxes.float(), strict=True
        ):
            scores, labels = logits.sigmoid().max(-1)
            scale = boxes.new_tensor([sample["width"], sample["height"]]).repeat(2)
            boxes_xyxy = box_convert(boxes, "cxcywh", "xyxy") * scale
            found.append({"boxes_xyxy": boxes_xyxy, "scores": scores, "labels": labels})
        return found


def stretched(images: Sequence[Tensor]) -> Tensor:
    """Images (3, h, w) as a batch (B, 3, H, W), whose sides are their mean ones in steps of 32.

    As RT-DETR does it: boxes are fractions of an image, so padding would move them.
    """
    means = torch.tensor([image.shape[-2:] for image in images]).float().mean(0)
    size = [max(SIDE, round(side / SIDE) * SIDE) for side in means.tolist()]
    return torch.cat(
        [
            nn.functional.interpolate(image[None], size, mode="bilinear", antialias=True)
            for image in images
        ]
    )


def boxes_in_sample(sample: dict[str, Any]) -> Tensor:
    """True boxes (t, 4) xyxy in pixels of the sample's image."""
    height, width = sample["image"].shape[-2:]
    scale = torch.tensor([width, height, width, height])
    return box_convert(sample["boxes_cxcywh"], "cxcywh", "xyxy") * scale


def original_scale(sample: dict[str, Any]) -> Tensor:
    """What (4,) takes xyxy in pixels of the sample's image to those of the original."""
    height, width = sample["image"].shape[-2:]
    return torch.tensor([sample["width"] / width, sample["height"] / height]).repeat(2)


SIZES = ("embed_dim", "num_heads", "num_decoder_layers", "ffn_dim", "num_queries")


def run(arguments: argparse.Namespace) -> None:
    """Train, and print what came out."""
    config = load_config(arguments.config, arguments.overrides)
    num_classes = read_categories(config.dataset.test.annotations).num_classes
    if arguments.detector == "fcos":
        mapper = config.dataloader.test.mapper
        sizes = {"min_size": max(mapper.min_sizes), "max_size": mapper.max_size}
    else:
        sizes = {name: config.model[name] for name in SIZES}
    config.model = {"_target_": TARGETS[arguments.detector], "num_classes": num_classes, **sizes}
    config.train.output_dir = f"{config.train.output_dir}_{arguments.detector}"
    began = time.perf_counter()
    metrics = train(config, overwrite=True)
    seconds = time.perf_counter() - began
    print(
        f"{arguments.detector}: AP {metrics['bbox/AP']:.1f}, AP50 {metrics['bbox/AP50']:.1f} "
        f"after {config.train.max_iter} steps in {seconds:.0f} s, evaluations included"
    )


TARGETS = {"fcos": "detectors.Fcos", "rt-detr": "detectors.RtDetr"}  # as an import finds them


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's error."""
    parser = argument_parser(__doc__)
    parser.add_argument("detector", choices=TARGETS)
    parser.add_argument("--config", required=True, metavar="FILE", help="the experiment's YAML")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the YAML")
    return run_benchmark(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())

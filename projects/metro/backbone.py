"""Image backbone of METRO: one feature map out of a timm network."""

import difflib
import re
from typing import Any

import timm
from torch import Tensor, nn

from dropkey_core.engine import UserError
from projects.timm_network import create_timm_network

# Families that were tried: the map that an HRNet classifies from, and the stages of a ResNet.
NAME = re.compile(r"(hrnet_w\w+|resnet\d+\w*)(\.\w+)?")
NUM_STAGES = 4

# Where timm's first choice of weights is not the one that the official recipe starts from.
OFFICIAL_WEIGHTS = {"resnet50": "resnet50.tv_in1k"}


class Backbone(nn.Module):
    """A feature map of a timm network, its parameters named as in timm.

    HRNet's map is the one that its classifier averages: 2048 channels, made of all four
    resolutions. Nothing is frozen, and batch norm learns along, as in the official METRO.

    Args:
        name: ``hrnet_w64``, ``resnet50`` or another HRNet or ResNet of timm, small ones such as
            ``resnet10t`` and ``hrnet_w18_small`` included. timm's name of certain weights may
            follow a dot.
        pretrained: start from ImageNet weights, fetched once from the Hugging Face hub:
            HRNet's own (``ms_in1k``) and torchvision's first ones of ResNet-50 (``tv_in1k``), as
            the official METRO does.
        num_stages: how many of a ResNet's four stages to use; fewer give a finer map (stride 16,
            8 or 4), for small images.

    Raises:
        UserError: an unknown name, a number of stages that there is not, or weights out of reach.
    """

    def __init__(self, name: str = "hrnet_w64", pretrained: bool = True, num_stages: int = 4):
        super().__init__()
        check_name(name)
        self.is_hrnet = name.startswith("hrnet")
        if not 1 <= num_stages <= NUM_STAGES or (self.is_hrnet and num_stages < NUM_STAGES):
            allowed = f"{NUM_STAGES} for HRNet" if self.is_hrnet else f"1 to {NUM_STAGES}"
            raise UserError(f"backbone_stages must be {allowed}, got {num_stages}")
        parts: dict[str, Any] = (
            {"num_classes": 0} if self.is_hrnet else stages_of_resnet(num_stages)
        )
        weights = OFFICIAL_WEIGHTS.get(name, name)
        body: Any = create_timm_network(weights, pretrained, **parts)
        self.stride: int = 32 if self.is_hrnet else body.feature_info.reduction()[-1]
        self.num_channels: int = (
            body.num_features if self.is_hrnet else body.feature_info.channels()[-1]
        )
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_channels, H / stride, W / stride)."""
        return self.body.forward_features(images) if self.is_hrnet else self.body(images)[-1]


def stages_of_resnet(num_stages: int) -> dict[str, Any]:
    """timm's words for the output of a ResNet's stage; its outputs count from the stem."""
    return {"features_only": True, "out_indices": (num_stages,)}


def check_name(name: str) -> None:
    """Refuse what is not an HRNet or ResNet of timm."""
    if NAME.fullmatch(name) and timm.is_model(name.split(".")[0]):
        return
    known = [model for model in timm.list_models() if NAME.fullmatch(model)]
    nearest = difflib.get_close_matches(name, known, n=3) or ["hrnet_w64", "resnet50", "resnet18"]
    raise UserError(
        f"backbone must be an HRNet or ResNet of timm, such as {', '.join(nearest)}; got {name!r}"
    )

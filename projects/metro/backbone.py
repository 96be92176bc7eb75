"""Image backbone of METRO: one feature map out of a timm network."""

import re
from typing import Any

import timm
from torch import Tensor, nn

from dropkey_core.engine import UserError
from dropkey_core.engine.errors import suggestion
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
        # timm counts a ResNet's stages from the stem.
        resnet = {"features_only": True, "out_indices": (num_stages,)}
        parts: dict[str, Any] = {"num_classes": 0} if self.is_hrnet else resnet
        self.body: Any = create_timm_network(OFFICIAL_WEIGHTS.get(name, name), pretrained, **parts)
        if self.is_hrnet:
            self.stride, self.num_channels = 32, self.body.num_features
        else:
            stages = self.body.feature_info
            self.stride, self.num_channels = stages.reduction()[-1], stages.channels()[-1]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_channels, H / stride, W / stride)."""
        return self.body.forward_features(images) if self.is_hrnet else self.body(images)[-1]


def check_name(name: str) -> None:
    """Refuse what is not an HRNet or ResNet of timm."""
    if not (NAME.fullmatch(name) and timm.is_model(name.split(".")[0])):
        known = [model for model in timm.list_models() if NAME.fullmatch(model)]
        allowed = "backbone must be an HRNet or ResNet of timm, such as hrnet_w64"
        raise UserError(f"{allowed}; got {name!r}{suggestion(name, known)}")

"""ResNet as DETR uses it: batch norm frozen, first stage frozen, last feature map out."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

from dropkey_core.engine.checkpoint import read_checkpoint
from dropkey_core.engine.errors import UserError

NORM_LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "frozen": FrozenBatchNorm2d,
    "batch": nn.BatchNorm2d,
}
STAGES = ("layer1", "layer2", "layer3", "layer4")
TRAINED_STAGES = STAGES[1:]


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """Apply a convolution and its norm, (B, C, H, W) -> (B, C', H', W').

    A frozen norm is a fixed scale and shift per channel. Both go into the convolution, the scale
    into its weights, through which gradients still flow: two passes over the feature map less.
    """
    if not isinstance(norm, FrozenBatchNorm2d):
        return norm(conv(x))
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    weight = conv.weight * scale.view(-1, 1, 1, 1)
    return F.conv2d(
        x, weight.to(x.dtype), shift.to(x.dtype), conv.stride, conv.padding, conv.dilation
    )


def shortcut(block: BasicBlock | Bottleneck, x: Tensor) -> Tensor:
    """The other summand of a residual block: ``x``, projected where the shape changes."""
    return x if block.downsample is None else conv_norm(*block.downsample, x)


class FoldedBasicBlock(BasicBlock):
    """torchvision's two-convolution block with its norms folded (ResNet-18 and 34)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        out = self.relu(conv_norm(self.conv1, self.bn1, x))
        out = conv_norm(self.conv2, self.bn2, out)
        return self.relu(out.add_(shortcut(self, x)))


class FoldedBottleneck(Bottleneck):
    """torchvision's three-convolution block with its norms folded (ResNet-50 and up)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        out = self.relu(conv_norm(self.conv1, self.bn1, x))
        out = self.relu(conv_norm(self.conv2, self.bn2, out))
        out = conv_norm(self.conv3, self.bn3, out)
        return self.relu(out.add_(shortcut(self, x)))


ARCHITECTURES: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet10": (FoldedBasicBlock, [1, 1, 1, 1]),  # small, never pretrained: demos and tests
    "resnet18": (FoldedBasicBlock, [2, 2, 2, 2]),
    "resnet34": (FoldedBasicBlock, [3, 4, 6, 3]),
    "resnet50": (FoldedBottleneck, [3, 4, 6, 3]),
    "resnet101": (FoldedBottleneck, [3, 4, 23, 3]),
}


class ResNetBackbone(nn.Module):
    """The feature map of a ResNet's last stage, in channels-last memory.

    Args:
        name: one of ``ARCHITECTURES``.
        pretrained: start from torchvision's ImageNet-1k weights (the V1 weights that the official
            DETR starts from; fetched once into torch's hub folder), else random.
        norm: ``"frozen"``: batch norm whose statistics and affine never change, with the stem and
            the first stage frozen too, as in the official recipe. ``"batch"``: ordinary trainable
            batch norm and nothing frozen, for training from random weights.
        dilation: keep the last stage at stride 16 instead of 32 (the official DC5 models).
        num_stages: how many of the four stages to use; fewer give a finer map (stride 16, 8 or 4),
            for small images.

    Raises:
        UserError: if ``name`` or ``norm`` is unknown, or the weights cannot be fetched.
    """

    def __init__(
        self,
        name: str = "resnet50",
        pretrained: bool = True,
        norm: str = "frozen",
        dilation: bool = False,
        num_stages: int = 4,
    ) -> None:
        super().__init__()
        _check_choice("backbone", name, ARCHITECTURES)
        _check_choice("backbone_norm", norm, NORM_LAYERS)
        block, depths = ARCHITECTURES[name]
        if not 1 <= num_stages <= len(STAGES):
            raise UserError(f"backbone_stages must be in 1..{len(STAGES)}, got {num_stages}")
        if dilation and block is FoldedBasicBlock:
            raise UserError(f"dilation needs a bottleneck ResNet (resnet50, resnet101), got {name}")
        dilated = [False, False, dilation]
        body = ResNet(
            block, depths, norm_layer=NORM_LAYERS[norm], replace_stride_with_dilation=dilated
        )
        if pretrained:
            body.load_state_dict(_imagenet_weights(name), strict=norm == "batch")
        self.stages = STAGES[:num_stages]
        self.dilation = dilation
        self.num_channels: int = 64 * 2 ** (num_stages - 1) * block.expansion
        for unused in ("avgpool", "fc", *STAGES[num_stages:]):
            delattr(body, unused)
        if norm == "frozen":
            for parameter_name, parameter in body.named_parameters():
                parameter.requires_grad_(parameter_name.startswith(TRAINED_STAGES))
        self.body = body.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_channels, ceil(H/32), ceil(W/32)), or at a finer stride."""
        body = self.body
        x = images.contiguous(memory_format=torch.channels_last)
        x = body.maxpool(body.relu(conv_norm(body.conv1, body.bn1, x)))
        for stage in self.stages:
            x = getattr(body, stage)(x)
        return x


def _imagenet_weights(name: str) -> dict[str, Tensor]:
    if name not in torchvision.models.list_models():
        raise UserError(f"{name} has no ImageNet weights: set model.pretrained_backbone=false")
    weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    try:
        return read_checkpoint(weights.url, "torchvision")
    except UserError as error:
        raise UserError(
            f"no ImageNet weights for {name}: {error}; put the file into "
            f"{torch.hub.get_dir()}/checkpoints, or set model.pretrained_backbone=false"
        ) from error


def _check_choice(setting: str, value: str, choices: dict[str, object]) -> None:
    if value not in choices:
        raise UserError(f"{setting} must be one of {', '.join(choices)}, got {value!r}")

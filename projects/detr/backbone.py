"""ResNet as DETR uses it: batch norm frozen, first stage frozen, last feature map out."""

from collections.abc import Callable, Sequence

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
TOP_DOWN_CHANNELS = 128
NORM_GROUPS = 8


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
        top_down: how many finer stages the last one is merged into, each of which halves the
            stride of the map, see ``TopDown``; 0 gives the last stage's map.

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
        top_down: int = 0,
    ) -> None:
        super().__init__()
        _check_choice("backbone", name, ARCHITECTURES)
        _check_choice("backbone_norm", norm, NORM_LAYERS)
        block, depths = ARCHITECTURES[name]
        if not 1 <= num_stages <= len(STAGES):
            raise UserError(f"backbone_stages must be in 1..{len(STAGES)}, got {num_stages}")
        if not 0 <= top_down < num_stages:
            raise UserError(
                f"backbone_top_down must be in 0..{num_stages - 1}, below backbone_stages, "
                f"got {top_down}"
            )
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
        strides = [4, 8, 16, 16 if dilation else 32][:num_stages]
        self.stride = strides[-1 - top_down]
        self.num_channels: int = 64 * 2 ** (num_stages - 1) * block.expansion
        for unused in ("avgpool", "fc", *STAGES[num_stages:]):
            delattr(body, unused)
        if norm == "frozen":
            for parameter_name, parameter in body.named_parameters():
                parameter.requires_grad_(parameter_name.startswith(TRAINED_STAGES))
        self.body = body.to(memory_format=torch.channels_last)
        self.top_down: TopDown | None = None
        if top_down:
            merged = [self.num_channels // 2**step for step in range(top_down + 1)]
            self.top_down = TopDown(merged).to(memory_format=torch.channels_last)
            self.num_channels = TOP_DOWN_CHANNELS

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_channels, ceil(H/32), ceil(W/32)), or at a finer stride."""
        body = self.body
        x = images.contiguous(memory_format=torch.channels_last)
        x = body.maxpool(body.relu(conv_norm(body.conv1, body.bn1, x)))
        maps = []
        for stage in self.stages:
            x = getattr(body, stage)(x)
            maps.append(x)
        return x if self.top_down is None else self.top_down(maps[::-1])


class TopDown(nn.Module):
    """Merge the coarse maps of a backbone into a finer one (FPN, arXiv 1612.03144, section 3).

    M_l = conv_1x1(C_l) + upsampled(M_l+1), nearest neighbours, and a 3x3 convolution of the last;
    here with group norm before and after it, since nothing is pretrained.

    Args:
        channels: of the maps that are merged, the coarsest first.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        width = TOP_DOWN_CHANNELS
        self.lateral = nn.ModuleList(nn.Conv2d(number, width, kernel_size=1) for number in channels)
        self.output = nn.Sequential(
            nn.GroupNorm(NORM_GROUPS, width),
            nn.Conv2d(width, width, kernel_size=3, padding=1),
            nn.GroupNorm(NORM_GROUPS, width),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C, h, w), coarsest first, as many or more -> that of the last lateral one."""
        merged: Tensor | None = None
        for lateral, x in zip(self.lateral, maps, strict=False):
            side = lateral(x)
            merged = side if merged is None else side + F.interpolate(merged, size=side.shape[-2:])
        return self.output(merged)


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

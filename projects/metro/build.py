"""``build_model``: METRO's sizes, each default written once."""

import os
from collections.abc import Sequence

from dropkey_core.attention import MultiheadAttention, drop_ratios
from dropkey_core.engine import UserError
from projects.metro.backbone import Backbone
from projects.metro.body.model import read_body
from projects.metro.body.skeleton import JOINTS
from projects.metro.encoder import EncoderBlock, PostNormLayer
from projects.metro.losses import MeshLoss
from projects.metro.masking import TokenMasking
from projects.metro.metro import Metro

COORDINATES = 3  # x, y, z: what a token begins and ends with besides the image's channels


def build_model(
    body: str | os.PathLike[str],
    backbone: str = "hrnet_w64",
    image_size: int = 224,
    *,
    pretrained_backbone: bool = True,
    backbone_stages: int = 4,
    embed_dims: Sequence[int] = (1024, 256, 128),
    token_dims: Sequence[int] = (512, 128),
    num_layers: int = 4,
    num_heads: int = 4,
    ffn_dim: int = 3072,
    dropout: float = 0.1,
    drop_ratio: float = 0.3,
    drop_unit: str = "key",
    drop_schedule: str = "linear_decreasing",
    max_masked: float = 0.3,
    interpolated_upsampling: bool = False,
    joints_weight: float = 1000.0,
    vertices_weight: float = 100.0,
    joints_2d_weight: float = 100.0,
    level_weights: Sequence[float] = (0.33, 0.33, 0.33),
) -> Metro:
    """Build METRO with DropKey; the defaults are the official body network's sizes.

    ``drop_unit="weight", drop_ratio=0.1, drop_schedule="constant"`` is the official dropout.

    Args:
        body: the .npz of a body model, see ``read_body``; relative paths lie below the dataset
            root. Its meshes decide how many tokens there are and what they become.
        backbone: see ``Backbone``.
        image_size: side of the square images in pixels, a multiple of the backbone's stride.
        pretrained_backbone: start the backbone from ImageNet weights, fetched once.
        backbone_stages: stages of a ResNet in use; fewer give a finer map, for small images.
        embed_dims: width of the layers of each block.
        token_dims: width of the tokens between the blocks, one fewer than blocks.
        num_layers: layers of each block.
        num_heads: attention heads, a divisor of every width of ``embed_dims``.
        ffn_dim: hidden width of the feed-forward networks, the same in all blocks.
        dropout: ratio of the dropouts outside the attention.
        drop_ratio: ratio at the first of all layers.
        drop_unit: what the attention drops: ``key`` (DropKey), ``weight`` (vanilla dropout) or
            another unit that ``dropkey_core.drop_key_attention`` knows.
        drop_schedule: how the ratio changes from the first block's first layer to the last
            block's last one, see ``dropkey_core.drop_ratios``.
        max_masked: the most joints, and vertices, that masked vertex modelling hides: a part of
            them in [0, 1].
        interpolated_upsampling: let the learned upsampling begin as an interpolation between the
            coarse meshes' vertices, which makes smooth meshes within minutes, rather than at random
            as in the official code.
        joints_weight: see ``MeshLoss``, as the following.
        vertices_weight: of the meshes.
        joints_2d_weight: of the joints in the picture.
        level_weights: of the full mesh and the two coarser ones.

    Returns:
        The model in training mode. In eval mode nothing is dropped or masked.

    Raises:
        UserError: no readable body, an unknown backbone, ImageNet weights out of reach, or sizes
            that do not fit each other.
        ValueError: a ratio outside its range, an unknown schedule or unit.
    """
    check_sizes(embed_dims, token_dims, num_heads, level_weights)
    arrays = read_body(body)
    network = Backbone(backbone, pretrained_backbone, backbone_stages)
    if image_size < network.stride or image_size % network.stride:
        raise UserError(
            f"image_size must be a multiple of the backbone's stride {network.stride}, "
            f"got {image_size}"
        )
    ratios = iter(drop_ratios(num_layers * len(embed_dims), drop_ratio, drop_schedule))
    num_tokens = len(JOINTS) + len(arrays.coarse_vertices[-1])

    def layer(embed_dim: int) -> PostNormLayer:
        attention = MultiheadAttention(
            embed_dim, num_heads, batch_first=True, drop_ratio=next(ratios), unit=drop_unit
        )
        return PostNormLayer(attention, ffn_dim, dropout)

    widths = [network.num_channels + COORDINATES, *token_dims, COORDINATES]
    blocks = [
        EncoderBlock(
            width, next_width, num_tokens, [layer(embed_dim) for _ in range(num_layers)], dropout
        )
        for width, next_width, embed_dim in zip(widths[:-1], widths[1:], embed_dims, strict=True)
    ]
    model = Metro(
        network,
        blocks,
        TokenMasking(len(JOINTS), max_masked),
        arrays,
        image_size,
        MeshLoss(joints_weight, vertices_weight, joints_2d_weight, level_weights),
    )
    if interpolated_upsampling:
        model.upsampling.interpolate(arrays)
    return model


def check_sizes(
    embed_dims: Sequence[int],
    token_dims: Sequence[int],
    num_heads: int,
    level_weights: Sequence[float],
) -> None:
    """Refuse lists of the wrong length and widths that heads cannot share."""
    if len(token_dims) != len(embed_dims) - 1:
        raise UserError(
            "token_dims must have one number less than embed_dims, got "
            f"{len(token_dims)} and {len(embed_dims)}"
        )
    if odd := [width for width in embed_dims if width % num_heads]:
        raise UserError(f"embed_dims must be multiples of num_heads={num_heads}, got {odd[0]}")
    if len(level_weights) != 3:
        raise UserError(
            f"level_weights must have 3 numbers, for the full mesh and two coarser ones, got "
            f"{len(level_weights)}"
        )

"""The one place that knows DETR's sizes."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn

from dropkey_core.attention import MultiheadAttention, drop_ratios
from dropkey_core.engine.errors import UserError
from projects.detr.backbone import ResNetBackbone
from projects.detr.detr import Detr
from projects.detr.losses import DetectionLoss
from projects.detr.position_encoding import SinePositionEncoding
from projects.detr.transformer import Decoder, DecoderLayer, Encoder, EncoderLayer, Transformer

ATTENTION_SITES = ("encoder_self", "decoder_self", "decoder_cross")


class BodyParts(NamedTuple):
    """What a ``DetrBody`` is made of, in the order of its arguments."""

    backbone: ResNetBackbone
    position_encoding: SinePositionEncoding
    transformer: Transformer
    embed_dim: int
    num_queries: int


def build_transformer(
    *,
    embed_dim: int,
    num_heads: int,
    num_encoder_layers: int,
    num_decoder_layers: int,
    ffn_dim: int,
    dropout: float,
    pre_norm: bool,
    drop_ratio: float,
    drop_unit: str,
    drop_schedule: str,
    drop_sites: Sequence[str],
) -> Transformer:
    """DETR's encoder and decoder; see ``build_body`` for the arguments."""
    unknown = [site for site in drop_sites if site not in ATTENTION_SITES]
    if unknown:
        raise UserError(
            f"drop_sites may hold {', '.join(ATTENTION_SITES)}, got {', '.join(map(str, unknown))}"
        )
    ratios = {
        "encoder": drop_ratios(drop_schedule, drop_ratio, num_encoder_layers),
        "decoder": drop_ratios(drop_schedule, drop_ratio, num_decoder_layers),
    }

    def attention(stack: str, kind: str, layer: int) -> MultiheadAttention:
        dropped = f"{stack}_{kind}" in drop_sites
        return MultiheadAttention(
            embed_dim,
            num_heads,
            batch_first=True,
            drop_ratio=ratios[stack][layer] if dropped else 0.0,
            unit=drop_unit,
        )

    encoder = Encoder(
        [
            EncoderLayer(attention("encoder", "self", i), ffn_dim, dropout, pre_norm)
            for i in range(num_encoder_layers)
        ],
        nn.LayerNorm(embed_dim) if pre_norm else None,
    )
    decoder = Decoder(
        [
            DecoderLayer(
                attention("decoder", "self", i),
                attention("decoder", "cross", i),
                ffn_dim,
                dropout,
                pre_norm,
            )
            for i in range(num_decoder_layers)
        ],
        nn.LayerNorm(embed_dim),
    )
    return Transformer(encoder, decoder)


def build_body(
    backbone: str,
    num_queries: int,
    *,
    embed_dim: int = 256,
    num_heads: int = 8,
    num_encoder_layers: int = 6,
    num_decoder_layers: int = 6,
    ffn_dim: int = 2048,
    dropout: float = 0.1,
    pre_norm: bool = False,
    pretrained_backbone: bool = True,
    backbone_norm: str = "frozen",
    backbone_stages: int = 4,
    dilation: bool = False,
    position_temperature: float = 10_000.0,
    drop_ratio: float = 0.3,
    drop_unit: str = "key",
    drop_schedule: str = "linear_decreasing",
    drop_sites: Sequence[str] = ATTENTION_SITES,
) -> BodyParts:
    """Build all of DETR but heads and loss; the defaults are the official sizes, with DropKey.

    Args:
        backbone: ``resnet18``, ``resnet34``, ``resnet50`` or ``resnet101``.
        num_queries: the most objects (or pairs) found in an image.
        embed_dim: channels of the transformer.
        num_heads: attention heads.
        num_encoder_layers: layers of the encoder.
        num_decoder_layers: layers of the decoder.
        ffn_dim: hidden width of the feed-forward networks.
        dropout: ratio of the feed-forward and residual dropouts; not of the attention's.
        pre_norm: normalise before the sub-layers instead of after them.
        pretrained_backbone: start the backbone from ImageNet weights, fetched once.
        backbone_norm: ``frozen`` or ``batch``, see ``ResNetBackbone``.
        backbone_stages: ResNet stages in use; fewer give a finer feature map, for small images.
        dilation: feature map at stride 16 instead of 32.
        position_temperature: longest over shortest wavelength of the position encoding; about 20
            tells the cells of a small feature map better apart.
        drop_ratio: ratio at the first layer of encoder and of decoder.
        drop_unit: what the attention drops: ``key`` (DropKey), ``weight`` (vanilla dropout) or
            another unit that ``dropkey_core.drop_key_attention`` knows.
        drop_schedule: how the ratio changes with depth in each stack, see
            ``dropkey_core.drop_ratios``.
        drop_sites: which attentions drop: of ``encoder_self``, ``decoder_self``,
            ``decoder_cross``.

    Raises:
        UserError: unknown backbone, norm or site, or ImageNet weights out of reach.
        ValueError: a ratio outside [0, 1), an unknown schedule or unit, sizes that do not fit.
    """
    transformer = build_transformer(
        embed_dim=embed_dim,
        num_heads=num_heads,
        num_encoder_layers=num_encoder_layers,
        num_decoder_layers=num_decoder_layers,
        ffn_dim=ffn_dim,
        dropout=dropout,
        pre_norm=pre_norm,
        drop_ratio=drop_ratio,
        drop_unit=drop_unit,
        drop_schedule=drop_schedule,
        drop_sites=drop_sites,
    )
    return BodyParts(
        ResNetBackbone(backbone, pretrained_backbone, backbone_norm, dilation, backbone_stages),
        SinePositionEncoding(embed_dim, position_temperature),
        transformer,
        embed_dim,
        num_queries,
    )


def shows_body_settings(build: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function that ends in ``**body``, for ``build_body``, show these settings one by one.

    Its signature and annotations then name them all, for ``help`` and for the check of configs.
    """
    own = inspect.signature(build)
    named = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    settings = inspect.signature(build_body).parameters
    further = [p for name, p in settings.items() if name not in own.parameters]
    build.__signature__ = own.replace(parameters=[*named, *further])  # type: ignore[attr-defined]
    hints = {p.name: p.annotation for p in [*named, *further]}
    build.__annotations__ = {**hints, "return": own.return_annotation}
    return build


@shows_body_settings
def build_model(
    backbone: str = "resnet50",
    num_classes: int = 91,
    num_queries: int = 100,
    class_weight: float = 1.0,
    l1_weight: float = 5.0,
    giou_weight: float = 2.0,
    no_object_weight: float = 0.1,
    **body: Any,
) -> Detr:
    """Build DETR with DropKey; the defaults are the official R50 model.

    Args:
        backbone: see ``build_body``.
        num_classes: size of the class head, without "no object". The official COCO checkpoints
            have 91: their class index is COCO's category id.
        num_queries: the most objects found in an image.
        class_weight: weight of the class term in loss and matching.
        l1_weight: weight of the L1 box term in loss and matching.
        giou_weight: weight of the generalised-IoU term in loss and matching.
        no_object_weight: class weight of "no object" in the classification loss.
        body: what else ``build_body`` takes, with its defaults.

    Returns:
        The model in training mode. In eval mode nothing is dropped.

    Raises:
        UserError: see ``build_body``.
        ValueError: see ``build_body``.
    """
    return Detr(
        *build_body(backbone, num_queries, **body),
        num_classes,
        DetectionLoss(class_weight, l1_weight, giou_weight, no_object_weight),
    )

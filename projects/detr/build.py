"""``build_model``: DETR's sizes, each default written once."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from dropkey_core.attention import MultiheadAttention, drop_ratios
from dropkey_core.engine.errors import UserError
from projects.detr.backbone import ResNetBackbone
from projects.detr.box_decoder import BoxDecoder, BoxDecoderLayer, ConditionalAttention
from projects.detr.box_detr import BoxDetr
from projects.detr.detr import BodyParts, Detr
from projects.detr.losses import DetectionLoss
from projects.detr.position_encoding import SinePositionEncoding
from projects.detr.transformer import Decoder, DecoderLayer, Encoder, EncoderLayer, Transformer

ATTENTION_SITES = ("encoder_self", "decoder_self", "decoder_cross")


@dataclass(frozen=True, kw_only=True)
class BodySettings:
    """Sizes of all of DETR but heads and loss, and what its attention drops.

    The defaults are the official sizes, with DropKey; each is written here alone.

    Attributes:
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
        backbone_top_down: finer stages that the last one is merged into, see ``ResNetBackbone``;
            each halves the stride, for small objects.
        canvas: the least height and width, in pixels, that images are padded to. On images of a few
            cells the padding of a batch shows in the boxes; with all of them on one canvas, an
            image alone gets the boxes that it gets in a batch.
        query_boxes: queries are boxes that each layer of the decoder refines, see ``BoxDecoder``.
        position_temperature: longest over shortest wavelength of the position encoding; about 20
            tells the cells of a small feature map better apart.
        checkpoint_layers: in training compute each layer of the transformer once more for its
            gradient rather than keep what is inside: less memory, the same numbers.
        drop_ratio: ratio at the first layer of encoder and of decoder.
        drop_unit: what the attention drops: ``key`` (DropKey), ``weight`` (vanilla dropout) or
            another unit that ``dropkey_core.drop_key_attention`` knows.
        drop_schedule: how the ratio changes with depth in each stack, see
            ``dropkey_core.drop_ratios``.
        drop_sites: which attentions drop: of ``encoder_self``, ``decoder_self``,
            ``decoder_cross``.

    Raises:
        UserError: an unknown site.
    """

    backbone: str = "resnet50"
    num_queries: int = 100
    embed_dim: int = 256
    num_heads: int = 8
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    ffn_dim: int = 2048
    dropout: float = 0.1
    pre_norm: bool = False
    pretrained_backbone: bool = True
    backbone_norm: str = "frozen"
    backbone_stages: int = 4
    dilation: bool = False
    backbone_top_down: int = 0
    canvas: int = 0
    query_boxes: bool = False
    position_temperature: float = 10_000.0
    checkpoint_layers: bool = False
    drop_ratio: float = 0.3
    drop_unit: str = "key"
    drop_schedule: str = "linear_decreasing"
    drop_sites: Sequence[str] = ATTENTION_SITES

    def __post_init__(self) -> None:
        if unknown := [str(site) for site in self.drop_sites if site not in ATTENTION_SITES]:
            raise UserError(
                f"drop_sites may hold {', '.join(ATTENTION_SITES)}, got {', '.join(unknown)}"
            )


def build_transformer(body: BodySettings) -> Transformer:
    """DETR's encoder and decoder."""

    def attention(site: str, ratio: float) -> MultiheadAttention:
        dropping = {
            "drop_ratio": ratio if site in body.drop_sites else 0.0,
            "unit": body.drop_unit,
        }
        if body.query_boxes and site == "decoder_cross":
            return ConditionalAttention(body.embed_dim, body.num_heads, **dropping)
        return MultiheadAttention(body.embed_dim, body.num_heads, batch_first=True, **dropping)

    further = (body.ffn_dim, body.dropout, body.pre_norm)
    encoder = [
        EncoderLayer(attention("encoder_self", ratio), *further)
        for ratio in drop_ratios(body.num_encoder_layers, body.drop_ratio, body.drop_schedule)
    ]
    layer = BoxDecoderLayer if body.query_boxes else DecoderLayer
    decoder = [
        layer(attention("decoder_self", ratio), attention("decoder_cross", ratio), *further)
        for ratio in drop_ratios(body.num_decoder_layers, body.drop_ratio, body.drop_schedule)
    ]
    for each in (*encoder, *decoder):
        each.checkpointed = body.checkpoint_layers
    encoder_norm = nn.LayerNorm(body.embed_dim) if body.pre_norm else None
    norm = nn.LayerNorm(body.embed_dim)
    if body.query_boxes:
        encoding = SinePositionEncoding(body.embed_dim, body.position_temperature)
        return Transformer(Encoder(encoder, encoder_norm), BoxDecoder(decoder, norm, encoding))
    return Transformer(Encoder(encoder, encoder_norm), Decoder(decoder, norm))


def build_body(body: BodySettings) -> BodyParts:
    """Build all of DETR but heads and loss.

    Raises:
        UserError: unknown backbone or norm, or ImageNet weights out of reach.
        ValueError: a ratio outside [0, 1), an unknown schedule or unit, sizes that do not fit.
    """
    transformer = build_transformer(body)
    backbone = ResNetBackbone(
        body.backbone,
        body.pretrained_backbone,
        body.backbone_norm,
        body.dilation,
        body.backbone_stages,
        body.backbone_top_down,
    )
    position_encoding = SinePositionEncoding(body.embed_dim, body.position_temperature)
    sizes = (body.embed_dim, body.num_queries, body.canvas)
    return BodyParts(backbone, position_encoding, transformer, *sizes)


def build_model(
    backbone: str = BodySettings.backbone,
    num_classes: int = 91,
    num_queries: int = BodySettings.num_queries,
    class_weight: float = 1.0,
    l1_weight: float = 5.0,
    giou_weight: float = 2.0,
    no_object_weight: float = 0.1,
    *,
    embed_dim: int = BodySettings.embed_dim,
    num_heads: int = BodySettings.num_heads,
    num_encoder_layers: int = BodySettings.num_encoder_layers,
    num_decoder_layers: int = BodySettings.num_decoder_layers,
    ffn_dim: int = BodySettings.ffn_dim,
    dropout: float = BodySettings.dropout,
    pre_norm: bool = BodySettings.pre_norm,
    pretrained_backbone: bool = BodySettings.pretrained_backbone,
    backbone_norm: str = BodySettings.backbone_norm,
    backbone_stages: int = BodySettings.backbone_stages,
    dilation: bool = BodySettings.dilation,
    backbone_top_down: int = BodySettings.backbone_top_down,
    canvas: int = BodySettings.canvas,
    query_boxes: bool = BodySettings.query_boxes,
    select_queries: bool = False,
    focal: bool = False,
    position_temperature: float = BodySettings.position_temperature,
    checkpoint_layers: bool = BodySettings.checkpoint_layers,
    drop_ratio: float = BodySettings.drop_ratio,
    drop_unit: str = BodySettings.drop_unit,
    drop_schedule: str = BodySettings.drop_schedule,
    drop_sites: Sequence[str] = BodySettings.drop_sites,
) -> Detr:
    """Build DETR with DropKey; the defaults are the official R50 model.

    Args:
        backbone: see ``BodySettings``.
        num_classes: size of the class head, without "no object". The official COCO checkpoints
            have 91: their class index is COCO's category id.
        num_queries: the most objects found in an image.
        class_weight: weight of the class term in loss and matching.
        l1_weight: weight of the L1 box term in loss and matching.
        giou_weight: weight of the generalised-IoU term in loss and matching.
        no_object_weight: class weight of "no object" in the classification loss.
        embed_dim: see ``BodySettings``, as what is not said here.
        select_queries: queries begin as the surest cells of the encoder, see ``CellDetector``;
            needs ``query_boxes`` and ``focal``.
        focal: each class has a sigmoid of its own, judged by ``focal_loss``; ``class_weight`` 2
            is usual for it.

    Returns:
        The model in training mode. In eval mode nothing is dropped.

    Raises:
        UserError: see ``BodySettings`` and ``build_body``; an option without what it needs.
        ValueError: see ``build_body``.
    """
    if select_queries and not (query_boxes and focal):
        raise UserError("select_queries needs query_boxes=true and focal=true: set them as well")
    body = BodySettings(
        backbone=backbone,
        num_queries=num_queries,
        embed_dim=embed_dim,
        num_heads=num_heads,
        num_encoder_layers=num_encoder_layers,
        num_decoder_layers=num_decoder_layers,
        ffn_dim=ffn_dim,
        dropout=dropout,
        pre_norm=pre_norm,
        pretrained_backbone=pretrained_backbone,
        backbone_norm=backbone_norm,
        backbone_stages=backbone_stages,
        dilation=dilation,
        backbone_top_down=backbone_top_down,
        canvas=canvas,
        query_boxes=query_boxes,
        position_temperature=position_temperature,
        checkpoint_layers=checkpoint_layers,
        drop_ratio=drop_ratio,
        drop_unit=drop_unit,
        drop_schedule=drop_schedule,
        drop_sites=drop_sites,
    )
    loss = DetectionLoss(class_weight, l1_weight, giou_weight, no_object_weight, focal)
    parts = build_body(body)
    if query_boxes:
        return BoxDetr(parts, num_classes, loss, select_queries)
    return Detr(parts, num_classes, loss)

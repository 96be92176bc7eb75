"""``build_model``: QPIC's sizes, as far as they are not DETR's."""

from collections.abc import Sequence

from projects.detr.build import BodySettings, build_body
from projects.qpic.losses import InteractionLoss
from projects.qpic.qpic import Qpic


def build_model(
    backbone: str = BodySettings.backbone,
    num_object_classes: int = 80,
    num_verb_classes: int = 117,
    num_queries: int = BodySettings.num_queries,
    object_weight: float = 1.0,
    verb_weight: float = 1.0,
    l1_weight: float = 2.5,
    giou_weight: float = 1.0,
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
    canvas: int = BodySettings.canvas,
    position_temperature: float = BodySettings.position_temperature,
    checkpoint_layers: bool = BodySettings.checkpoint_layers,
    drop_ratio: float = BodySettings.drop_ratio,
    drop_unit: str = BodySettings.drop_unit,
    drop_schedule: str = BodySettings.drop_schedule,
    drop_sites: Sequence[str] = BodySettings.drop_sites,
) -> Qpic:
    """Build QPIC with DropKey; the defaults are the official R50 model for HICO-DET.

    Args:
        backbone: see ``projects.detr.build.BodySettings``.
        num_object_classes: size of the object head, without "no object".
        num_verb_classes: size of the verb head.
        num_queries: the most pairs found in an image.
        object_weight: weight of the object class in loss and matching.
        verb_weight: weight of the verbs in loss and matching.
        l1_weight: weight of the L1 box terms in loss and matching.
        giou_weight: weight of the generalised-IoU terms in loss and matching.
        no_object_weight: class weight of "no object" in the object classification loss.
        embed_dim: see ``BodySettings``, as the following.

    Returns:
        The model in training mode. In eval mode nothing is dropped.

    Raises:
        UserError: see ``BodySettings`` and ``build_body``.
        ValueError: see ``build_body``.
    """
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
        canvas=canvas,
        position_temperature=position_temperature,
        checkpoint_layers=checkpoint_layers,
        drop_ratio=drop_ratio,
        drop_unit=drop_unit,
        drop_schedule=drop_schedule,
        drop_sites=drop_sites,
    )
    return Qpic(
        build_body(body),
        num_object_classes,
        num_verb_classes,
        InteractionLoss(object_weight, verb_weight, l1_weight, giou_weight, no_object_weight),
    )

"""DETR among detectron2's models: for its LazyConfigs and, as a meta-architecture, for yacs."""

import functools
from typing import Any

from torch import nn

from dropkey_core.detectron2 import (
    META_ARCH_REGISTRY,
    CfgNode,
    arguments_node,
    arguments_of,
    with_instances,
)
from dropkey_core.engine import UserError
from projects.detr.build import build_model
from projects.detr.coco import COCO_CATEGORY_IDS

OFFICIAL_NUM_CLASSES = 91  # class indices that are COCO's category ids, see ``CategoryMap``


@functools.wraps(build_model, assigned=("__annotations__",))
def build_detector(**settings: Any) -> nn.Module:
    """Build DETR for detectron2's samples and ``Instances``, see ``with_instances``.

    Args:
        settings: those of ``build_model``. With ``num_classes`` 91, the official DETR's, the model
            is numbered by COCO's category ids and detectron2 sees COCO's 80 classes; with any other
            number both count alike.

    Returns:
        The model in training mode; its parameters are named as without detectron2.
    """
    model = build_model(**settings)
    is_official = model.class_embed.out_features == OFFICIAL_NUM_CLASSES + 1
    return with_instances(model, sorted(COCO_CATEGORY_IDS) if is_official else None)


def add_dropkey_detr_config(cfg: CfgNode) -> None:
    """Let a config of detectron2 describe this DETR.

    It gets the node ``MODEL.DROPKEY_DETR``, the arguments of ``build_model`` with their defaults,
    and ``INPUT.FORMAT`` becomes RGB. ``MODEL.META_ARCHITECTURE = "build_dropkey_detr"`` chooses it.

    Args:
        cfg: of ``detectron2.config.get_cfg``.
    """
    cfg.MODEL.DROPKEY_DETR = arguments_node(build_model)
    cfg.INPUT.FORMAT = "RGB"


@META_ARCH_REGISTRY.register()
def build_dropkey_detr(cfg: CfgNode) -> nn.Module:
    """Build what ``cfg.MODEL.DROPKEY_DETR`` describes, see ``build_detector``.

    The backbone's ImageNet weights are not fetched where ``MODEL.WEIGHTS`` replaces them.

    Raises:
        UserError: ``INPUT.FORMAT`` is not RGB.
    """
    if cfg.INPUT.FORMAT != "RGB":
        raise UserError(f"INPUT.FORMAT must be RGB for DETR, got {cfg.INPUT.FORMAT}")
    settings = arguments_of(cfg.MODEL.DROPKEY_DETR)
    settings["pretrained_backbone"] &= not cfg.MODEL.WEIGHTS
    return build_detector(**settings)

"""The one place that knows QPIC's sizes, as far as they are not DETR's."""

from typing import Any

from projects.detr.build import build_body, shows_body_settings
from projects.qpic.losses import InteractionLoss
from projects.qpic.qpic import Qpic


@shows_body_settings
def build_model(
    backbone: str = "resnet50",
    num_object_classes: int = 80,
    num_verb_classes: int = 117,
    num_queries: int = 100,
    object_weight: float = 1.0,
    verb_weight: float = 1.0,
    l1_weight: float = 2.5,
    giou_weight: float = 1.0,
    no_object_weight: float = 0.1,
    **body: Any,
) -> Qpic:
    """Build QPIC with DropKey; the defaults are the official R50 model for HICO-DET.

    Args:
        backbone: see ``projects.detr.build.build_body``.
        num_object_classes: size of the object head, without "no object".
        num_verb_classes: size of the verb head.
        num_queries: the most pairs found in an image.
        object_weight: weight of the object class in loss and matching.
        verb_weight: weight of the verbs in loss and matching.
        l1_weight: weight of the L1 box terms in loss and matching.
        giou_weight: weight of the generalised-IoU terms in loss and matching.
        no_object_weight: class weight of "no object" in the object classification loss.
        body: what else ``build_body`` takes, with its defaults.

    Returns:
        The model in training mode. In eval mode nothing is dropped.

    Raises:
        UserError: see ``build_body``.
        ValueError: see ``build_body``.
    """
    return Qpic(
        *build_body(backbone, num_queries, **body),
        num_object_classes,
        num_verb_classes,
        InteractionLoss(object_weight, verb_weight, l1_weight, giou_weight, no_object_weight),
    )

"""Mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899), timm's.

Shapes: B images, K classes.
"""

from collections.abc import Callable
from typing import cast

from timm.data import Mixup
from torch import Tensor

from dropkey_core.engine import UserError

# images (B, 3, S, S), which it may change, and labels (B,) -> mixed images and targets (B, K)
Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def build_mixing(
    mixup: float, cutmix: float, label_smoothing: float, num_classes: int
) -> Mixing | None:
    """Mix each batch with itself in reverse; with both, one of them at random at each step.

    What is drawn comes from numpy's global generator, which the engine seeds at every step.

    Args:
        mixup: alpha of the Beta(alpha, alpha) that the share of each image follows; 0 is none.
        cutmix: the same of the share of the area.
        label_smoothing: part of each target that is spread over all classes.
        num_classes: K.

    Returns:
        the mixing, or None if both are 0; a negative alpha is a ValueError.
    """
    for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
        if not alpha >= 0.0:
            raise ValueError(f"{name} must be 0 or above, got {alpha}")
    if not mixup and not cutmix:
        return None
    mixing = Mixup(mixup, cutmix, label_smoothing=label_smoothing, num_classes=num_classes)
    return cast(Mixing, mixing)


def mix(mixing: Mixing, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mix images (B, 3, S, S), which may be overwritten, and their labels (B,) int64.

    Returns:
        mixed images and their targets (B, K), which sum to 1.

    Raises:
        UserError: B is odd; timm mixes pairs.
    """
    if len(images) % 2:
        raise UserError(
            f"mixup and cutmix mix pairs, got a batch of {len(images)}: make "
            "dataloader.train.total_batch_size an even number for each process"
        )
    return mixing(images, labels)

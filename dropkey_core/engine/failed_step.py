"""A step whose loss is no number: told so that it can be looked at."""

from typing import Any

import torch
from torch import Tensor

from dropkey_core.engine.errors import UserError


def check_finite(
    total: Tensor, losses: dict[str, Tensor], batch: list[dict[str, Any]], step: int
) -> None:
    """Stop a run whose loss is no number.

    Raises:
        UserError: naming the step, the terms and the images.
    """
    if torch.isfinite(total):
        return
    terms = ", ".join(
        f"{name} {loss.item()}" for name, loss in losses.items() if not torch.isfinite(loss)
    )
    images = ", ".join(str(sample.get("image_id")) for sample in batch)
    raise UserError(
        f"the loss of step {step} is not finite: {terms or total.item()} (image ids {images}); "
        "lower optimizer.lr, or set train.amp.enabled=false"
    )

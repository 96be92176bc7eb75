"""Mixed precision: float16 in the forward, a scaled loss, and steps left out when it overflows.

The scaler multiplies the loss so that small gradients do not vanish in float16. Where one
overflows it leaves out the step and halves the scale; after 2,000 good steps in a row it doubles
it. A step that is left out counts as a step all the same: data, learning rate and checkpoints go on
as in detectron2.
"""

from typing import Any

import torch

from dropkey_core.engine.errors import UserError

# Below this a loss of 1 is no normal float16 any more: it is not the scale that is too large.
LEAST_SCALE = 2.0**-14


def mixed_precision(device: str) -> Any:
    """Return Lightning's plugin for ``device``, which leaves the model's input as it is."""
    from lightning.fabric.plugins import MixedPrecision

    class MixedPrecisionForward(MixedPrecision):
        """float16 in the forward; Lightning's own would also round the true boxes to float16."""

        def convert_input(self, data: Any) -> Any:
            return data

    return MixedPrecisionForward(precision="16-mixed", device=device)


def measure_overflow(
    precision: Any, optimizer: torch.optim.Optimizer, step: int
) -> dict[str, float]:
    """Return ``loss_scale`` and ``skipped_steps`` since the run began; nothing without a scaler.

    Args:
        precision: Lightning's plugin.
        optimizer: counts the steps that it did, and keeps the count in its state.
        step: steps of the run.

    Raises:
        UserError: if the scale has fallen so low that gradients overflow whatever it is.
    """
    scaler = getattr(precision, "scaler", None)
    if scaler is None:
        return {}
    scale = float(scaler.get_scale())
    if scale < LEAST_SCALE:
        raise UserError(
            f"step {step}: in mixed precision no gradients are finite, with the loss scaled by "
            f"{scale:.3g} only; try train.amp.enabled=false or a lower optimizer.lr"
        )
    done = max((float(state["step"]) for state in optimizer.state.values()), default=0.0)
    return {"loss_scale": scale, "skipped_steps": step - done}

"""Precision: the dtype of the forward, of float32 matrix products, and what stays float32.

In mixed precision the forward is bfloat16 where the device computes in it, by torch's autocast.
Elsewhere on CUDA it is float16, and a scaler multiplies the loss so that small gradients do not
vanish. Where one overflows it leaves out the step, which counts all the same, and halves the scale;
after 2,000 good steps in a row it doubles it. On a CPU without bfloat16 it stays float32: imitating
it takes ten times as long and more (pytorch#118499).
"""

from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig

from dropkey_core.engine.errors import UserError

if TYPE_CHECKING:
    from lightning.fabric.plugins import Precision

# Below this a loss of 1 is no normal float16 any more: it is not the scale that is too large.
LEAST_SCALE = 2.0**-14


def check_precision(train: DictConfig) -> None:
    """Raise UserError if ``train.device`` cannot do ``train.amp.dtype``."""
    dtype, device = amp_dtype(train), train.device
    other = "leave the dtype out, or train.amp.enabled=false"
    if dtype is torch.float16 and device != "cuda":
        raise UserError(f"train.amp.dtype float16 needs a CUDA device, not {device}: {other}")
    if dtype is torch.bfloat16 and device != "cpu" and not has_bfloat16(device):
        raise UserError(f"train.amp.dtype: this {device} device has no bfloat16: {other}")


def amp_dtype(train: DictConfig) -> torch.dtype | None:
    """Return the dtype of the forward in mixed precision, None where it stays float32.

    Left open it is bfloat16 where the device computes in it, else float16 on CUDA.
    """
    if not train.amp.enabled:
        return None
    if train.amp.dtype is not None:
        return getattr(torch, train.amp.dtype.name)
    if has_bfloat16(train.device):
        return torch.bfloat16
    return torch.float16 if train.device == "cuda" else None


def has_bfloat16(device: str) -> bool:
    """Return whether a device computes in bfloat16, and does not imitate it."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "mps":
        try:
            torch.zeros(1, dtype=torch.bfloat16, device="mps")
        except (TypeError, RuntimeError):  # macOS before 14
            return False
        return True
    if not torch.backends.mkldnn.is_available():
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # AVX-512, AMX, bf16 of ARM


def precision_of(train: DictConfig) -> "Precision":
    """Choose the precision of a run, the one place that does.

    ``train.float32_precision`` is given to ``torch.set_float32_matmul_precision`` on CUDA: "high"
    is TF32 where the GPU has it. On a CPU torch's own setting stays.

    Returns:
        Lightning's plugin for ``train.amp``: casts the forward, scales the loss.
    """
    from lightning.fabric.plugins import MixedPrecision, Precision

    if train.device == "cuda":
        torch.set_float32_matmul_precision(train.float32_precision.name)
        torch.backends.cudnn.allow_tf32 = train.float32_precision.name != "highest"
    dtype = amp_dtype(train)
    if dtype is None:
        return Precision()
    is_float16 = dtype is torch.float16
    plugin: Any = MixedPrecision("16-mixed" if is_float16 else "bf16-mixed", device=train.device)
    plugin.convert_input = lambda data: data  # its own would also round the true boxes
    return plugin


def describe_precision(train: DictConfig) -> str:
    """Return in words what :func:`precision_of` chooses."""
    matmul = train.float32_precision.name if train.device == "cuda" else "torch's own"
    dtype = amp_dtype(train)
    amp = "off" if dtype is None else str(dtype).removeprefix("torch.")
    if train.amp.enabled and not (dtype is torch.float16 or has_bfloat16(train.device)):
        slowly = "" if dtype is None else ", much slower than train.amp.enabled=false"
        amp += f" (this {train.device} device has no bfloat16{slowly})"
    return f"on {train.device}; mixed precision {amp}; float32 matrix products {matmul}"


def in_float32(device: torch.device) -> torch.autocast:
    """Return a context without autocast on ``device``: for losses, matching, boxes and meshes.

    What autocast has made must be cast by ``.float()`` inside.
    """
    return torch.autocast(device.type, enabled=False)


def measure_overflow(
    precision: Any, optimizer: torch.optim.Optimizer, step: int
) -> dict[str, float]:
    """Return ``loss_scale`` and ``skipped_steps`` since the run began; nothing without a scaler.

    Args:
        precision: Lightning's plugin.
        optimizer: one of Adam's keeps in its state how many steps it did; of others only the scale
            is told.
        step: steps of the run.

    Raises:
        UserError: the scale has fallen so low that gradients overflow whatever it is.
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
    if not isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):  # keeps no count
        return {"loss_scale": scale}
    done = max((float(state["step"]) for state in optimizer.state.values()), default=0.0)
    return {"loss_scale": scale, "skipped_steps": step - done}

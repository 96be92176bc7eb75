"""The drop ratio of each layer.

The paper lowers the ratio linearly with depth (arXiv 2208.02646, section 3.2) and compares that
with a constant and a rising ratio (Table 1).
"""

from collections.abc import Callable

# Layer l of L, counted from 0, gets ratio * factor(l, L).
_FACTORS: dict[str, Callable[[int, int], float]] = {
    "constant": lambda layer, num_layers: 1.0,
    "linear_decreasing": lambda layer, num_layers: 1.0 - layer / num_layers,
    "linear_increasing": lambda layer, num_layers: (layer + 1) / num_layers,
}


def drop_ratios(schedule: str, ratio: float, num_layers: int) -> list[float]:
    """Spread a drop ratio over the layers of one stack, first layer first.

    With l = 0 ... L - 1 the layer and L = ``num_layers``, layer l gets

    ==================== ======================== ============= ============
    schedule             ratio of layer l         first layer   last layer
    ==================== ======================== ============= ============
    "constant"           ratio                    ratio         ratio
    "linear_decreasing"  ratio * (1 - l / L)      ratio         ratio / L
    "linear_increasing"  ratio * (l + 1) / L      ratio / L     ratio
    ==================== ======================== ============= ============

    The paper says where the decreasing ratio starts, not where it ends. It ends at ``ratio / L``
    here and not at 0, so that every layer is regularised, a single layer gets ``ratio`` itself,
    and rising and falling are each other's mirror image with the same mean.

    Args:
        schedule: "constant", "linear_decreasing" (the paper's) or "linear_increasing".
        ratio: probability in [0, 1) that a key is dropped; the largest one of the schedule.
        num_layers: number of layers in the stack, at least 1.

    Returns:
        ``num_layers`` ratios, each in [0, ``ratio``].

    Raises:
        ValueError: an unknown ``schedule``, a ``ratio`` outside [0, 1), no layers.
    """
    if schedule not in _FACTORS:
        raise ValueError(f"schedule must be one of {', '.join(_FACTORS)}, got {schedule!r}")
    if num_layers < 1:
        raise ValueError(f"num_layers must be at least 1, got {num_layers}")
    check_drop_ratio(ratio)
    factor = _FACTORS[schedule]
    return [ratio * factor(layer, num_layers) for layer in range(num_layers)]


def check_drop_ratio(drop_ratio: float) -> None:
    """Raise a ``ValueError`` that names the ratio, unless it is in [0, 1)."""
    if not 0.0 <= drop_ratio < 1.0:  # also refuses nan
        raise ValueError(f"drop_ratio must be in [0, 1), got {drop_ratio}")

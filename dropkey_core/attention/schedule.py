"""Drop ratio schedules over the depth of a network.

The paper lowers the ratio linearly with depth (arXiv 2208.02646, section 3.2) and compares that
with a constant and a rising ratio (Table 1).
"""

import math
from collections.abc import Callable


def _constant(layer: int, num_layers: int) -> float:
    return 1.0


def _linear_decreasing(layer: int, num_layers: int) -> float:
    return 1.0 - layer / num_layers


def _linear_increasing(layer: int, num_layers: int) -> float:
    return (layer + 1) / num_layers


def _cosine(layer: int, num_layers: int) -> float:
    last = 1.0 / num_layers
    return last + (1.0 - last) * (1.0 + math.cos(math.pi * _depth(layer, num_layers))) / 2.0


def _exponential(layer: int, num_layers: int) -> float:
    return float(num_layers) ** -_depth(layer, num_layers)


def _depth(layer: int, num_layers: int) -> float:
    """Return 0 for the first layer ... 1 for the last; 0 for a single one."""
    return layer / max(num_layers - 1, 1)


# Layer l of L, counted from 0, gets ratio * factor(l, L).
_FACTORS: dict[str, Callable[[int, int], float]] = {
    "constant": _constant,
    "linear_decreasing": _linear_decreasing,
    "linear_increasing": _linear_increasing,
    "cosine": _cosine,
    "exponential": _exponential,
}


def drop_ratios(schedule: str, ratio: float, num_layers: int) -> list[float]:
    """Spread a drop ratio over the layers of one stack, first layer first.

    With l = 0 ... L - 1 the layer, L = ``num_layers`` and x = l / (L - 1), layer l gets

    ==================== ================================================= =========== ===========
    schedule             ratio of layer l                                  first layer last layer
    ==================== ================================================= =========== ===========
    "constant"           ratio                                             ratio       ratio
    "linear_decreasing"  ratio * (1 - l / L)                               ratio       ratio / L
    "linear_increasing"  ratio * (l + 1) / L                               ratio / L   ratio
    "cosine"             ratio * (1/L + (1 - 1/L) * (1 + cos(pi * x)) / 2) ratio       ratio / L
    "exponential"        ratio * L^-x                                      ratio       ratio / L
    ==================== ================================================= =========== ===========

    The first three are the rows "Constant", "Scheduled (down)" and "Scheduled (up)" of the paper's
    Table 1, where arrows stand for down and up. The paper says where the decreasing ratio starts,
    not where it ends. It ends at ``ratio / L`` here and not at 0, so that every layer is
    regularised, a single layer gets ``ratio`` itself, and rising and falling are each other's
    mirror image with the same mean. The other two fall between the same ends: "cosine" slowly at
    first and at last, "exponential" by the same factor from layer to layer.

    Args:
        schedule: one of the table. "linear_decreasing" is the paper's.
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

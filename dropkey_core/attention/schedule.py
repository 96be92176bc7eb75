"""Drop ratio schedules over the depth of a network.

The paper lowers the ratio linearly with depth (arXiv 2208.02646, section 3.2) and compares that
with a constant and a rising ratio (Table 1).
"""

import math
from collections.abc import Callable, Sequence

import torch


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


# (l, L) -> factor: layer l of L, counted from 0, gets drop_ratio * factor.
Schedule = Callable[[int, int], float]

LINEAR_DECREASING = "linear_decreasing"  # the paper's, and everywhere the default

_FACTORS: dict[str, Schedule] = {
    "constant": _constant,
    LINEAR_DECREASING: _linear_decreasing,
    "linear_increasing": _linear_increasing,
    "cosine": _cosine,
    "exponential": _exponential,
}


def drop_ratios(
    num_layers: int,
    drop_ratio: float | Sequence[float],
    schedule: str | Schedule = LINEAR_DECREASING,
) -> list[float]:
    """Spread a drop ratio over the layers of one stack, first layer first.

    With l = 0 ... L - 1 the layer, L = ``num_layers``, r = ``drop_ratio`` and x = l / (L - 1),
    layer l gets

    | schedule              | ratio of layer l                              | first | last  |
    |-----------------------|-----------------------------------------------|-------|-------|
    | `"constant"`          | r                                             | r     | r     |
    | `"linear_decreasing"` | r * (1 - l / L)                               | r     | r / L |
    | `"linear_increasing"` | r * (l + 1) / L                               | r / L | r     |
    | `"cosine"`            | r * (1/L + (1 - 1/L) * (1 + cos(pi * x)) / 2) | r     | r / L |
    | `"exponential"`       | r * L^-x                                      | r     | r / L |
    | a callable            | r * schedule(l, L)                            |       |       |

    The first three are the rows "Constant", "Scheduled (down)" and "Scheduled (up)" of the paper's
    Table 1, where arrows stand for down and up. The paper says where the decreasing ratio starts,
    not where it ends. It ends at r / L here and not at 0, so that every layer is regularised, a
    single layer gets r itself, and rising and falling are each other's mirror image with the same
    mean. "cosine" and "exponential" fall between the same ends: "cosine" slowly at first and at
    last, "exponential" by the same factor from layer to layer.

    Args:
        num_layers: number of layers in the stack, at least 1.
        drop_ratio: probability in [0, 1) that a query loses a key, the largest one of the table.
            Or a list: the ratio of each layer, which leaves nothing to a schedule.
        schedule: a name of the table, or a callable (layer, num_layers) -> factor.

    Returns:
        ``num_layers`` ratios, each in [0, 1).

    Raises:
        ValueError: no layers, a ratio outside [0, 1), a list of another length or one with a
            schedule, an unknown ``schedule``.
    """
    if not isinstance(num_layers, int) or num_layers < 1:
        raise ValueError(f"num_layers must be an integer of at least 1, got {num_layers!r}")
    factor = find_schedule(schedule)
    drop_ratio = getattr(drop_ratio, "tolist", lambda: drop_ratio)()  # of an array or tensor
    if isinstance(drop_ratio, Sequence) and not isinstance(drop_ratio, str):
        ratios = _listed(drop_ratio, num_layers, schedule)
    else:
        check_drop_ratio(drop_ratio)
        ratios = [drop_ratio * factor(layer, num_layers) for layer in range(num_layers)]
    for ratio in ratios:
        check_drop_ratio(ratio)
    return ratios


def find_schedule(schedule: str | Schedule) -> Schedule:
    """Return the factors of the schedule of that name, or the callable itself.

    Raises:
        ValueError: neither a name nor a callable.
    """
    if callable(schedule):
        return schedule
    if not isinstance(schedule, str) or schedule not in _FACTORS:
        raise ValueError(
            f"schedule must be one of {', '.join(_FACTORS)}, or a callable (layer, num_layers) -> "
            f"factor; got {schedule!r}"
        )
    return _FACTORS[schedule]


def check_drop_ratio(drop_ratio: float) -> None:
    """Raise a ``ValueError`` that names the ratio, unless it is a number in [0, 1)."""
    # Text has no __float__, tensors have; torch 2.7 cannot compile the question.
    if not torch.compiler.is_compiling() and not hasattr(drop_ratio, "__float__"):
        raise ValueError(f"drop_ratio must be a number in [0, 1), got {drop_ratio!r}")
    if not 0.0 <= drop_ratio < 1.0:  # also refuses nan
        raise ValueError(f"drop_ratio must be in [0, 1), got {drop_ratio}")


def _listed(ratios: Sequence[float], num_layers: int, schedule: str | Schedule) -> list[float]:
    """Return the ratios that were given one by one, if they are as many as the layers."""
    if schedule != LINEAR_DECREASING:
        raise ValueError(
            f"schedule must be left out where drop_ratio lists the layers, got {schedule!r}"
        )
    if len(ratios) != num_layers:
        raise ValueError(
            f"drop_ratio must have one ratio for each of {num_layers} layers, got {len(ratios)}"
        )
    return list(ratios)

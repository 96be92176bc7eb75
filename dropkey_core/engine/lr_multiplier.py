"""Learning rate over a run, as a factor of progress in [0, 1).

Both engines set ``lr = base lr * multiplier(step / max_iter)`` before each step, so a schedule
holds no state and a resumed run needs no care.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    ParamScheduler = object
else:
    try:  # detectron2 checks that its schedulers are fvcore's
        from fvcore.common.param_scheduler import ParamScheduler
    except ImportError:
        ParamScheduler = object

# detectron2's choice: warming up from zero would waste the first step.
WARMUP_START = 0.001


class StepMultiplier(ParamScheduler):
    """Multiply by ``gamma`` at each milestone.

    Args:
        milestones: increasing parts of the run in (0, 1), for instance [0.6667].
        gamma: the factor of each drop.
        warmup: part of the run over which the factor rises linearly from 0.001; 0 for none.
    """

    def __init__(
        self, milestones: Sequence[float], gamma: float = 0.1, warmup: float = 0.0
    ) -> None:
        self.milestones = list(milestones)
        if self.milestones != sorted(set(self.milestones)) or not all(
            0 < milestone < 1 for milestone in self.milestones
        ):
            raise ValueError(f"milestones must increase within (0, 1), got {self.milestones}")
        self.gamma = gamma
        self.warmup = _checked_warmup(warmup)

    def __call__(self, where: float) -> float:
        """Return the factor at ``where``, the part of the run that is done."""
        passed = sum(where >= milestone for milestone in self.milestones)
        return _warmup_factor(where, self.warmup) * self.gamma**passed


class CosineMultiplier(ParamScheduler):
    """Fall from 1 to ``final`` along half a cosine.

    Args:
        final: the factor at the end of the run.
        warmup: part of the run over which the factor rises linearly from 0.001; 0 for none.
    """

    def __init__(self, final: float = 0.0, warmup: float = 0.0) -> None:
        self.final = final
        self.warmup = _checked_warmup(warmup)

    def __call__(self, where: float) -> float:
        """Return the factor at ``where``, the part of the run that is done."""
        cosine = self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * where))
        return _warmup_factor(where, self.warmup) * cosine


def _checked_warmup(warmup: float) -> float:
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup is a part of the run in [0, 1), got {warmup}")
    return warmup


def _warmup_factor(where: float, warmup: float) -> float:
    if where >= warmup:
        return 1.0
    return WARMUP_START + (1 - WARMUP_START) * where / warmup

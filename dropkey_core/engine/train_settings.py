"""The ``train`` section of a config: every key, its type and its default."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING, DictConfig

from dropkey_core.engine.errors import UserError


class BestMode(Enum):
    """Which of two values of a metric is the better one."""

    max = "higher"
    min = "lower"


@dataclass
class AmpSettings:
    """Mixed precision: float16 forward with loss scaling, on CUDA only."""

    enabled: bool = False


@dataclass
class CheckpointerSettings:
    """How often a checkpoint is written, in steps, and how many numbered ones stay."""

    period: int = 5000
    max_to_keep: int = 1


@dataclass
class TrainSettings:
    """What the engine itself needs to know; detectron2 reads the same keys.

    Attributes:
        output_dir: folder of everything the run writes, relative to the working folder.
        max_iter: number of training steps.
        init_checkpoint: weights to start from or to evaluate, a path or URL; empty for none.
        eval_period: steps between evaluations; 0 evaluates at the end only.
        log_period: steps between lines in the log.
        device: ``cuda`` or ``cpu``.
        seed: decides the initial weights, the order of samples and every random draw.
        best_metric: which result picks ``best.pth``, for instance ``bbox/AP``; empty for none.
        best_mode: ``max`` where a higher ``best_metric`` is better, ``min`` where a lower one is.
        ddp: options of torch's DistributedDataParallel.
    """

    output_dir: str = MISSING
    max_iter: int = MISSING
    init_checkpoint: str | None = None
    amp: AmpSettings = field(default_factory=AmpSettings)
    ddp: dict[str, Any] = field(default_factory=dict)
    checkpointer: CheckpointerSettings = field(default_factory=CheckpointerSettings)
    eval_period: int = 5000
    log_period: int = 20
    device: str = "cuda"
    seed: int = 0
    best_metric: str = ""
    best_mode: BestMode = BestMode.max


def check_train_settings(settings: DictConfig) -> None:
    """Refuse numbers that no run can have.

    Raises:
        UserError: naming the setting.
    """
    at_least_one = {
        "max_iter": settings.max_iter,
        "log_period": settings.log_period,
        "checkpointer.period": settings.checkpointer.period,
        "checkpointer.max_to_keep": settings.checkpointer.max_to_keep,
    }
    for name, value in at_least_one.items():
        if value < 1:
            raise UserError(f"train.{name} must be at least 1, got {value}")
    if settings.eval_period < 0:
        raise UserError(f"train.eval_period must be 0 or more, got {settings.eval_period}")

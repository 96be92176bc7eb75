"""What every project trains and evaluates with: a config in, a trained and measured model out.

``load_config`` reads and checks the YAML, ``train`` and ``evaluate`` do the work; the other names
are what YAMLs and projects build on. It needs the extra ``train``: in a clone
pip install -e '.[train]'.
"""

import sys

try:
    import msgspec  # noqa: F401
    import omegaconf  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{sys.executable} lacks what dropkey_core.engine needs: in the clone `make demo` and then "
        "`. .venv/bin/activate`, or pip install -e '.[train]'"
    ) from error

from dropkey_core.engine.build import instantiate
from dropkey_core.engine.checkpoint import load_weights, read_checkpoint, write_checkpoint
from dropkey_core.engine.config import load_config
from dropkey_core.engine.data import build_test_loader, build_train_loader
from dropkey_core.engine.distributed import (
    Processes,
    gather_objects,
    per_total,
    total_over_processes,
)
from dropkey_core.engine.errors import UserError
from dropkey_core.engine.evaluation import Evaluator, ImageEvaluator, run_evaluation
from dropkey_core.engine.failed_step import replay_step
from dropkey_core.engine.optim import ClippedAdamW, CosineMultiplier, StepMultiplier, param_groups
from dropkey_core.engine.paths import dataset_path
from dropkey_core.engine.precision import in_float32
from dropkey_core.engine.signals import TrainingStopped
from dropkey_core.engine.trainer import evaluate, train

__all__ = [
    "ClippedAdamW",
    "CosineMultiplier",
    "Evaluator",
    "ImageEvaluator",
    "Processes",
    "StepMultiplier",
    "TrainingStopped",
    "UserError",
    "build_test_loader",
    "build_train_loader",
    "dataset_path",
    "evaluate",
    "gather_objects",
    "in_float32",
    "instantiate",
    "load_config",
    "load_weights",
    "param_groups",
    "per_total",
    "read_checkpoint",
    "replay_step",
    "run_evaluation",
    "total_over_processes",
    "train",
    "write_checkpoint",
]

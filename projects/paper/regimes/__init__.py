"""Small trainings in many regimes: how much data, which augmentation, how long; paired by seed."""

from collections.abc import Callable

from projects.paper.regimes.engine_training import EngineTrainer
from projects.paper.regimes.plan import Plan, Run, read_plan
from projects.paper.regimes.report import write_report
from projects.paper.regimes.results import Results
from projects.paper.regimes.training import Trainer
from projects.paper.regimes.worker import Trains, finished_runs, progress, repeat, work

TRAINERS: dict[str, Callable[[Plan], Trains]] = {"memory": Trainer, "engine": EngineTrainer}

__all__ = [
    "TRAINERS",
    "EngineTrainer",
    "Plan",
    "Results",
    "Run",
    "Trainer",
    "finished_runs",
    "progress",
    "read_plan",
    "repeat",
    "work",
    "write_report",
]

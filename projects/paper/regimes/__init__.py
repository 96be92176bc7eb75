"""Small trainings in many regimes: how much data, which augmentation, how long; paired by seed."""

from projects.paper.regimes.plan import Plan, Run, read_plan
from projects.paper.regimes.report import write_report
from projects.paper.regimes.results import Results
from projects.paper.regimes.training import Trainer
from projects.paper.regimes.worker import finished_runs, progress, repeat, work

__all__ = [
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

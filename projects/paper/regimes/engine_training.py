"""One training of a project by the engine, as ``train_net.py`` makes it, on part of the data."""

import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from tempfile import TemporaryDirectory
from typing import Any

import torch
from omegaconf import DictConfig

from dropkey_core.engine import train
from dropkey_core.engine.errors import UserError
from dropkey_core.engine.precision import amp_dtype
from projects.paper.regimes.plan import BASELINE, Plan, Run
from projects.paper.regimes.results import fingerprint
from projects.paper.regimes.training import one_core

SECTIONS = ("model", "optimizer", "lr_multiplier", "dataset", "dataloader")
ON_CPU = "train.device=cpu"


class EngineTrainer:
    """Trains the runs of a plan, on one thread, each from its seed alone; keeps no files.

    For one seed all methods start from the same weights and see the same images in the same order,
    augmented alike. What a model itself draws besides masks differs between methods.

    Args:
        plan: see there.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.configs = {name: network.load([ON_CPU]) for name, network in plan.networks.items()}

    def settings(self, run: Run) -> str:
        """What the numbers depend on besides ``run``, as 8 hexadecimal digits."""
        config = self.configs[run.network]
        unit = self.plan.methods.get(run.method)
        return fingerprint(config, SECTIONS, amp=str(amp_dtype(config.train)), unit=unit)

    @one_core()
    def __call__(self, run: Run) -> dict[str, float]:
        """Train and evaluate.

        Returns:
            the plan's metrics at the last step, and ``seconds`` that the processor worked.

        Raises:
            UserError: settings or data that do not fit, or no such metric.
            TrainingStopped: after Ctrl-C or SIGTERM.
        """
        started = time.process_time()
        with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
            found = train(self.config_of(run, folder))
        if missing := self.plan.metrics.keys() - found.keys():
            raise UserError(f"{self.plan.path}: no metric {min(missing)}, only {', '.join(found)}")
        metrics = {name: float(found[name]) for name in self.plan.metrics}
        return {**metrics, "seconds": time.process_time() - started}

    def config_of(self, run: Run, folder: str) -> DictConfig:
        """The config of a run that writes to ``folder``."""
        period = [f"train.{name}={run.steps}" for name in ("max_iter", "eval_period")]
        period += [f"train.checkpointer.period={run.steps}"]
        where = [f"train.seed={run.seed}", f"train.output_dir={folder}", ON_CPU]
        drops = [f"model.drop_ratio={run.ratio}"]
        if run.method != BASELINE:
            drops += [f"model.drop_schedule={run.schedule}"]
            drops += [f"model.drop_unit={self.plan.methods[run.method]}"]
        config = self.plan.networks[run.network].load([*period, *where, *drops])
        section = config.dataloader.train
        section.dataset = {
            "_target_": "projects.paper.regimes.engine_training.draw_records",
            "records": section.dataset,
            "number": run.images,
            "seed": run.seed,
        }
        return config


def draw_records(records: Sequence[Any], number: int, seed: int) -> list[Any]:
    """``number`` records of a training set, drawn without replacement.

    The fewer of one seed are among the more.

    Raises:
        ValueError: there are not so many.
    """
    if not 0 < number <= len(records):
        raise ValueError(f"images must be from 1 to {len(records)}, got {number}")
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed))
    return [records[index] for index in order[:number].tolist()]

"""Run: model, optimizer and data of a training, its checkpoints, and resuming."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf

from dropkey_core.engine.accumulation import Accumulation
from dropkey_core.engine.build import (
    build_evaluation,
    build_model,
    build_optimizer,
    instantiate,
    published_weights,
)
from dropkey_core.engine.checkpoint import (
    changes,
    load_weights,
    optimized_names,
    read_last,
    take_up,
    versions,
    write_checkpoint,
)
from dropkey_core.engine.config import BestMode
from dropkey_core.engine.data import steps_per_epoch
from dropkey_core.engine.distributed import gather_objects
from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.atomic_write import link_file, writing
from dropkey_core.engine.loggers import Log
from dropkey_core.engine.optim import WeightAverage
from dropkey_core.engine.progress import Progress
from dropkey_core.engine.run_folder import (
    BEST,
    LAST,
    RUN_FILES,
    numbered_checkpoints,
    write_config,
)
from dropkey_core.engine.signals import StopRequests

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class Run:
    """All parts of a run, and what is saved of them.

    Args:
        config: a loaded config.
        fabric: the launched processes.
        stop: told by signals to end the run.
        weights_follow: see ``build_model``.

    Attributes:
        step: number of finished training steps.
        evaluated_step: the last step that was evaluated.
        saved: ``step`` and ``evaluated_step`` of ``last.pth``, zeros before the first.
        best: the best value of ``train.best_metric`` so far, None before the first.
        stale: evaluations since the best one.
        progress: what prints, as does ``say``.
    """

    def __init__(
        self, config: DictConfig, fabric: "Fabric", stop: StopRequests, weights_follow: bool
    ) -> None:
        self.config = config
        self.settings = config.train
        self.fabric = fabric
        self.stop = stop
        self.folder = Path(config.train.output_dir)
        self.step = self.evaluated_step = 0
        self.saved = (0, 0)
        self.best: float | None = None
        self.stale = 0
        self.metrics: dict[str, float] = {}
        self.logs: list[Log] = []  # of the first process alone
        self.progress = Progress(quiet=not fabric.is_global_zero)
        self.say = self.progress.say

        # Data first: what is wrong with them is told before weights are fetched.
        self.train_loader = instantiate(config.dataloader.train, "dataloader.train")
        self.epoch = steps_per_epoch(self.train_loader)
        self.count_epochs()
        self.test_loader, self.evaluator = build_evaluation(config)
        torch.manual_seed(self.settings.seed)
        self.model = build_model(config, weights_follow).to(fabric.device)
        if self.settings.compile:
            self.model.compile(dynamic=True)  # in place; the pictures of DETR differ in size
        self.optimizer = build_optimizer(config.optimizer, self.model)
        self.base_lrs = [group["lr"] for group in self.optimizer.param_groups]
        self.lr_multiplier = instantiate(config.lr_multiplier, "lr_multiplier")
        # The same parameters behind the strategy: calling it exchanges gradients and casts.
        self.wrapped, self.stepper = fabric.setup(self.model, self.optimizer)
        context = fabric.strategy.precision.forward_context
        self.accumulation = Accumulation(self.settings.accumulate, self.model, context, self.say)
        ema = self.settings.ema
        self.average = WeightAverage(self.model, **ema) if ema.decay else None

    def count_epochs(self) -> None:
        """Put into ``train.max_iter`` the steps of ``train.max_epochs``, if that is given."""
        if not self.settings.max_epochs:
            return
        if self.epoch is None:
            raise UserError("train.max_epochs: of this dataloader.train give train.max_iter")
        self.settings.max_iter = math.ceil(self.settings.max_epochs * self.epoch)

    def keep_if_best(self) -> None:
        """Write ``best.pth``, weights only, if the last evaluation is the best so far."""
        name = self.settings.best_metric
        if not name:
            return
        if name not in self.metrics:  # no reason to lose a run that has come this far
            known = ", ".join(sorted(self.metrics))
            self.say(f"warning: no {BEST}: train.best_metric {name!r} is none of {known}")
            return
        value = self.metrics[name]
        better = min if self.settings.best_mode is BestMode.min else max
        if self.best is None or (value != self.best and better(value, self.best) == value):
            self.best, self.stale = value, -1
            weights = {"metrics": self.metrics, **self.weights(), **self.averages()}
            self.on_first_process(write_checkpoint, self.folder / BEST, weights)
        self.stale += 1

    def save_if_due(self) -> None:
        """Save every ``checkpointer.period`` steps, under a number too, and at the end."""
        is_period = self.step % self.settings.checkpointer.period == 0
        if is_period or self.step == self.settings.max_iter:
            self.save()
        if is_period:
            self.on_first_process(self.keep_numbered)

    def save(self) -> None:
        """Write ``last.pth`` unless it is of this very moment."""
        if self.saved != (self.step, self.evaluated_step):
            for log in self.logs:
                log.sync()
            self.on_first_process(write_checkpoint, self.folder / LAST, self.state())
            self.saved = (self.step, self.evaluated_step)

    def state(self) -> dict[str, Any]:
        """Return all that is needed to go on; ``resume_from`` takes it up."""
        return {
            **self.weights(),
            **self.averages(),
            "optimizer": self.optimizer.state_dict(),
            "optimized": optimized_names(self.optimizer, self.model),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "accumulate": self.accumulation.number,
            "evaluated_step": self.evaluated_step,
            "best": self.best,
            "stale": self.stale,
            "metrics": self.metrics,
        }

    def what_is_saved(self) -> str:
        """Tell where a run that could not write goes on."""
        if not (self.folder / LAST).exists():
            return "nothing of this run is saved"
        how = "once this is mended, the same command with --resume goes on from there"
        return f"{LAST} is that of step {self.saved[0]}: {how}"

    def weights(self) -> dict[str, Any]:
        """Return a model's weights, and what they come from."""
        return {
            "model": self.model.state_dict(),
            "step": self.step,
            "config": OmegaConf.to_yaml(self.config),
            "classes": self.classes(),
            "versions": versions(),
        }

    def classes(self) -> Any:
        """Return the names of the classes as the evaluator or the test loader has them, or None."""
        owners = (self.evaluator, self.test_loader)
        return next((found for each in owners if (found := getattr(each, "classes", None))), None)

    def averages(self) -> dict[str, Any]:
        """Return the averages as ``model``, what is evaluated, and the weights beside them."""
        if self.average is None:
            return {}
        return {"model": self.average.state, "raw_model": self.model.state_dict()}

    def keep_numbered(self) -> None:
        """Give ``last.pth`` a numbered name, detectron2's, and drop the oldest ones too many."""
        link_file(self.folder / LAST, self.folder / f"model_{self.step - 1:07d}.pth")
        for path in numbered_checkpoints(self.folder)[: -self.settings.checkpointer.max_to_keep]:
            with writing(path):
                path.unlink()

    def start_from(self, path: str) -> None:
        """Begin with published weights or those of a checkpoint, the averages if it has some."""
        published = published_weights(self.config.model)
        self.say(load_weights(self.model, path, "train.init_checkpoint", published))
        if self.average is not None:
            self.average.load(self.model.state_dict())

    def resume_from(self, path: Path) -> None:
        """Take up a run from its ``last.pth``; UserError if that is damaged or another model's."""
        state = read_last(path)
        take_up(self.model, self.optimizer, state, self.config, path)
        self.take_up_averages(state)
        if state["scaler"]:  # not of bfloat16
            self.fabric.strategy.precision.load_state_dict(state["scaler"])
        if self.accumulation.is_auto:
            self.accumulation.number = state.get("accumulate", 0)
        self.saved = self.step, self.evaluated_step = state["step"], state["evaluated_step"]
        self.best, self.metrics = state["best"], state["metrics"]
        self.stale = state.get("stale", 0)
        self.say(f"going on from {path} after step {self.step}")
        if changed := changes(state, self.config):
            self.say(f"changed since then, so this is not the run it would have been: {changed}")
        if self.fabric.is_global_zero:  # no barrier: other machines may not see this folder
            write_config(self.folder, self.config)

    def take_up_averages(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's averages; where it has none they begin with its weights."""
        if self.average is None:
            return
        self.average.load(state["model"])
        if "raw_model" not in state:
            self.say("warning: the checkpoint has no averages: those of train.ema begin with it")

    def check_agreement(self) -> None:
        """Raise UserError unless all processes begin at the same step: not with a folder each."""
        steps = sorted(set(gather_objects(self.step)))
        if len(steps) > 1:
            raise UserError(
                f"the processes would go on after different steps, {steps}: "
                f"train.output_dir {self.folder} must be the same folder on all machines"
            )

    def say_what_is_there(self) -> None:
        """Print the paths of what the run has written."""
        for name, what in RUN_FILES.items():
            for path in sorted(self.folder.glob(name)):
                self.say(f"{what + ':':<20} {path}")

    def on_first_process(self, function: Any, *arguments: Any) -> None:
        """Let rank 0 do something to the disk while the others wait."""
        if self.fabric.is_global_zero:
            function(*arguments)
        self.fabric.barrier()

"""The training loop: tools call :func:`train` and :func:`evaluate`; ``Trainer.run`` is the story.

Lightning Fabric brings processes, devices, mixed precision and gradient exchange. The loop is ours
rather than Lightning's Trainer, because a run must stop and go on at any step with the same losses
to the last bit: the Trainer skips a validation that was interrupted.
"""

import contextlib
import math
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig
from torch import Tensor

from dropkey_core.engine.accumulation import add_losses, check_accumulation
from dropkey_core.engine.build import build_evaluation, build_model, published_weights
from dropkey_core.engine.checkpoint import load_weights
from dropkey_core.engine.config import check_train_settings
from dropkey_core.engine.data import endless, seed_step, start_at
from dropkey_core.engine.distributed import Processes, is_first_process
from dropkey_core.engine.errors import UserError, listed, said_by
from dropkey_core.engine.evaluation import Examples, run_evaluation
from dropkey_core.engine.failed_step import write_failed_step
from dropkey_core.engine.files.atomic_write import WriteError
from dropkey_core.engine.launch import choose_device, ending_together, launch
from dropkey_core.engine.loggers import check_loggers, start_loggers
from dropkey_core.engine.optim import ClippedAdamW, finite_norm, gradients_of
from dropkey_core.engine.precision import describe_precision, measure_overflow
from dropkey_core.engine.progress import Progress
from dropkey_core.engine.run import Run
from dropkey_core.engine.run_folder import BEST, LAST, prepare_folder
from dropkey_core.engine.signals import StopRequests, TrainingStopped


def train(
    config: DictConfig,
    resume: bool = False,
    overwrite: bool = False,
    processes: Processes | None = None,
) -> dict[str, float]:
    """Train as a config says, from its first step or from where the run in its folder stopped.

    Args:
        config: what ``load_config`` returns; ``train.device`` becomes what there is.
        resume: go on from ``last.pth`` in ``train.output_dir``; start anew where there is none.
        overwrite: delete the run that ``train.output_dir`` holds.
        processes: by default those that torchrun or SLURM has started, else one.

    Returns:
        The metrics of the last evaluation, ``{"bbox/AP": 42.0, ...}``.

    Raises:
        UserError: for bad settings or input.
        TrainingStopped: after Ctrl-C or SIGTERM, when ``last.pth`` is saved.
    """
    check_train_settings(config.train)
    check_loggers(config.train.loggers)
    processes = announced(processes, config)
    check_accumulation(config, math.prod(processes.counted()))
    folder = Path(config.train.output_dir)
    with StopRequests() as stop:
        if is_first_process():
            prepare_folder(folder, config, resume, overwrite)
        fabric = launch(config.train, processes)
        with ending_together(fabric):
            is_resumed = resume and (folder / LAST).exists()
            start = config.train.init_checkpoint
            trainer = Trainer(config, fabric, stop, weights_follow=bool(is_resumed or start))
            if is_resumed:
                trainer.resume_from(folder / LAST)
            elif start:
                trainer.start_from(start)
            trainer.check_agreement()
            try:
                return trainer.run()
            except WriteError as error:
                raise UserError(f"{error}; {trainer.what_is_saved()}") from error


def evaluate(
    config: DictConfig, resume: bool = False, processes: Processes | None = None
) -> dict[str, float]:
    """Evaluate the weights in ``train.init_checkpoint``, or with ``resume`` the last ones of a run.

    For arguments, what is returned and raised, see :func:`train`.
    """
    fabric = launch(config.train, announced(processes, config))
    with ending_together(fabric):
        torch.manual_seed(config.train.seed)
        path, setting = config.train.init_checkpoint, "train.init_checkpoint"
        if resume:
            path, setting = Path(config.train.output_dir) / LAST, "train.output_dir"
        model = build_model(config, weights_follow=bool(path)).to(fabric.device)
        said = "no weights given: as initialised"
        if path:
            said = load_weights(model, path, setting, published_weights(config.model))
        loader, evaluator = build_evaluation(config)
        say = Progress(quiet=not fabric.is_global_zero).say
        say(said)
        metrics = run_evaluation(fabric.setup_module(model), loader, evaluator)
        say(describe_metrics(metrics))
        return metrics


def announced(processes: Processes | None, config: DictConfig) -> Processes:
    """Return how many processes there will be, told where they meet; choose their device."""
    processes = processes or Processes()
    processes.announce()
    choose_device(config.train, processes)
    return processes


class Trainer(Run):
    """A run that trains: the loop, one step, one evaluation."""

    def run(self) -> dict[str, float]:
        """Train to the end, logging, evaluating and saving on the way."""
        self.progress.begin(self.step, self.settings.max_iter)
        self.say(describe_precision(self.settings))
        if not start_at(self.train_loader, self.step) and self.step:
            self.say("dataloader.train cannot be positioned: its samples begin anew")
        try:
            if self.fabric.is_global_zero:
                self.logs = start_loggers(self.config, self.step, self.say)
            self.stop.raise_if_received(self.fabric)  # while all this was built
            if self.step:  # what a run that was stopped after a step had still to do
                self.evaluate_if_due()
                self.save_if_due()
            batches = endless(self.train_loader)
            while not self.is_done():
                self.progress.start()
                batch = next(batches)
                losses = self.train_step(batch)
                self.progress.finish_step(len(batch) * self.fabric.world_size)
                self.log_if_due(losses)
                self.evaluate_if_due()
                self.save_if_due()
                self.stop.raise_if_received(self.fabric)
            if self.step < self.settings.max_iter:
                self.say(f"train.patience: {self.stale} evaluations without a better {BEST}")
                self.save()
            self.say_what_is_there()
        except TrainingStopped:
            self.save()
            self.say(f"stopped after step {self.step}; the same command with --resume goes on")
            raise
        finally:
            for log in self.logs:
                log.close(self.is_done())
            self.progress.close()
        return self.metrics

    def is_done(self) -> bool:
        """Return whether all steps are done, or the metric has not become better for long."""
        is_stale = self.settings.patience and self.stale >= self.settings.patience
        return bool(is_stale) or self.step >= self.settings.max_iter

    def train_step(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Do one step and return its losses.

        Raises:
            UserError: the loss or a gradient is not finite; the weights stay as they were. Or
                memory is not enough.
        """
        self.set_learning_rates()
        losses: dict[str, Tensor] = {}
        try:
            while not self.has_gradients(batch, losses):
                self.accumulation.double(batch)
            if self.must_check_gradients:
                finite_norm(gradients_of(self.optimizer))
            self.stepper.step()
        except FloatingPointError as error:
            raise self.failure(error, batch, losses) from error
        self.step += 1
        if self.average is not None:
            self.average.update(self.model, self.step)
        total: Any = sum(losses.values())
        return {"loss": total, **losses}

    @property
    def must_check_gradients(self) -> bool:
        """Whether nobody else refuses gradients that are not finite: our optimizer, a scaler."""
        has_scaler = getattr(self.fabric.strategy.precision, "scaler", None) is not None
        return not has_scaler and not isinstance(self.optimizer, ClippedAdamW)

    def has_gradients(self, batch: list[dict[str, Any]], losses: dict[str, Tensor]) -> bool:
        """Put losses and gradients of a batch into their places; False if GPU memory runs out."""
        losses.clear()
        calls = self.accumulation.calls(batch)
        seed_step(self.settings.seed, self.step, self.fabric.global_rank)
        self.optimizer.zero_grad()
        try:
            for arguments in calls:
                is_last = arguments is calls[-1]
                with self.fabric.no_backward_sync(self.wrapped, enabled=not is_last):
                    self.fabric.backward(add_losses(losses, self.wrapped(*arguments)))
        except torch.OutOfMemoryError:
            return False
        except (UserError, FloatingPointError):
            raise
        except Exception as error:
            if self.model._compiled_call_impl is None:
                raise
            self.model._compiled_call_impl = None  # torch's own place of compiled code
            reason = " ".join(str(error).splitlines()[:2])  # who says it, and what
            self.say(f"train.compile: goes on without, for {reason}")
            return self.has_gradients(batch, losses)
        return True

    def set_learning_rates(self) -> None:
        """Follow the schedule: it is a function of the part of the run that is done."""
        factor = self.lr_multiplier(self.step / self.settings.max_iter)
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base_lr * factor

    def failure(
        self, error: FloatingPointError, batch: list[dict[str, Any]], losses: dict[str, Tensor]
    ) -> UserError:
        """Write what is needed to do this step again; return the error that tells how."""
        terms = {name: loss.item() for name, loss in losses.items()}
        gradients = {n: p.grad for n, p in self.model.named_parameters() if p.grad is not None}
        names = [name for name, value in gradients.items() if not torch.isfinite(value).all()]
        not_finite = {name: term for name, term in terms.items() if not math.isfinite(term)}
        said = names or [f"{name} {term:.6g}" for name, term in (not_finite or terms).items()]
        ids = listed(sample.get("image_id") for sample in batch)
        amp = "train.amp.enabled=false or " if self.settings.amp.enabled else ""
        reason = f"step {self.step}: {error} ({listed(said)}); image ids {ids}"
        state = {"seed": self.settings.seed, "rank": self.fabric.global_rank, **self.weights()}
        state |= {"batch": batch, "terms": terms, "accumulate": self.accumulation.number}
        reason = f"{reason}; try {amp}a lower optimizer.lr"
        failure = write_failed_step(self.folder, state, reason)
        if names:  # in every process, and none may end the job while others still write
            self.fabric.barrier()
        return failure

    def log_if_due(self, losses: dict[str, Tensor]) -> None:
        """Write this step's losses, averaged over processes, learning rate, speed and memory."""
        if self.step % self.settings.log_period and self.step != self.settings.max_iter:
            return
        terms = torch.stack([loss.float() for loss in losses.values()])
        values = self.fabric.strategy.all_reduce(terms, reduce_op="mean")
        metrics = dict(zip(losses, values.tolist(), strict=True))
        if self.epoch is not None:
            metrics["epoch"] = self.step / self.epoch
        metrics["lr"] = self.optimizer.param_groups[0]["lr"]
        metrics |= measure_overflow(self.fabric.strategy.precision, self.optimizer, self.step)
        metrics |= self.progress.measure()
        for log in self.logs:
            log.write(self.step, metrics)
        self.progress.show(self.step, metrics)

    def evaluate_if_due(self) -> None:
        """Evaluate at the end and every ``eval_period`` steps; keep the best weights."""
        period = self.settings.eval_period
        is_due = self.step == self.settings.max_iter or (period and self.step % period == 0)
        if not is_due or self.step == self.evaluated_step:
            return
        self.say(f"evaluating after step {self.step}")
        # Several processes may see unequal numbers of batches, and must stop at the same point.
        stop = self.stop.raise_if_received if self.fabric.world_size == 1 else lambda: None
        are_shown = hasattr(self.evaluator, "draw") and any(log.shows_pictures for log in self.logs)
        examples = Examples(self.settings.examples if are_shown else 0)

        def after_batch(batch: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
            examples.add(batch, outputs)
            stop()

        with self.evaluated_weights():
            self.share_buffers()
            loader, evaluator = self.test_loader, self.evaluator
            self.metrics = run_evaluation(self.wrapped, loader, evaluator, after_batch)
        self.evaluated_step = self.step
        self.say(describe_metrics(self.metrics))
        for log in self.logs if self.metrics else ():
            log.write(self.step, self.metrics)
        self.show(examples)
        self.keep_if_best()

    def show(self, examples: Examples) -> None:
        """Add to the logs what the evaluator draws of examples."""
        if not examples.pairs:
            return
        evaluator: Any = self.evaluator
        try:
            picture = evaluator.draw(*zip(*examples.pairs, strict=True))
        except Exception as error:  # no reason to lose a run
            self.say(f"warning: no picture of the evaluation: {said_by(error)}")
            return
        for log in self.logs:
            log.show(self.step, "test set", picture)

    def evaluated_weights(self) -> contextlib.AbstractContextManager[None]:
        """Let the averages, if there are some, take the place of the weights within a block."""
        if self.average is None:
            return contextlib.nullcontext()
        return self.average.in_place_of_weights(self.model)

    def share_buffers(self) -> None:
        """Give every process rank 0's running averages (of batch norm), which are those saved."""
        if self.fabric.world_size > 1:
            for buffer in self.model.buffers():
                dist.broadcast(buffer, src=0)


def describe_metrics(metrics: dict[str, float]) -> str:
    """Return metrics in one line."""
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())

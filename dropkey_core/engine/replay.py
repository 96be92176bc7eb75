"""Doing a failed step again, to see where its numbers go wrong and what helps."""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from dropkey_core.engine.checkpoint import load_state
from dropkey_core.engine.errors import UserError
from dropkey_core.engine.failed_step import (
    FailedStep,
    check_finite,
    check_finite_gradients,
    describe_names,
    describe_terms,
    read_failed_step,
)
from dropkey_core.engine.launch import check_devices
from dropkey_core.engine.randomness import seed_step
from dropkey_core.engine.resumption import changes
from dropkey_core.engine.trainer import build_model


def replay_step(config: DictConfig, path: str | Path) -> dict[str, float]:
    """Do a step that failed again, forward and backward, in one process; nothing is written.

    Weights, batch and random draws are those of the file, everything else is the config's: what the
    file says about a config is compared with it, never built.

    Args:
        config: a loaded config, as the run had it or with changes to try.
        path: a ``failed_step_*.pth``.

    Returns:
        The terms of the loss, by name.

    Raises:
        UserError: if the loss or a gradient is not finite this time, or for a file that holds no
            failed step, or that of another model.
    """
    failed = read_failed_step(path)
    check_devices(config.train, 1)
    for line in _heading(failed, config):
        print(line, flush=True)
    model = _model_of(failed, config)
    found = FirstNotFinite(model, failed.batch)
    seed_step(failed.seed, failed.step, failed.rank)
    try:
        with torch.autocast(config.train.device, torch.float16, enabled=config.train.amp.enabled):
            losses = model(failed.batch)
        terms = {name: loss.item() for name, loss in losses.items()}
        print(f"terms now:  {describe_terms(terms)} ({_compare(terms, failed.terms)})")
        total = sum(losses.values())
        check_finite(total, losses)
        total.backward()
        check_finite_gradients(model)
    except FloatingPointError as error:
        first = f"; first in {found.where}" if found.where else ""
        raise UserError(f"step {failed.step} of {path} fails again: {error}{first}") from error
    print("all finite: the loss and the gradients", flush=True)
    return terms


def _heading(failed: FailedStep, config: DictConfig) -> Iterator[str]:
    yield (
        f"step {failed.step}, seed {failed.seed}, rank {failed.rank} of {failed.world_size}; "
        f"image ids {describe_names(sample.get('image_id') for sample in failed.batch)}"
    )
    if failed.world_size > 1:
        yield "what losses share between processes is here that of this one"
    if failed.left_out:
        yield f"could not be kept, of each sample: {describe_names(failed.left_out)}"
    if changed := changes({"config": failed.config, "versions": failed.versions}, config):
        yield f"changed since then: {'; '.join(changed)}"
    yield f"terms then: {describe_terms(failed.terms)}"


def _model_of(failed: FailedStep, config: DictConfig) -> nn.Module:
    torch.manual_seed(config.train.seed)
    model = build_model(config, weights_follow=True)
    # These weights or none: a new head would make other losses.
    model.reinitialised_on_mismatch = ()  # type: ignore[assignment]
    load_state(model, failed.model, failed.path)
    return model.to(config.train.device).train()


def _compare(terms: Mapping[str, float], then: Mapping[str, float]) -> str:
    alike = terms.keys() == then.keys() and all(
        value == then[name] or value != value != (then[name] == then[name])
        for name, value in terms.items()
    )
    return "the same to the last bit" if alike else "not the same"


class FirstNotFinite:
    """Watches a model and its batch for the first thing that is not finite.

    Attributes:
        where: what that is, in words; empty as long as everything is finite. A batch comes before
            weights, these before outputs in the order of computing, and the gradients of
            parameters last, in the order in which they become known.
    """

    def __init__(self, model: nn.Module, batch: list[dict[str, Any]]) -> None:
        self.where = ""
        for sample in batch:
            for key, value in sample.items():
                self._look(f"{key!r} of image {sample.get('image_id')}", value)
        for name, value in model.state_dict().items():
            self._look(f"the weights {name}", value)
        for name, module in model.named_modules():
            what = f"the output of {name or 'the model'} ({type(module).__name__})"
            module.register_forward_hook(partial(self._look_at_output, what))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                look = partial(self._look_at_gradient, f"the gradient of {name}")
                parameter.register_post_accumulate_grad_hook(look)

    def _look_at_output(self, what: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self._look(what, output)

    def _look_at_gradient(self, what: str, parameter: Tensor) -> None:
        self._look(what, parameter.grad)

    def _look(self, what: str, value: Any) -> None:
        if self.where:
            return
        if isinstance(value, Tensor):
            if value.is_floating_point() and not torch.isfinite(value).all():
                self.where = what
        elif isinstance(value, float):
            if not math.isfinite(value):
                self.where = what
        elif isinstance(value, Mapping):
            for inner in value.values():
                self._look(what, inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                self._look(what, inner)

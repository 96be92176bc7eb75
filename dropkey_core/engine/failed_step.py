"""A step whose losses or gradients are no numbers: told, and kept so that it can be done again.

The file is a checkpoint with a batch: ``model``, ``step``, ``config`` and ``versions`` as there,
and ``batch``, ``left_out``, ``seed``, ``rank``, ``world_size``, ``terms``. It holds tensors and
plain values only. Its weights are those before the step, but for what a model brings up to date
while it computes: running statistics of norms and averages of weights. No loss in training mode
depends on these.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from dropkey_core.engine.build import build_model
from dropkey_core.engine.checkpoint import changes, load_state, read_checkpoint, write_checkpoint
from dropkey_core.engine.data import seed_step
from dropkey_core.engine.errors import UserError
from dropkey_core.engine.launch import check_devices
from dropkey_core.engine.run_folder import CONFIG

_SHOWN = 16  # images or parameters that a line names
_PLAIN = (type(None), bool, int, float, str, bytes)


def check_finite(total: Tensor, terms: Mapping[str, Tensor]) -> None:
    """Stop a step whose loss is no number.

    Args:
        total: the sum of ``terms``, which is what is differentiated.
        terms: each a number, by name.

    Raises:
        FloatingPointError: naming the terms.
    """
    if not torch.isfinite(total):
        raise FloatingPointError(f"the loss is not finite: {describe_not_finite(total, terms)}")


def describe_not_finite(total: Tensor, terms: Mapping[str, Tensor]) -> str:
    """Return the terms that are no numbers, or the sum if each of them is one."""
    found = {name: loss.item() for name, loss in terms.items() if not torch.isfinite(loss)}
    return describe_terms(found or {"the sum": total.item()})


def describe_terms(terms: Mapping[str, float]) -> str:
    """Return terms of a loss in one line."""
    return ", ".join(f"{name} {value:.6g}" for name, value in terms.items())


def check_finite_gradients(model: nn.Module) -> None:
    """Stop a step whose gradients have no finite norm, as ``ClippedAdamW`` does, by name.

    Raises:
        FloatingPointError: naming the parameters.
    """
    gradients = [value.grad for value in model.parameters() if value.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if not torch.isfinite(norm):
        names = describe_names(not_finite_gradients(model))
        of = f", those of {names}" if names else f": their norm is {norm.item()}"
        raise FloatingPointError(f"the gradients are not finite{of}")


def not_finite_gradients(model: nn.Module) -> list[str]:
    """Return the names of parameters whose gradient holds a number that is none."""
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
    ]


def describe_names(names: Iterable[Any]) -> str:
    """Return names in one line; of many only the first ones and how many more there are."""
    names = [str(name) for name in names]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def keep_failed_step(
    folder: Path, state: Mapping[str, Any], batch: list[dict[str, Any]], reason: str, remedy: str
) -> UserError:
    """Write the file into the folder of a run; return the error that says how to use it.

    A file that cannot be written does not hide what failed: the error says that, too.

    Args:
        folder: where the run's config is as well.
        state: what is in the file besides the batch.
        batch: the samples.
        reason: what failed.
        remedy: what may help.
    """
    kept = plain_batch(batch)
    parts = [
        f"step {state['step']}: {reason}",
        f"image ids {describe_names(sample.get('image_id') for sample in batch)}",
        f"try {remedy}",
    ]
    if kept["left_out"]:
        parts.append(f"kept without the samples' {describe_names(kept['left_out'])}")
    of_rank = f"_rank{state['rank']}" if state["rank"] else ""
    path = folder / f"failed_step_{state['step']:07d}{of_rank}.pth"
    try:
        write_checkpoint(path, {**state, **kept})
        files = f"--config {quote(str(folder / CONFIG))} --replay {quote(str(path))}"
        parts.append(f"again with: tools/train_net.py {files}")
    except UserError as unwritten:
        parts.append(f"the step is not kept: {unwritten}")
    return UserError("; ".join(parts))


def plain_batch(batch: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return ``batch`` as tensors on the CPU and plain values, and the keys that are neither.

    Arrays become tensors, paths become text.
    """
    samples: list[dict[str, Any]] = []
    left_out: set[str] = set()
    for sample in batch:
        kept = {}
        for key, value in sample.items():
            try:
                kept[str(key)] = _plain(value)
            except TypeError:
                left_out.add(str(key))
        samples.append(kept)
    return {"batch": samples, "left_out": sorted(left_out)}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):  # a copy: of a view, torch would save all that it looks at
        return value.detach().as_subclass(Tensor).to("cpu", copy=True)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.array(value))
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if type(value) in _PLAIN:
        return value
    raise TypeError(f"{type(value).__name__} is neither a tensor nor a plain value")


@dataclass
class FailedStep:
    """What the file holds, checked.

    Attributes:
        path: the file.
        model: the state dict.
        batch: samples as the model got them.
        left_out: keys of samples that could not be kept.
        step: number of steps that were finished before.
        seed: the run's.
        rank: the process whose batch it is.
        world_size: processes of the run.
        terms: the loss's, by name.
        config: the run's YAML, a text from outside.
        versions: of python and torch.
    """

    path: str
    model: dict[str, Any]
    batch: list[dict[str, Any]]
    left_out: list[str]
    step: int
    seed: int
    rank: int
    world_size: int
    terms: dict[str, float]
    config: str
    versions: dict[str, str]


_KINDS = {
    "model": dict, "batch": list, "left_out": list, "step": int, "seed": int, "rank": int,
    "world_size": int, "terms": dict, "config": str, "versions": dict,
}  # fmt: skip


def read_failed_step(path: str | Path, setting: str = "--replay") -> FailedStep:
    """Read and check the file of a failed step.

    Raises:
        UserError: if it is missing, unreadable, or something else, such as a checkpoint.
    """
    content = read_checkpoint(path, setting)
    if "model" in content and "batch" not in content:
        raise UserError(f"{path} (from {setting}) is a checkpoint: a failed_step_*.pth is needed")
    for name, kind in _KINDS.items():
        if not isinstance(content.get(name), kind):
            found = f"{name} is no {kind.__name__}" if name in content else f"it lacks {name}"
            raise UserError(f"{path} (from {setting}) holds no failed step: {found}")
    if not content["batch"] or not all(isinstance(sample, dict) for sample in content["batch"]):
        raise UserError(f"{path} (from {setting}) holds no failed step: its batch is no samples")
    if not all(isinstance(value, float) for value in content["terms"].values()):
        raise UserError(f"{path} (from {setting}) holds no failed step: its terms are no numbers")
    return FailedStep(str(path), **{name: content[name] for name in _KINDS})


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

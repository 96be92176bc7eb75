"""Failed step: the batch and weights of a step with NaN or infinity, written and replayed.

The file is a checkpoint with ``batch``, ``seed``, ``rank`` and the ``terms`` of the loss. Weights
are those before the step; running statistics, which no loss in training reads, may be newer.
"""

import shlex
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from dropkey_core.engine.accumulation import add_losses, calls_of
from dropkey_core.engine.build import build_model
from dropkey_core.engine.checkpoint import changes, load_state, read_checkpoint, write_checkpoint
from dropkey_core.engine.data import seed_step
from dropkey_core.engine.distributed import Processes
from dropkey_core.engine.errors import UserError
from dropkey_core.engine.launch import choose_device
from dropkey_core.engine.precision import precision_of
from dropkey_core.engine.run_folder import CONFIG


def write_failed_step(folder: Path, state: Mapping[str, Any], reason: str) -> UserError:
    """Write the file into the folder of a run; return the error with the command that replays it.

    In the ``batch`` of ``state``, what is no tensor, array or number becomes text.
    """
    rank = f"_rank{state['rank']}" if state["rank"] else ""
    path = folder / f"failed_step_{state['step']:07d}{rank}.pth"
    command = ["tools/train_net.py", "--config", folder / CONFIG, "--replay", path]
    try:
        write_checkpoint(path, {**state, "batch": tree_map(_plain, state["batch"])})
        return UserError(f"{reason}; again with: {shlex.join(map(str, command))}")
    except UserError as unwritten:
        return UserError(f"{reason}; the step is not kept: {unwritten}")


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):  # a copy: of a view, torch would save all that it looks at
        return value.detach().as_subclass(Tensor).to("cpu", copy=True)
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        return torch.tensor(value) if value.ndim else value.item()
    return value if isinstance(value, bool | int | float | bytes | None) else str(value)


def replay_step(config: DictConfig, path: str | Path) -> dict[str, float]:
    """Do a failed step again, forward and backward, in one process; nothing is written.

    Weights, batch and random draws are the file's, everything else is the config's: as the run had
    it, or with changes to try. What losses share between processes is that of this one alone.

    Returns:
        The terms of the loss, by name.

    Raises:
        UserError: saying what was first not finite; or ``path`` is no failed step of this model.
    """
    failed = read_checkpoint(path, "--replay")
    if not failed.keys() >= {"batch", "terms"}:
        raise UserError(f"{path} (from --replay) is no failed step: name a failed_step_*.pth")
    choose_device(config.train, Processes(num_gpus=1))
    if changed := changes(failed, config):
        print("changed since then:", changed)
    torch.manual_seed(config.train.seed)
    model = build_model(config, weights_follow=True)
    load_state(model, failed["model"], str(path), exactly=True)
    found = FirstNotFinite(model.to(config.train.device).train(), failed["batch"])
    precision = precision_of(config.train)
    losses: dict[str, Tensor] = {}
    calls = calls_of(model, failed["batch"], failed.get("accumulate", 1))
    seed_step(failed["seed"], failed["step"], failed["rank"])
    with suppress(FloatingPointError):
        for arguments in calls:
            with precision.forward_context():
                parts = model(*arguments)
            found.look("the sum of the terms", sum(parts.values()))
            add_losses(losses, parts).backward()
    terms = {name: loss.item() for name, loss in losses.items()}
    for name, value in terms.items():
        print(f"{name}: {failed['terms'].get(name)} then, {value} now")
    is_same = repr(terms) == repr(failed["terms"])  # as text, for NaN is not equal to itself
    print(f"the terms are {'' if is_same else 'not '}the same to the last bit", flush=True)
    gradients = [value.grad for value in model.parameters() if value.grad is not None]
    found.look("the norm of the gradients", torch.nn.utils.get_total_norm(gradients))
    if found.where:
        raise UserError(f"step {failed['step']} of {path} fails: first not finite is {found.where}")
    print("all finite: the loss and the gradients")
    return terms


class FirstNotFinite:
    """Hooks that note in ``where`` what is first not finite: batch, weights, outputs, gradients."""

    def __init__(self, model: nn.Module, batch: list[dict[str, Any]]) -> None:
        self.where = ""
        for sample in batch:
            for key, value in sample.items():
                self.look(f"{key!r} of image {sample.get('image_id')}", value)
        for name, value in model.state_dict().items():
            self.look(f"the weights {name}", value)
        for name, module in model.named_modules():
            what = f"the output of {name or 'the model'} ({type(module).__name__})"
            module.register_forward_hook(lambda *call, what=what: self.look(what, call[-1]))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.register_hook(partial(self.look, f"the gradient of {name}"))

    def look(self, what: str, value: Any) -> None:
        """Note ``what`` if it is the first whose ``value``, nested as it may be, is not finite."""
        numbers = [torch.as_tensor(v) for v in tree_leaves(value) if isinstance(v, Tensor | float)]
        if not self.where and not all(number.isfinite().all() for number in numbers):
            self.where = what

"""Going on with a run: what its last checkpoint must hold, and what must not have changed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from torch import nn

from dropkey_core.engine.checkpoint import load_state, read_checkpoint
from dropkey_core.engine.errors import UserError, shown
from dropkey_core.engine.files.yaml_file import check_structure
from dropkey_core.engine.run_folder import BEST, numbered_checkpoints
from dropkey_core.engine.versions import versions

NEEDED: dict[str, type | tuple[type, ...]] = {
    "model": Mapping,
    "optimizer": Mapping,
    "scaler": Mapping,
    "step": int,
    "evaluated_step": int,
    "best": (float, int, type(None)),
    "metrics": Mapping,
}
# States of torch's optimizers that have one value for each of their parameter.
_LIKE_PARAMETER = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")
_SHOWN = 10  # changed settings that are told
# Where a run lies and where it once began do not matter to how it goes on.
_IRRELEVANT = {"train.output_dir", "train.init_checkpoint"}


def read_last(path: Path) -> dict[str, Any]:
    """Return the content of the checkpoint that a run goes on from.

    Raises:
        UserError: if it is damaged, naming the newest numbered checkpoint that is whole; which of
            them to go on from is not decided here. Also if it is none of a run.
    """
    try:
        state = read_checkpoint(path, "train.output_dir")
    except UserError as error:
        raise UserError(f"{error}; {_what_else_there_is(path)}") from error
    if missing := NEEDED.keys() - state.keys():
        raise UserError(f"{path} cannot be resumed from: it lacks {', '.join(sorted(missing))}")
    if problem := _problem(state, path):
        raise UserError(f"{path} cannot be resumed from: {problem}")
    return state


def _problem(state: Mapping[str, Any], path: Path) -> str | None:
    """Return what no run would have saved; the file may be anybody's."""
    for name, kinds in NEEDED.items():
        if not isinstance(state[name], kinds) or isinstance(state[name], bool):
            return f"its {name} is {shown(state[name])}"
    if min(state["step"], state["evaluated_step"]) < 0:
        return f"its step is {state['step']}, evaluated {state['evaluated_step']}"
    try:
        check_structure(str(state.get("config", "")), path)
        kept_settings(state)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or number that is none
        return f"its config is not YAML: {' '.join(str(error).split())}"
    return None


def _what_else_there_is(path: Path) -> str:
    for other in reversed(numbered_checkpoints(path.parent)):
        try:
            state = read_checkpoint(other)
        except UserError:
            continue
        if state.keys() >= NEEDED.keys():
            return (
                f"the newest one that is whole is {other.name}, after step {state['step']}: "
                f"copy it to {path.name} and --resume goes on from there"
            )
    return (
        "no numbered one is whole: --overwrite begins the run anew, and --weights "
        f"{path.with_name(BEST)} with another train.output_dir begins one from the best weights"
    )


def take_up_model(model: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Load a model's weights, all of them.

    Raises:
        UserError: if they are another model's.
    """
    load_state(model, state["model"], str(path))
    for name, value in model.state_dict().items():  # a new start may begin with fresh heads
        if value.shape != state["model"][name].shape:
            shapes = f"{tuple(state['model'][name].shape)}, not {tuple(value.shape)}"
            raise UserError(f"{path} cannot be resumed from: {name} is {shapes}; {_new_run(path)}")


def take_up_optimizer(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    state: Mapping[str, Any],
    config: DictConfig,
    path: Path,
) -> None:
    """Load an optimizer's state; the values of its settings are those of ``config``.

    Raises:
        UserError: if it belongs to another optimizer, or to other groups of parameters.
    """
    then = kept_settings(state).get("optimizer", {})
    kind, now = then.get("_target_"), config.optimizer._target_
    if kind not in (None, now):
        raise UserError(
            f"{path} cannot be resumed from: it holds {kind}, not {now}; {_new_run(path)}"
        )
    names = optimized_names(optimizer, model)
    if state.get("optimized", names) != names:
        raise UserError(
            f"{path} cannot be resumed from: optimizer.params has other groups than then; "
            f"{_new_run(path)}"
        )
    configured = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    try:
        optimizer.load_state_dict(state["optimizer"])
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path} cannot be resumed from: {error}; {_new_run(path)}") from error
    _check_shapes(optimizer, path)
    # Loading also brings back the old values, of the weight decay for instance. Where the config
    # still has them nothing is put in their place: some optimizers count steps among them.
    if then != _settings(config)["optimizer"]:
        for group, values in zip(optimizer.param_groups, configured, strict=True):
            group.update(values)


def _check_shapes(optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Refuse a state that belongs to parameters of other shapes: torch takes it and then fails."""
    for parameter, values in optimizer.state.items():
        for name in _LIKE_PARAMETER:
            value = values.get(name)
            if isinstance(value, torch.Tensor) and value.shape != parameter.shape:
                shapes = f"{tuple(value.shape)} for a parameter of {tuple(parameter.shape)}"
                raise UserError(
                    f"{path} cannot be resumed from: its optimizer has {name} of shape {shapes}; "
                    f"{_new_run(path)}"
                )


def _new_run(path: Path) -> str:
    return (
        f"go on as before, or begin a new run from its weights: --weights {path} with another "
        "train.output_dir"
    )


def optimized_names(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[list[str]]:
    """Return the names of the parameters in each group: a state dict counts them only."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [[names[parameter] for parameter in g["params"]] for g in optimizer.param_groups]


def changes(state: Mapping[str, Any], config: DictConfig) -> list[str]:
    """Return what differs from when a checkpoint was written, as ``name: then -> now``."""
    old, new = _flat(kept_settings(state)), _flat(_settings(config))
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)] if old else []
    told = [
        f"{key} {old.get(key, 'unset')} -> {new.get(key, 'unset')}"
        for key in differing
        if key not in _IRRELEVANT
    ]
    if len(told) > _SHOWN:
        told[_SHOWN:] = [f"{len(told) - _SHOWN} more settings"]
    then, now = state.get("versions", {}), versions()
    others = [name for name in then if name in now and then[name] != now[name]]
    return told + [f"{name} {then[name]} -> {now[name]}" for name in others]


def kept_settings(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config that a checkpoint holds as plain values; nothing where it holds none."""
    settings = yaml.safe_load(str(state.get("config", "")))
    return settings if isinstance(settings, dict) else {}


def _settings(config: DictConfig) -> dict[str, Any]:
    """Return a config as :func:`kept_settings` returns the same one."""
    return kept_settings({"config": OmegaConf.to_yaml(config)})


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    inner = [_flat(v, f"{name}.{key}" if name else str(key)) for key, v in value.items()]
    return {key: v for flat in inner for key, v in flat.items()}

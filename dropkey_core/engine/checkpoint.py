"""Checkpoint files: plain dicts of tensors and numbers that official DETR and detectron2 read too.

Under ``model`` lies the model's ``state_dict``. Files are read with ``weights_only=True``: one that
holds code is refused, never run. They are written whole or not at all.
"""

import importlib.metadata
import platform
import re
import sys
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from dropkey_core.engine.errors import UserError, listed, shown
from dropkey_core.engine.files.atomic_write import whole_file
from dropkey_core.engine.files.checkpoints import read_content
from dropkey_core.engine.files.yaml_file import check_structure
from dropkey_core.engine.run_folder import BEST, numbered_checkpoints

# The beginning of its SHA-256, which many publishers put into a file's name.
_HASH = re.compile(r"-([0-9a-f]{8,64})\.")


def read_checkpoint(path: str | Path, setting: str = "the checkpoint") -> dict[str, Any]:
    """Return the content of a checkpoint, tensors on the CPU.

    Args:
        path: a file or an http(s) URL; what a URL names is downloaded once and kept.
        setting: where the path comes from, for the error.

    Raises:
        UserError: if it is missing, unreadable, holds code, or is not a dict.
    """
    return read_content(find_checkpoint(path, setting), f"the checkpoint {path} (from {setting})")


def find_checkpoint(path: str | Path, setting: str) -> Path:
    """Return where a checkpoint lies on the disk; what a URL names is fetched if it is not there.

    Raises:
        UserError: it is missing, or cannot be fetched.
    """
    if str(path).startswith(("http://", "https://")):
        return _fetched(str(path), f"the checkpoint {path} (from {setting})")
    file = Path(path).expanduser()
    if not file.exists():
        raise UserError(f"no checkpoint at {path} (from {setting})")
    return file


def _fetched(url: str, source: str) -> Path:
    """Where the file of a URL lies, among torch's own downloads, after fetching it if need be."""
    name = Path(urllib.parse.urlparse(url).path).name
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not name:
        raise UserError(f"{source} is none: its address ends in no name of a file")
    if not file.exists():
        print(f"fetching {url}")
        said = _HASH.search(name)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), said and said[1], progress=False)
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: another hash
            reason = " ".join(str(error).split())
            raise UserError(f"cannot fetch {source} to {file}: {reason}") from error
    return file


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` so that ``path`` is the old file or the complete new one, never a part.

    Raises:
        UserError: if the disk is full or the folder cannot be written to; ``path`` stays as it was.
    """
    with whole_file(path, "wb") as file:
        torch.save(dict(content), file)


def convert_checkpoint(
    source: str | Path,
    target: Path,
    convert: Callable[[dict[str, Tensor]], tuple[Mapping[str, Tensor], list[str]]],
) -> list[str]:
    """Write the weights of a checkpoint, converted, as another one.

    Args:
        source: file or URL, read as :func:`load_weights` reads it.
        target: where to write ``{"model": converted weights}``; what is there is replaced at once.
        convert: from a state dict to another one, and lines that say what was done.

    Returns:
        those lines.

    Raises:
        UserError: a source that cannot be read or converted, or a target that cannot be written.
    """
    if Path(source).expanduser().absolute() == target.expanduser().absolute():
        raise UserError(f"{target} would replace the checkpoint that is converted: name another")
    content = read_checkpoint(source, "INPUT")
    state = content.get("model", content)
    if not isinstance(state, Mapping):
        raise UserError(f"{source} holds no weights by name but {shown(state)}")
    weights = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    converted, said = convert(weights)
    write_checkpoint(target.expanduser(), {"model": dict(converted)})
    return said


def load_weights(
    model: nn.Module,
    path: str | Path,
    setting: str = "--weights",
    content: Mapping[str, Any] | None = None,
) -> str:
    """Load the weights of a checkpoint into ``model``, by name and strictly.

    Args:
        model: its class may name ``reinitialised_on_mismatch``, prefixes of keys such as
            ``class_embed`` that depend on the data: where only their shapes differ they keep their
            fresh values. It may have a method ``checkpoint_problem``, which is given the file and
            its content and returns why that is not for this model although names and shapes may
            fit, or None.
        path: file or URL of ours, of official DETR or detectron2 (``{"model": state_dict}``), or a
            bare state dict.
        setting: where the path comes from, for errors.
        content: what :func:`read_checkpoint` returned of it, if it was read before.

    Returns:
        One line that says what was loaded and what was not.

    Raises:
        UserError: listing missing, unexpected and mis-shaped keys if the architectures differ, or
            the model refuses it.
    """
    if content is None:
        content = read_checkpoint(path, setting)
    source = f"{path} (from {setting})"
    judge: Any = getattr(model, "checkpoint_problem", None)
    if judge is not None and (problem := judge(find_checkpoint(path, setting), content)):
        raise UserError(f"{source} {problem}")
    return load_state(model, content.get("model", content), source)


def load_state(
    model: nn.Module, state: Mapping[str, Any], source: str, exactly: bool = False
) -> str:
    """Load a state dict as :func:`load_weights` does; ``source`` names it in messages.

    ``exactly``: no weights may be initialised anew.
    """
    if not isinstance(state, Mapping):
        raise UserError(f"{source} holds no weights by name but {shown(state)}")
    state = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    wanted = model.state_dict()
    renewable = () if exactly else tuple(getattr(model, "reinitialised_on_mismatch", ()))
    misshapen = [k for k in wanted if k in state and wanted[k].shape != state[k].shape]
    renewed = [k for k in misshapen if k.startswith(renewable)] if renewable else []
    problems = {
        "missing": [k for k in wanted if k not in state],
        "unexpected": [k for k in state if k not in wanted],
        "mis-shaped": [
            f"{k} {tuple(state[k].shape)} instead of {tuple(wanted[k].shape)}"
            for k in misshapen
            if k not in renewed
        ],
    }
    if any(problems.values()):
        lists = "; ".join(
            f"{kind}: {len(keys)} ({listed(keys, 5)})" for kind, keys in problems.items() if keys
        )
        raise UserError(f"the weights of {source} do not fit the model; {lists}")
    try:
        model.load_state_dict({**state, **{k: wanted[k] for k in renewed}}, strict=True)
    except RuntimeError as error:  # of a type that cannot become the model's
        reason = " ".join(str(error).split())
        raise UserError(f"the weights of {source} do not fit the model: {reason}") from error
    said = f"; initialised anew, for their shapes differ: {', '.join(renewed)}" if renewed else ""
    broken = [n for n, p in model.named_parameters() if not p.isfinite().all()]
    if broken:  # whoever wants to look at them may
        said += f"; beware, NaN or infinity in {len(broken)} ({listed(broken, 5)})"
    return f"loaded {len(wanted) - len(renewed)} of {len(wanted)} tensors from {source}{said}"


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
_CHANGES_SHOWN = 10  # changed settings that are told
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
    if len(told) > _CHANGES_SHOWN:
        told[_CHANGES_SHOWN:] = [f"{len(told) - _CHANGES_SHOWN} more settings"]
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


# What decides how a run goes; of the others none is imported by every project.
PACKAGES = ("torch", "torchvision", "lightning", "numpy", "scipy", "timm", "smplx", "detectron2")


def versions() -> dict[str, str]:
    """Return the versions of Python, this library and the packages that are loaded."""
    loaded = {name: sys.modules[name] for name in PACKAGES if name in sys.modules}
    told = {name: getattr(module, "__version__", None) for name, module in loaded.items()}
    return {
        "python": platform.python_version(),
        "dropkey": _own_version(),
        **{name: str(version) for name, version in told.items() if version},
    }


def _own_version() -> str:
    try:
        return importlib.metadata.version("dropkey")
    except importlib.metadata.PackageNotFoundError:
        return "a checkout"

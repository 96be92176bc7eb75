"""Checkpoint files: plain dicts of tensors and numbers that official DETR and detectron2 read too.

Under ``model`` lies the ``state_dict`` of the model as it is evaluated: with ``train.ema`` that of
the averages, beside which ``raw_model`` are the weights that training goes on from. Files are read
with ``weights_only=True``: one that holds code is refused, never run. They are written whole or not
at all.
"""

import importlib.metadata
import platform
import re
import sys
import urllib.parse
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from dropkey_core.engine.errors import UserError, listed, shown, suggestion
from dropkey_core.engine.files.atomic_write import whole_file
from dropkey_core.engine.files.checkpoints import read_content
from dropkey_core.engine.files.yaml_file import check_structure
from dropkey_core.engine.run_folder import checkpoint_in, numbered_checkpoints

if TYPE_CHECKING:
    from dropkey_core.engine.published import PublishedWeights

# The beginning of its SHA-256, which many publishers put into a file's name.
_HASH = re.compile(r"-([0-9a-f]{8,64})\.")


def find_weights(
    path: str | Path, setting: str, published: "Mapping[str, PublishedWeights] | None" = None
) -> tuple[Path, dict[str, Any]]:
    """Find a checkpoint by whatever names it, and read it, tensors on the CPU.

    Args:
        path: a name of ``published``, or see ``find_checkpoint``.
        setting: where the path comes from, for the error.
        published: weights by name.

    Returns:
        its file and its content; that of published weights has our model's under ``model``.

    Raises:
        UserError: it is missing, unreadable, holds code, or is not a dict.
    """
    if (weights := (published or {}).get(str(path))) is not None:
        file = weights.fetch()
        return file, weights.read(file)
    file = find_checkpoint(path, setting, known=published or ())
    return file, read_content(file, f"the checkpoint {path} (from {setting})")


def read_checkpoint(path: str | Path, setting: str = "the checkpoint") -> dict[str, Any]:
    """Return the content of a checkpoint, see ``find_weights``."""
    return find_weights(path, setting)[1]


def find_checkpoint(
    path: str | Path, setting: str, sha256: str = "", known: Collection[str] = ()
) -> Path:
    """Return where a checkpoint lies.

    Args:
        path: a file, the folder of a run, which stands for its best checkpoint or else its last, or
            an http(s) URL; what that names is fetched once and kept.
        setting: where the path comes from, for the error.
        sha256: how the hash of what a URL names begins; else its name may say it.
        known: names that it could have been.

    Raises:
        UserError: there is none, or it is out of reach.
    """
    if str(path).startswith(("http://", "https://")):
        return _fetched(str(path), f"the checkpoint {path} (from {setting})", sha256)
    file = Path(path).expanduser()
    if file.is_dir():
        return checkpoint_in(file)
    if not file.exists():
        what = "neither a file nor the folder of a run"
        what += ", nor a published name" if known else ""
        raise UserError(
            f"no checkpoint at {path} (from {setting}): {what}{suggestion(str(path), known)}"
        )
    return file


def _fetched(url: str, source: str, sha256: str) -> Path:
    """Where the file of a URL lies, among torch's own downloads, after fetching it if need be."""
    name = Path(urllib.parse.urlparse(url).path).name
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not name:
        raise UserError(f"{source} is none: its address ends in no name of a file")
    if not file.exists():
        print(f"fetching {url}")
        said = _HASH.search(name)
        expected = sha256 or (said[1] if said else None)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), expected, progress=False)
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: another hash
            reason = " ".join(str(error).split())
            raise UserError(
                f"cannot fetch {source}: {reason}; fetched elsewhere it belongs at {file}"
            ) from None
    return file


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all, see ``whole_file``."""
    with whole_file(path, "wb") as file:
        torch.save(dict(content), file)


def load_weights(
    model: nn.Module,
    path: str | Path,
    setting: str = "--weights",
    published: "Mapping[str, PublishedWeights] | None" = None,
) -> str:
    """Load the weights of a checkpoint into ``model``, by name and strictly.

    Args:
        model: may have ``reinitialised_on_mismatch``, prefixes of keys such as ``class_embed``
            that depend on the data: where only their shapes differ they keep their fresh values;
            and a method ``checkpoint_problem(file, content)``, which returns why a file is not for
            this model although names and shapes may fit, or None.
        path: see ``find_weights``; the state dict is bare or under ``model`` as detectron2 has it.
        setting: where the path comes from, for errors.
        published: weights by name.

    Returns:
        One line that says what was loaded and what was not.

    Raises:
        UserError: missing, unexpected or mis-shaped keys, or the model refuses it.
    """
    file, content = find_weights(path, setting, published)
    weights = (published or {}).get(str(path))
    made_for = f", made for {weights.config} {' '.join(weights.overrides)}" if weights else ""
    source = f"{path} (from {setting}{made_for.rstrip()})"
    judge: Any = getattr(model, "checkpoint_problem", None)
    if judge is not None and (problem := judge(file, content)):
        raise UserError(f"{source} {problem}")
    return load_state(model, content.get("model", content), source)


def load_state(
    model: nn.Module, state: Mapping[str, Any], source: str, exactly: bool = False
) -> str:
    """Load a state dict as :func:`load_weights` does; ``exactly``: initialise nothing anew."""
    state, wanted = weights_by_name(state, source), model.state_dict()
    renewable = () if exactly else tuple(getattr(model, "reinitialised_on_mismatch", ()))
    misshapen = [k for k in wanted if k in state and wanted[k].shape != state[k].shape]
    renewed = [k for k in misshapen if k.startswith(renewable)]
    problems = {
        "missing": [k for k in wanted if k not in state],
        "unexpected": [k for k in state if k not in wanted],
        "mis-shaped": [
            f"{k} {tuple(state[k].shape)} instead of {tuple(wanted[k].shape)}"
            for k in misshapen
            if k not in renewed
        ],
    }
    told = [f"{kind}: {len(k)} ({listed(k, 5)})" for kind, k in problems.items() if k]
    if told:
        raise UserError(f"the weights of {source} do not fit the model; {'; '.join(told)}")
    model.load_state_dict({**state, **{k: wanted[k] for k in renewed}}, strict=True)
    said = f"; initialised anew, for their shapes differ: {', '.join(renewed)}" if renewed else ""
    broken = [n for n, p in model.named_parameters() if not p.isfinite().all()]
    if broken:  # whoever wants to look at them may
        said += f"; beware, NaN or infinity in {len(broken)} ({listed(broken, 5)})"
    return f"loaded {len(wanted) - len(renewed)} of {len(wanted)} tensors from {source}{said}"


def weights_by_name(state: Any, source: object) -> dict[str, Tensor]:
    """Return the tensors of a state dict; UserError, which names ``source``, if it is none."""
    if not isinstance(state, Mapping):
        raise UserError(f"{source} holds no weights by name but {shown(state)}")
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


# What a run goes on from.
NEEDED = {"model", "optimizer", "scaler", "step", "evaluated_step", "best", "metrics"}
_CHANGES_SHOWN = 10
# Where a run lies and where it once began do not matter to how it goes on.
_IRRELEVANT = {"train.output_dir", "train.init_checkpoint"}
# What decides how a run goes; of the others none is imported by every project.
PACKAGES = ("torch", "torchvision", "lightning", "numpy", "scipy", "timm", "smplx", "detectron2")


def read_last(path: Path) -> dict[str, Any]:
    """Return the content of the checkpoint that a run goes on from.

    Raises:
        UserError: it is none of a run, or damaged; then the numbered ones are named.
    """
    try:
        state = read_checkpoint(path, "train.output_dir")
    except UserError as error:
        others = listed([other.name for other in numbered_checkpoints(path.parent)]) or "none"
        how = f"copy one to {path.name} and --resume goes on from there, or --overwrite begins anew"
        raise UserError(f"{error}; numbered ones are there: {others}; {how}") from error
    if missing := NEEDED - state.keys():
        raise UserError(f"{path} cannot be resumed from: it lacks {', '.join(sorted(missing))}")
    return state


def take_up(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    config: DictConfig,
    path: Path,
) -> None:
    """Load a run's model and optimizer; the optimizer's settings are those of ``config``.

    Raises:
        UserError: another model's, another optimizer's, or other groups of parameters.
    """
    then, now = kept_settings(state).get("optimizer", {}), _settings(config)["optimizer"]
    names = optimized_names(optimizer, model)
    advice = f"as before, or begin a new run: --weights {path} with another train.output_dir"
    if then.get("_target_", now["_target_"]) != now["_target_"]:
        problem = f"it holds {then['_target_']}, not {now['_target_']}"
        raise UserError(f"{path} cannot be resumed from: {problem}; go on {advice}")
    if state.get("optimized", names) != names:
        problem = "optimizer.params has other groups than then"
        raise UserError(f"{path} cannot be resumed from: {problem}; go on {advice}")
    load_state(model, state["model"], str(path), exactly=True)
    if "raw_model" in state:  # what training goes on from; those above are averages
        load_state(model, state["raw_model"], str(path), exactly=True)
    configured = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    optimizer.load_state_dict(state["optimizer"])
    # Loading also brings back the old values, of the weight decay for instance. Where the config
    # still has them nothing is put in their place: some optimizers count steps among them.
    if then != now:
        for group, values in zip(optimizer.param_groups, configured, strict=True):
            group.update(values)


def optimized_names(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[list[str]]:
    """Return the names of the parameters in each group: a state dict counts them only."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [[names[parameter] for parameter in g["params"]] for g in optimizer.param_groups]


def changes(state: Mapping[str, Any], config: DictConfig) -> str:
    """Return what differs from when a checkpoint was written, ``name then -> now; ...``."""
    old, new = _flat(kept_settings(state)), _flat(_settings(config))
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)] if old else []
    differing = [key for key in differing if key not in _IRRELEVANT]
    told = [f"{key} {old.get(key, 'unset')} -> {new.get(key, 'unset')}" for key in differing]
    if len(told) > _CHANGES_SHOWN:
        told[_CHANGES_SHOWN:] = [f"{len(told) - _CHANGES_SHOWN} more settings"]
    then, now = state.get("versions", {}), versions()
    others = [name for name in then if name in now and then[name] != now[name]]
    return "; ".join(told + [f"{name} {then[name]} -> {now[name]}" for name in others])


def kept_settings(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config that a checkpoint holds as plain values; nothing where it holds none."""
    text = str(state.get("config", ""))
    check_structure(text, "the config in the checkpoint")
    settings = yaml.safe_load(text)
    return settings if isinstance(settings, dict) else {}


def _settings(config: DictConfig) -> dict[str, Any]:
    """Return a config as :func:`kept_settings` returns the same one."""
    return kept_settings({"config": OmegaConf.to_yaml(config)})


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    inner = [_flat(v, f"{name}.{key}" if name else str(key)) for key, v in value.items()]
    return {key: v for flat in inner for key, v in flat.items()}


def versions() -> dict[str, str]:
    """Return the versions of Python, this library and the packages that are loaded."""
    try:
        own = importlib.metadata.version("dropkey")
    except importlib.metadata.PackageNotFoundError:
        own = "a checkout"
    loaded = {name: sys.modules[name] for name in PACKAGES if name in sys.modules}
    told = {name: str(getattr(module, "__version__", "")) for name, module in loaded.items()}
    return {"python": platform.python_version(), "dropkey": own, **told}

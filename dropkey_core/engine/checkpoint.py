"""Checkpoint files: plain dicts of tensors and numbers that official DETR and detectron2 read too.

Under ``model`` lies the model's ``state_dict``. Files are read with ``weights_only=True``: one that
holds code is refused, never run. They are written whole or not at all.
"""

import re
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dropkey_core.engine.errors import UserError, shown
from dropkey_core.engine.files.atomic_write import whole_file
from dropkey_core.engine.files.checkpoints import read_content

_SHOWN = 5  # keys of a kind that an error lists
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


def load_state(model: nn.Module, state: Mapping[str, Any], source: str) -> str:
    """Load a state dict as :func:`load_weights` does; ``source`` names it in messages."""
    if not isinstance(state, Mapping):
        raise UserError(f"{source} holds no weights by name but {shown(state)}")
    state = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    wanted = model.state_dict()
    renewable = tuple(getattr(model, "reinitialised_on_mismatch", ()))
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
        lists = "; ".join(f"{kind}: {_shorten(keys)}" for kind, keys in problems.items() if keys)
        raise UserError(f"the weights of {source} do not fit the model; {lists}")
    try:
        model.load_state_dict({**state, **{k: wanted[k] for k in renewed}}, strict=True)
    except RuntimeError as error:  # of a type that cannot become the model's
        reason = " ".join(str(error).split())
        raise UserError(f"the weights of {source} do not fit the model: {reason}") from error
    said = f"; initialised anew, for their shapes differ: {', '.join(renewed)}" if renewed else ""
    broken = [n for n, p in model.named_parameters() if not p.isfinite().all()]
    if broken:  # whoever wants to look at them may
        said += f"; beware, NaN or infinity in {_shorten(broken)}"
    return f"loaded {len(wanted) - len(renewed)} of {len(wanted)} tensors from {source}{said}"


def _shorten(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{len(keys)} ({', '.join(keys[:_SHOWN])}{more})"

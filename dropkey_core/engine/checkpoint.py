"""Checkpoint files: plain dicts of tensors and numbers that official DETR and detectron2 read too.

Under ``model`` lies the model's ``state_dict``. Files are read with ``weights_only=True``: one that
holds code is refused, never run. They are written beside their place and moved there when complete.
"""

import argparse
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dropkey_core.engine.errors import UserError

_SHOWN = 5  # keys of a kind that an error lists
# Beside tensors and plain values: the official DETR and QPIC keep their command line in a file.
_INERT: list[Any] = [argparse.Namespace]


def read_checkpoint(path: str | Path, setting: str = "the checkpoint") -> dict[str, Any]:
    """Return the content of a checkpoint, tensors on the CPU.

    Args:
        path: a file or an http(s) URL; what a URL names is downloaded once and kept.
        setting: where the path comes from, for the error.

    Raises:
        UserError: if it is missing, unreadable, holds code, or is not a dict.
    """
    try:
        with torch.serialization.safe_globals(_INERT):
            if str(path).startswith(("http://", "https://")):
                content = torch.hub.load_state_dict_from_url(
                    str(path), map_location="cpu", weights_only=True, check_hash=False
                )
            else:
                content = torch.load(Path(path).expanduser(), map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"no checkpoint at {path} (from {setting})") from error
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path, setting, str(error))) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot read the checkpoint {path} (from {setting}): {reason}") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(f"the checkpoint {path} (from {setting}) must hold a dict, not a {kind}")
    return content


def _refusal(path: str | Path, setting: str, reason: str) -> str:
    _, found, name = reason.partition("GLOBAL ")
    what = f"asks to run {name.split()[0]!r}" if found else "is damaged or holds other things"
    return (
        f"the checkpoint {path} (from {setting}) is refused: only tensors and plain values are "
        f"loaded, and it {what}"
    )


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` so that ``path`` is the old file or the complete new one, never a part.

    Raises:
        UserError: if the disk is full or the folder cannot be written to; ``path`` stays as it was.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        unfinished.unlink(missing_ok=True)
        raise UserError(f"cannot write the checkpoint {path}: {error}") from error


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
    weights = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    converted, said = convert(weights)
    write_checkpoint(target.expanduser(), {"model": dict(converted)})
    return said


def link_checkpoint(path: Path, other: Path) -> None:
    """Make ``other`` a second name of the file ``path``, which is replaced and never rewritten."""
    other.unlink(missing_ok=True)
    try:
        os.link(path, other)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, other)


def load_weights(model: nn.Module, path: str | Path, setting: str = "--weights") -> str:
    """Load the weights of a checkpoint into ``model``, by name and strictly.

    Args:
        model: its class may name ``reinitialised_on_mismatch``, prefixes of keys such as
            ``class_embed`` that depend on the data: where only their shapes differ they keep their
            fresh values.
        path: file or URL of ours, of official DETR or detectron2 (``{"model": state_dict}``), or a
            bare state dict.
        setting: where the path comes from, for errors.

    Returns:
        One line that says what was loaded and what was not.

    Raises:
        UserError: listing missing, unexpected and mis-shaped keys if the architectures differ.
    """
    content = read_checkpoint(path, setting)
    return load_state(model, content.get("model", content), f"{path} (from {setting})")


def load_state(model: nn.Module, state: Mapping[str, Any], source: str) -> str:
    """Load a state dict as :func:`load_weights` does; ``source`` names it in messages."""
    state = {name: value for name, value in state.items() if isinstance(value, Tensor)}
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
    model.load_state_dict({**state, **{k: wanted[k] for k in renewed}}, strict=True)
    said = f"; initialised anew, for their shapes differ: {', '.join(renewed)}" if renewed else ""
    return f"loaded {len(wanted) - len(renewed)} of {len(wanted)} tensors from {source}{said}"


def _shorten(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{len(keys)} ({', '.join(keys[:_SHOWN])}{more})"

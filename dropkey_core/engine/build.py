"""Instantiation: the objects that the ``_target_``s of a config name."""

import importlib
import inspect
import pkgutil
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from dropkey_core.engine.errors import UserError, first_line, suggestion
from dropkey_core.engine.evaluation import Evaluator
from dropkey_core.engine.published import PublishedWeights


def build_model(config: DictConfig, weights_follow: bool) -> nn.Module:
    """Make the model; where a checkpoint follows, without fetching what it is going to replace.

    A model that can start from published backbone weights takes ``pretrained_backbone``.
    """
    parameters = inspect.signature(locate(config.model._target_, "model")).parameters
    replaced = weights_follow and "pretrained_backbone" in parameters
    return instantiate(
        config.model, "model", **({"pretrained_backbone": False} if replaced else {})
    )


def published_weights(model: DictConfig) -> Mapping[str, PublishedWeights]:
    """The weights by name of the project that a model is from: of its module ``published``."""
    project = str(model._target_).rpartition(".")[0]
    return getattr(import_if_present(f"{project}.published", "model"), "PUBLISHED", {})


def build_optimizer(section: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer; like detectron2, give the model to what makes its parameter groups."""
    groups = instantiate(section.params, "optimizer.params", model=model)
    return instantiate(section, "optimizer", params=groups)


def build_evaluation(config: DictConfig) -> tuple[Iterable[list[dict[str, Any]]], Evaluator]:
    """Make the test loader and the evaluator."""
    return (
        instantiate(config.dataloader.test, "dataloader.test"),
        instantiate(config.dataloader.evaluator, "dataloader.evaluator"),
    )


def locate(target: Any, key: str) -> Callable[..., Any]:
    """Import the callable that a ``_target_`` names.

    Raises:
        UserError: naming ``key`` and the nearest name that exists.
    """
    parts = target.split(".") if isinstance(target, str) else []
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        example = "a dotted name such as projects.detr.build_model"
        raise UserError(f"{key} must be {example}, got {target!r}")
    found: Any = None
    for depth, part in enumerate(parts):
        name = ".".join(parts[: depth + 1])
        child = getattr(found, part, None) if depth else None
        found = import_if_present(name, key) if child is None else child
        if found is None:
            owner = sys.modules.get(".".join(parts[:depth]))
            raise UserError(f"{key}: cannot import {target!r}{suggestion(part, names_in(owner))}")
    if not callable(found):
        raise UserError(f"{key}: {target!r} is a {type(found).__name__}, not something to call")
    return typing.cast("Callable[..., Any]", found)


def import_if_present(name: str, key: str) -> types.ModuleType | None:
    """Import a module; None if there is none of that name, UserError if it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}.") or "is not a package" in str(error):
            return None
        raise UserError(f"{key}: importing {name!r} needs the module {missing!r}") from error
    except ImportError as error:
        raise UserError(f"{key}: importing {name!r} failed: {first_line(error)}") from error


def names_in(module: types.ModuleType | None) -> list[str]:
    """Return what a ``_target_`` can name inside ``module`` (None: the packages to start from)."""
    if module is None:
        return ["dropkey_core", "projects", "torch", "torchvision"]
    inside = [found.name for found in pkgutil.iter_modules(getattr(module, "__path__", []))]
    return [name for name in dir(module) if not name.startswith("_")] + inside


def instantiate(node: Any, key: str, **injected: Any) -> Any:
    """Make the object that a checked ``_target_`` section describes, nested ones first.

    Args:
        node: the section; its lists and mappings reach the callables as plain ones.
        key: its name in the config, for errors.
        injected: arguments that no YAML can hold, such as the model; passed on as they are, in
            place of the section's.

    Raises:
        UserError: if a callable refuses a value (ValueError) or finds no file, with its words.
    """
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node

    def made(value: Any, /, **more: Any) -> Any:
        if isinstance(value, list):
            return [made(part) for part in value]
        if not isinstance(value, dict):
            return value
        rest = {name: made(part) for name, part in value.items() if name not in ("_target_", *more)}
        return locate(value["_target_"], key)(**rest, **more) if "_target_" in value else rest

    try:
        return made(plain, **injected)
    except (ValueError, FileNotFoundError) as error:
        raise UserError(f"{key}: {first_line(error)}") from error

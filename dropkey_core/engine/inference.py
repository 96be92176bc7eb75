"""Inference: a trained model from its config and a checkpoint, and the records it is run on."""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from dropkey_core.engine.build import build_model, import_if_present
from dropkey_core.engine.checkpoint import (
    find_weights,
    kept_settings,
    load_state,
    weights_by_name,
)
from dropkey_core.engine.config import apply_override, check_calls, load_config, resolve
from dropkey_core.engine.errors import UserError, shown
from dropkey_core.engine.files.outside import reading
from dropkey_core.engine.launch import DEVICES, available_device
from dropkey_core.engine.paths import PROJECT_ROOT
from dropkey_core.engine.published import PublishedWeights
from dropkey_core.engine.run_folder import CONFIG

T = TypeVar("T")


@dataclass(frozen=True)
class Trained:
    """A trained model that is not built yet.

    Attributes:
        config: of its training, or what of it predicting needs.
        content: of the checkpoint.
        source: where that is from.
        file: that it was read from; None: not from one that a model may refuse.
    """

    config: DictConfig
    content: Mapping[str, Any]
    source: str
    file: Path | None = None

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """The weights by name."""
        return weights_by_name(self.content.get("model", self.content), self.source)

    def classes(self, kind: type[T]) -> T | None:
        """The classes that the checkpoint names, if they are of a ``kind`` that msgspec knows."""
        with suppress(msgspec.ValidationError):
            return msgspec.convert(self.content.get("classes"), kind)
        return None

    def tensor(self, kind: str, key: str) -> Tensor:
        """Return a tensor that all models of a ``kind`` have; UserError where it is not."""
        if key not in self.state:
            raise UserError(f"{self.source} is no checkpoint of {kind}: it has no {key}")
        return self.state[key]

    def build(self, settings: Mapping[str, Any] | None = None) -> nn.Module:
        """Build the model in eval mode with its weights, and say what was loaded.

        Args:
            settings: of the model, instead of the config's.

        Returns:
            the model, on the config's device or, where that is not there, the best that is.

        Raises:
            UserError: the weights do not fit.
        """
        config = copy.deepcopy(self.config)
        config.model.update(settings or {})
        model = build_model(config, weights_follow=True).eval()
        judge: Any = getattr(model, "checkpoint_problem", None)
        judged = None if judge is None or self.file is None else judge(self.file, self.content)
        if judged:
            raise UserError(f"{self.source} {judged}")
        print(load_state(model, self.state, self.source, exactly=True))
        device = available_device(named := config.train.device)
        if device != named:
            print(f"warning: device is {named} and this machine has none: {device} takes its place")
        return model.to(device)


def find_trained(
    source: str | Path,
    published: Mapping[str, PublishedWeights],
    config: str | Path | DictConfig | None = None,
    overrides: Sequence[str] = (),
    device: str | None = None,
) -> Trained:
    """Find a trained model: its config, and its weights.

    Args:
        source: a name of ``published``; the folder of a run; a checkpoint, a file or URL.
        published: weights by name.
        config: instead of the source's own; a checkpoint that says none needs it.
        overrides: ``key=value`` changes to a config that is not loaded yet.
        device: instead of the config's.

    Raises:
        UserError: there is no such model, it needs a config, or something cannot be read.
    """
    place = str(source)
    file, content = find_weights(place, "--model", published)
    if place in published:
        config = PROJECT_ROOT / published[place].config if config is None else config
        overrides = [*published[place].overrides, *overrides]
    elif config is None and (own := Path(place).expanduser() / CONFIG).is_file():
        config = own
    if config is None:
        chosen = own_config(content, place, overrides)
    elif isinstance(config, DictConfig):
        chosen = copy.deepcopy(config)
    else:
        chosen = load_config(config, overrides)
    chosen.train.device = device or chosen.train.device
    if chosen.train.device not in DEVICES:
        raise UserError(f"device must be one of {', '.join(DEVICES)}, got {chosen.train.device!r}")
    return Trained(chosen, content, place, file)


def own_config(content: Mapping[str, Any], source: str, overrides: Sequence[str]) -> DictConfig:
    """The config that a checkpoint of ours brings along, as far as predicting needs it.

    Whoever made a file decides what is in it: what its ``_target_``s may call are the public names
    of this checkout's projects, nothing else. A run's config has no interpolations left, which
    could put together others after this was checked.

    Raises:
        UserError: it brings none, or one that calls something else.
    """
    with reading(f"the config in {source}", "YAML"):
        settings = kept_settings(content)
    model, mapper = settings.get("model"), within(settings, "dataloader", "test", "mapper")
    parts = {
        "dataset": texts_in(settings.get("dataset")),
        "model": model,
        "dataloader": {"test": {"mapper": mapper}},
        "train": {"device": within(settings, "train", "device") or DEVICES[0]},
    }
    if not all(isinstance(call, dict) and "_target_" in call for call in (model, mapper)):
        raise UserError(
            f"{source} does not say which model it is of: give its YAML as config (--config)"
        )
    for key, value in values_in(parts):
        if (key == "_target_" and not is_public(value)) or "${" in str(value):
            raise UserError(
                f"the config in {source} has {key}: {shown(value)}, which is not allowed in a "
                "checkpoint: give a YAML that you trust as config (--config)"
            )
    with reading(f"the config in {source}", "settings"):
        config = OmegaConf.create(parts)
    for override in overrides:
        apply_override(config, override)
    plain = resolve(config)
    check_calls(plain)
    return OmegaConf.create(plain)


def texts_in(settings: Any) -> dict[str, Any]:
    """The texts in nested settings, as the paths of a ``dataset`` are."""
    items = settings.items() if isinstance(settings, dict) else ()
    nested = {
        str(name): texts_in(child) if isinstance(child, dict) else child for name, child in items
    }
    return {name: child for name, child in nested.items() if isinstance(child, dict | str)}


def within(settings: Any, *keys: str) -> Any:
    """A value in nested settings; None where there is none."""
    for key in keys:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings


def values_in(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield everything in nested settings but dicts and lists, and every ``_target_``, by key."""
    if isinstance(value, dict):
        for name, child in value.items():
            if name == "_target_" and isinstance(child, dict | list):
                yield name, child
            yield from values_in(child, str(name))
    elif isinstance(value, list):
        for child in value:
            yield from values_in(child, key)
    else:
        yield key, value


def is_public(target: Any) -> bool:
    """Whether a ``_target_`` is a public name of a project of this checkout."""
    match = re.fullmatch(r"(projects\.[a-z]\w*)\.([a-zA-Z]\w*)", str(target))
    if match is None:
        return False
    module = import_if_present(match[1], "model")
    return match[2] in getattr(module, "__all__", ())

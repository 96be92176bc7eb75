"""One YAML per experiment: read, overridden, checked and turned into objects.

The YAML is what detectron2 calls a LazyConfig: plain sections whose ``_target_`` names a callable
and whose other keys are its keyword arguments. Mistakes are found here, before any data is read,
and told in one line that names the key and the nearest right one.
"""

import inspect
import math
import os
import types
import typing
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from dropkey_core.engine.build import locate
from dropkey_core.engine.errors import UserError, first_line, unknown_key
from dropkey_core.engine.files.yaml_file import find_yaml, read_yaml

REQUIRED_SECTIONS = ("model", "optimizer", "lr_multiplier", "dataloader", "train")
SECTIONS = ("dataset", *REQUIRED_SECTIONS)
LOADERS = ("train", "test", "evaluator")

# Arguments that the engine passes itself, as detectron2 does: `cfg.optimizer.params.model = model`.
INJECTED = {"optimizer.params": {"model"}}


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> DictConfig:
    """Read a config, apply ``key=value`` overrides, check it, and resolve its interpolations.

    Args:
        path: the YAML, relative to the working folder or else to the project's root.
        overrides: for instance ``optimizer.lr=1e-4``; the key is in the file or is a parameter of
            the ``_target_`` it belongs to. The value is read as YAML, or as it stands where only
            text can be meant, such as the name of a folder.

    Returns:
        The config without interpolations; ``train`` is complete with its defaults.

    Raises:
        UserError: whatever is wrong, with the key and the nearest right one.
    """
    config = read_yaml(find_yaml(path, "config", "projects/*/*.yaml"), SECTIONS)
    if isinstance(config.get("dataset"), DictConfig):  # these keys are read by the file alone
        OmegaConf.set_struct(config.dataset, True)
    for override in overrides:
        apply_override(config, override)
    check_sections(config)
    config.train = merge_train_settings(config.train)
    plain = resolve(config)
    check_calls(plain)
    check_ddp_options(plain["train"]["ddp"])
    return OmegaConf.create(plain)


def apply_override(config: DictConfig, override: str) -> None:
    """Set one ``key=value`` in ``config``; that something reads the key is checked later.

    Raises:
        UserError: for an unreadable value, or a key that nothing in ``dataset`` is called.
    """
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UserError(f"an override reads key=value, got {override!r}")
    try:
        is_yaml = value in ("", "null", "~") or value[0] in "'\""  # nothing, and text in quotes
        if not is_yaml and takes_text(config, key):
            OmegaConf.update(config, key, value)
        else:
            config.merge_with_dotlist([override])
    except (ConfigAttributeError, ConfigKeyError) as error:
        raise unknown_config_key(error) from error
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, IndexError) as error:
        raise UserError(f"cannot apply the override {override!r}: {first_line(error)}") from error


def takes_text(config: DictConfig, key: str) -> bool:
    """Whether text is all that a key may have (2024_01_15, 1e3 and no are other things in YAML).

    The type says so that ``train`` or a ``_target_`` has for it, or else the text that it has.
    """
    section: Any = OmegaConf.to_container(config)
    *parents, name = key.split(".")
    for part in parents:
        section = section.get(part) if isinstance(section, dict) else None
    if not isinstance(section, dict):
        return False
    hints = text_hints(TrainSettings if parents == ["train"] else section.get("_target_"))
    value = section.get(name)
    return hints.get(name, isinstance(value, str) and not value.startswith(("${", "???")))


def text_hints(target: Any) -> dict[str, bool]:
    """Whether each argument of a class, or of what a ``_target_`` names, can only be text."""
    try:
        hints = type_hints(target if isinstance(target, type) else locate(target, "_target_"))
    except UserError:  # which is told later
        return {}
    return {name: is_text(hint) for name, hint in hints.items()}


def is_text(hint: Any) -> bool:
    """Whether an annotation is that of texts and paths alone, with or without None."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = [typing.get_origin(kind) or kind for kind in typing.get_args(hint)]
    return all(
        isinstance(kind, type) and issubclass(kind, str | os.PathLike | types.NoneType)
        for kind in (kinds if is_union else [hint])
    )


def unknown_config_key(error: OmegaConfBaseException) -> UserError:
    """Return what to say of OmegaConf's error about a key that a section does not have."""
    return unknown_key(str(error.full_key), [str(name) for name in error.parent_node or ()])


def check_sections(config: DictConfig) -> None:
    """Check the names of the sections, the two levels of the file that are fixed."""
    for name in config:
        if name not in SECTIONS:
            raise unknown_key(str(name), SECTIONS)
    for name in REQUIRED_SECTIONS:
        if not isinstance(config._get_node(name), DictConfig):
            raise UserError(f"the config has no section {name!r}")
    for name in map(str, config.dataloader):
        if name not in LOADERS:
            raise unknown_key(f"dataloader.{name}", LOADERS)


def merge_train_settings(train: DictConfig) -> DictConfig:
    """Return ``train`` with types checked and defaults filled in.

    Raises:
        UserError: for an unknown key or a value of the wrong type.
    """
    settings = OmegaConf.create({"train": OmegaConf.structured(TrainSettings)})
    if train.get("max_epochs"):
        settings.train.max_iter = 1  # until the size of the training set is known
    written: Any = OmegaConf.to_container(train)
    for name, only_text in text_hints(TrainSettings).items():
        if only_text and isinstance(value := written.get(name), bool | int | float):
            raise UserError(f"train.{name} must be text, YAML reads {value!r} here: quote it")
    try:
        merged = typing.cast("DictConfig", OmegaConf.merge(settings, {"train": train}).train)
        for name in ("output_dir", "init_checkpoint"):
            if str(written.get(name)).startswith("~"):
                merged[name] = os.path.expanduser(written[name])  # noqa: PTH111, of URLs too
        return merged
    except (ConfigAttributeError, ConfigKeyError) as error:
        raise unknown_config_key(error) from error
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or 'train'}: {first_line(error)}") from error


def resolve(config: DictConfig) -> dict[str, Any]:
    """Return the config as plain values, interpolations replaced.

    Raises:
        UserError: for an interpolation that leads nowhere or a value that was left open (``???``).
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or 'config'}: {first_line(error)}") from error
    return typing.cast("dict[str, Any]", plain)


def check_calls(value: Any, key: str = "") -> None:
    """Check every ``_target_`` below ``value``: it is there and takes the arguments given."""
    if isinstance(value, dict):
        if "_target_" in value:
            check_call(value, key)
        for name, child in value.items():
            check_calls(child, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for position, child in enumerate(value):
            check_calls(child, f"{key}.{position}")


def check_call(call: dict[str, Any], key: str) -> None:
    """Compare one ``{_target_: ..., argument: value}`` with the signature of its target."""
    target = locate(call["_target_"], f"{key}._target_")
    arguments = {name: value for name, value in call.items() if name != "_target_"}
    check_argument_names(arguments, INJECTED.get(key, set()), target, key)
    hints = type_hints(target)
    for name, value in arguments.items():
        if name in hints and not fits(value, hints[name]):
            wanted = inspect.formatannotation(hints[name]).replace("collections.abc.", "")
            raise UserError(f"{key}.{name} must be {wanted}, got {value!r}")


def check_argument_names(
    given: Collection[str], injected: Collection[str], function: Callable[..., Any], key: str
) -> None:
    """Refuse arguments that a function does not take and the absence of those that it needs."""
    parameters = inspect.signature(function).parameters
    by_name = {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in injected
    }
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in given:
        if name not in by_name and not takes_any:
            raise unknown_key(f"{key}.{name}", by_name)
    for name, default in by_name.items():
        if default is inspect.Parameter.empty and name not in given:
            raise UserError(f"{key}.{name} is missing, and its _target_ needs it")


def check_ddp_options(options: dict[str, Any]) -> None:
    """Check ``train.ddp`` against DistributedDataParallel, which receives it."""
    from torch.nn.parallel import DistributedDataParallel

    ours = {"module", "device_ids", "output_device"}
    check_argument_names(options, ours, DistributedDataParallel, "train.ddp")


def type_hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the parameter annotations of a function or of a class's constructor, if readable."""
    function = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        return {}  # annotations for readers only; the names are checked all the same


def fits(value: Any, hint: Any) -> bool:
    """Return whether a plain YAML value can be meant by an annotation.

    In doubt it can: what a ``_target_`` makes, and any type that YAML has no values of.
    """
    within = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    if any(isinstance(part, dict) and "_target_" in part for part in (value, *within)):
        return True

    def unknown(kind: type, value: Any) -> Any:
        raise NotImplementedError

    try:
        msgspec.convert(value, hint, dec_hook=unknown)
    except msgspec.ValidationError:
        return False
    except (TypeError, NotImplementedError):  # not for msgspec to judge
        pass
    return True


class BestMode(Enum):
    """Which of two values of a metric is the better one."""

    max = "higher"
    min = "lower"


class AmpDtype(Enum):
    """The dtype of the forward in mixed precision."""

    bfloat16 = "the range of float32, no scaler"
    float16 = "CUDA only, with a scaler"


class Float32Precision(Enum):
    """What ``torch.set_float32_matmul_precision`` takes."""

    highest = "float32"
    high = "TF32"
    medium = "bfloat16"


@dataclass
class AmpSettings:
    """Mixed precision; without a dtype it is bfloat16 where the device computes in it.

    Elsewhere it is float16 on a GPU, and float32 on a CPU.
    """

    enabled: bool = False
    dtype: AmpDtype | None = None


@dataclass
class EmaSettings:
    """Moving average of the weights, evaluated in their place; see ``WeightAverage``.

    ``decay`` 0 is none.
    """

    decay: float = 0.0
    warmup: bool = False


@dataclass
class CheckpointerSettings:
    """How often a checkpoint is written, in steps, and how many numbered ones stay."""

    period: int = 5000
    max_to_keep: int = 1


@dataclass
class TrainSettings:
    """What the engine itself needs to know; detectron2 reads the same keys.

    Attributes:
        output_dir: folder of everything the run writes, relative to the working folder.
        max_iter: number of training steps.
        max_epochs: in its place, how often each record of the training set is seen; 0 for none.
        patience: stop after so many evaluations without a better ``best_metric``; 0 for never.
        accumulate: micro-batches of a step, or ``auto``: as many as memory asks for.
        ema: see ``EmaSettings``.
        init_checkpoint: weights to start from or to evaluate: a published name, the folder of a
            run, a checkpoint (path or URL); empty for none.
        eval_period: steps between evaluations; 0 evaluates at the end only.
        log_period: steps between lines in the log.
        loggers: some of ``csv``, ``tensorboard``, ``wandb``, ``mlflow``; see ``loggers.py``.
        examples: images of the test set in the picture that an evaluation adds to the logs.
        device: ``cuda``, ``mps`` or ``cpu``; where it is not there, the best that is.
        float32_precision: of matrix products on CUDA; detectron2's name of torch's setting.
        compile: let ``torch.compile`` make faster code of the model, in the first steps.
        seed: decides the initial weights, the order of samples and every random draw.
        best_metric: which result picks ``best.pth``, for instance ``bbox/AP``; empty for none.
        best_mode: ``max`` where a higher ``best_metric`` is better, ``min`` where a lower one is.
        ddp: options of torch's DistributedDataParallel.
    """

    output_dir: str = MISSING
    max_iter: int = MISSING
    max_epochs: float = 0.0
    patience: int = 0
    init_checkpoint: str | None = None
    amp: AmpSettings = field(default_factory=AmpSettings)
    accumulate: Any = 1
    ema: EmaSettings = field(default_factory=EmaSettings)
    ddp: dict[str, Any] = field(default_factory=dict)
    checkpointer: CheckpointerSettings = field(default_factory=CheckpointerSettings)
    eval_period: int = 5000
    log_period: int = 20
    loggers: Any = field(default_factory=lambda: ["csv", "tensorboard"])
    examples: int = 4
    device: str = "cuda"
    float32_precision: Float32Precision = Float32Precision.high
    compile: bool = False
    seed: int = 0
    best_metric: str = ""
    best_mode: BestMode = BestMode.max


def check_train_settings(settings: DictConfig) -> None:
    """Raise UserError for numbers that no run can have."""
    least = {"max_iter": 1, "max_epochs": 0, "patience": 0, "log_period": 1, "eval_period": 0}
    least |= {"checkpointer.period": 1, "checkpointer.max_to_keep": 1, "examples": 0}
    for name, number in least.items():
        if (value := OmegaConf.select(settings, name)) < number:
            raise UserError(f"train.{name} must be at least {number}, got {value}")
    if not math.isfinite(settings.max_epochs):
        raise UserError(f"train.max_epochs must be a number of epochs, got {settings.max_epochs}")
    number = settings.accumulate
    if number != "auto" and (type(number) is not int or number < 1):
        raise UserError(f"train.accumulate must be auto or at least 1, got {number!r}")
    if settings.patience and not settings.best_metric:
        raise UserError("train.patience needs train.best_metric: what shall become better?")
    if not 0 <= settings.ema.decay < 1:
        raise UserError(f"train.ema.decay must be 0 or in (0, 1), got {settings.ema.decay}")

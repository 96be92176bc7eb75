"""Inference: a trained model from its config and a checkpoint, and the records it is run on."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from dropkey_core.engine.build import instantiate
from dropkey_core.engine.checkpoint import load_weights, read_checkpoint
from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.images import find_images, spread
from dropkey_core.engine.launch import available_device
from dropkey_core.engine.run_folder import BEST, CONFIG, LAST


def find_run_files(
    run: Path | None, config: str | None, weights: str | None, output: Path | None
) -> tuple[str, str, Path | None]:
    """Return the paths of config, weights and pictures of a command line.

    Args:
        run: ``--run``, the folder of a training; it fills the gaps.
        config: ``--config``, else the run's resolved config.
        weights: ``--weights``, else the run's best checkpoint or its last.
        output: ``--output``, else ``pictures`` in the run's folder; None without run.

    Raises:
        UserError: naming the option that is missing, or what the run's folder lacks.
    """
    if run is None:
        if config is None:
            raise UserError("nothing to show: give --run FOLDER, or --config FILE --weights FILE")
        if weights is None:
            raise UserError("no weights to look at: give --weights FILE, or --run FOLDER")
        return config, weights, output
    folder = run.expanduser().absolute()
    if not (folder / CONFIG).is_file():
        raise UserError(f"--run {folder} is no folder of a run: it has no {CONFIG}")
    present = [str(folder / name) for name in (BEST, LAST) if (folder / name).is_file()]
    if not (weights or present):
        raise UserError(f"--run {folder} has no checkpoint yet, neither {BEST} nor {LAST}")
    return config or str(folder / CONFIG), weights or present[0], output or folder / "pictures"


def read_model_weights(weights: str, kind: str, key: str) -> dict[str, Any]:
    """Return the content of a checkpoint, a file or URL.

    Raises:
        UserError: see ``read_checkpoint``; or it has no tensor ``key``, as every ``kind`` of model.
    """
    content = read_checkpoint(weights, "--weights")
    state = content.get("model", content)
    if key not in state:
        raise UserError(f"{weights} is no checkpoint of {kind}: it has no {key}")
    return content


def load_trained(
    config: DictConfig,
    weights: str,
    content: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a config's model in eval mode with the weights of a checkpoint, and say which.

    Args:
        config: with ``model`` and ``train.device``; it stays as it is.
        weights: path of the checkpoint.
        content: what is in it.
        settings: of the model, instead of the config's.

    Returns:
        the model, on the config's device or, where that is not there, the best that is.

    Raises:
        UserError: the weights do not fit.
    """
    config = copy.deepcopy(config)
    config.model.update({**(settings or {}), "pretrained_backbone": False})
    model = instantiate(config.model, "model").eval()
    print(load_weights(model, weights, content=content))
    return model.to(available_device(config.train.device))


def choose_records(
    config: DictConfig, images: Sequence[str] | None, count: int
) -> tuple[list[dict[str, Any]], str]:
    """Choose records of a test set, or image files, evenly spread.

    Args:
        config: whose ``dataloader.test.dataset`` is taken if there are no ``images``.
        images: files and folders, which become records with nothing but a ``file_name``.
        count: choose at most so many.

    Returns:
        the records, and how many of how many they are, in words.
    """
    if images is None:
        records = instantiate(config.dataloader.test.dataset, "dataloader.test.dataset")
    else:
        records = [{"file_name": str(path)} for path in find_images(images)]
    chosen = spread(records, count)
    return chosen, f"{len(chosen)} of {len(records)} images"

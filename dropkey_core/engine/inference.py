"""Inference: a trained model from its config and a checkpoint, and the records it is run on."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from dropkey_core.engine.build import instantiate
from dropkey_core.engine.checkpoint import load_weights, read_checkpoint
from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.images import find_images, spread


def read_model_weights(weights: str, kind: str, key: str) -> dict[str, Any]:
    """Read a checkpoint of a kind of model.

    Args:
        weights: file or URL.
        kind: of the model, for the error.
        key: a tensor that every such model has.

    Returns:
        what is in it, with its state dict under ``model`` or bare.

    Raises:
        UserError: see ``read_checkpoint``, or it is of another model.
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
        the model, on the GPU if the config asks for one and there is one.

    Raises:
        UserError: the weights do not fit.
    """
    config = copy.deepcopy(config)
    config.model.update({**(settings or {}), "pretrained_backbone": False})
    model = instantiate(config.model, "model").eval()
    print(load_weights(model, weights, content=content))
    use_gpu = config.train.device == "cuda" and torch.cuda.is_available()
    return model.to("cuda" if use_gpu else "cpu")


def choose_records(
    config: DictConfig, images: Sequence[str] | None, count: int
) -> tuple[list[dict[str, Any]], str]:
    """Choose records of a test set, or image files, evenly spread.

    Args:
        config: whose ``dataloader.test.dataset`` is taken if there are no ``images``.
        images: files and folders, which become records with nothing but a ``file_name``.
        count: choose at most so many.

    Returns:
        the records, and how many they are of how many, in words.

    Raises:
        UserError: nothing to choose from.
    """
    if images is None:
        records = instantiate(config.dataloader.test.dataset, "dataloader.test.dataset")
    else:
        records = [{"file_name": str(path)} for path in find_images(images)]
    chosen = spread(records, count)
    return chosen, f"{len(chosen)} of {len(records)} images"

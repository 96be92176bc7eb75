"""Published weights of classifiers for ``train.init_checkpoint``."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dropkey_core.engine import UserError
from dropkey_core.engine.checkpoint import load_state
from projects.classification.network import T2T_SIZES
from projects.classification.t2t import T2TViT

# Where training scripts put weights, the best first: T2T-ViT's and VOLO's follow timm's.
PLACES = ("state_dict_ema", "model", "state_dict")
NETWORK = "network."
WRAPPED = "module."  # of a model that was trained by several processes
T2T_MARK = "tokens_to_token.project.weight"


def classifier_weights(content: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights of ``ClassificationModel`` in a checkpoint, and what was done, a line each.

    Args:
        content: of a checkpoint of the official T2T-ViT (its averaged weights if there are some),
            VOLO or DeiT, or of timm.

    Raises:
        UserError: it is of something else.
    """
    place, state = weights_of(content)
    network = network_weights(state)
    said = [f"converted: {len(network)} tensors of {place}"]
    if T2T_MARK in network:
        said.append(describe_t2t(network))
    return {f"{NETWORK}{name}": tensor for name, tensor in network.items()}, said


def weights_of(content: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """The weights in a checkpoint, and where they were."""
    for place in PLACES:
        if isinstance(content.get(place), Mapping):
            return place, tensors_of(content[place])
    return "the file", tensors_of(content)


def tensors_of(mapping: Mapping[str, Any]) -> dict[str, Tensor]:
    """What of a mapping are weights."""
    return {name: value for name, value in mapping.items() if isinstance(value, Tensor)}


def network_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The bare network's weights.

    Raises:
        UserError: no weights, or ours: there is nothing to convert.
    """
    if not state:
        raise UserError(
            f"there are no weights in the checkpoint, neither below {', '.join(PLACES)} nor outside"
        )
    if all(name.startswith(NETWORK) for name in state):  # some names in a VOLO do, too
        raise UserError(
            "these are weights of this project's Classifier already: nothing to convert"
        )
    return without_prefix(state, WRAPPED) or dict(state)


def without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {name[len(prefix) :]: t for name, t in state.items() if name.startswith(prefix)}


def describe_t2t(state: Mapping[str, Tensor]) -> str:
    """The config overrides that make the T2T-ViT of some weights.

    Raises:
        UserError: if the weights are not all those of a T2T-ViT of an official size.
    """
    name, settings = t2t_settings(state)
    with torch.device("meta"):  # nothing is initialised that the weights replace
        network = T2TViT(**settings, **T2T_SIZES[name])
    load_state(network.to_empty(device="cpu"), state, f"an official {name}")
    overrides = {"architecture": name, **settings}
    return " ".join(f"model.{key}={value}" for key, value in overrides.items())


def t2t_settings(state: Mapping[str, Tensor]) -> tuple[str, dict[str, int]]:
    """Name, number of classes and image size of the T2T-ViT that some weights belong to.

    Raises:
        UserError: no T2T-ViT here has these sizes.
    """
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    embed_dim = len(state[T2T_MARK])
    tokens = "performer" if "tokens_to_token.attention1.w" in state else "transformer"
    names = {
        (sizes["embed_dim"], sizes["depth"], sizes.get("tokens", "performer")): name
        for name, sizes in T2T_SIZES.items()
    }
    name = names.get((embed_dim, depth, tokens))
    if name is None:
        raise UserError(
            f"these are weights of a T2T-ViT of width {embed_dim} and depth {depth} with "
            f"{tokens} tokens, and only {', '.join(T2T_SIZES)} are known"
        )
    if missing := [key for key in ("head.weight", "pos_embed") if key not in state]:
        raise UserError(f"these weights of {name} are damaged; missing: {missing[0]}")
    side = math.isqrt(state["pos_embed"].shape[1] - 1)
    return name, {"num_classes": len(state["head.weight"]), "image_size": 16 * side}

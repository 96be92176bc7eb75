"""The one place that knows the networks' sizes: T2T-ViT's here, the others' in timm."""

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import timm
from timm.models.volo import VOLO
from torch import nn

from dropkey_core.engine.errors import UserError, unknown_key
from projects.classification.t2t import T2TViT
from projects.timm_network import create_timm_network

# Table 1 of arXiv 2101.11986.
T2T_SIZES: dict[str, dict[str, Any]] = {
    "t2t_vit_14": {"embed_dim": 384, "depth": 14, "num_heads": 6},
    "t2t_vit_19": {"embed_dim": 448, "depth": 19, "num_heads": 7},
    "t2t_vit_24": {"embed_dim": 512, "depth": 24, "num_heads": 8},
}
# The same with softmax attention in tokens-to-token.
T2T_SIZES |= {
    name.replace("vit_", "vit_t_"): {**sizes, "tokens": "transformer"}
    for name, sizes in T2T_SIZES.items()
}
T2T_SIZES |= {
    f"t2t_vit_{depth}": {"embed_dim": 256, "depth": depth, "num_heads": 4, "mlp_ratio": 2.0}
    for depth in (7, 10, 12)
}
# The papers' names of networks that timm names after their image size, too.
TIMM_NAMES = {f"volo_d{size}": f"volo_d{size}_224" for size in range(1, 6)}
# What has a setting of its own, under our names and timm's.
SETTINGS = {
    "num_classes": "num_classes",
    "image_size": "image_size",
    "img_size": "image_size",
    "drop_path": "drop_path",
    "drop_path_rate": "drop_path",
    "pretrained": "pretrained_backbone",
    "attn_drop_rate": "drop_ratio with drop_unit=weight",
}


@dataclass(frozen=True)
class Wanted:
    """What is asked of any network.

    Attributes:
        num_classes: size of the class head.
        image_size: side of the square images in pixels.
        drop_path: probability that a sample skips a branch of the last block.
        pretrained: start from published weights.

    Raises:
        UserError: no classes, or no pixels.
        ValueError: ``drop_path`` outside [0, 1).
    """

    num_classes: int
    image_size: int
    drop_path: float = 0.0
    pretrained: bool = False

    def __post_init__(self) -> None:
        for name in ("num_classes", "image_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0.0 <= self.drop_path < 1.0:
            raise ValueError(f"drop_path must be in [0, 1), got {self.drop_path}")


def build_network(architecture: str, wanted: Wanted, options: Mapping[str, Any]) -> nn.Module:
    """Build a network: (B, 3, S, S) -> logits (B, K).

    Args:
        architecture: see ``build_model``.
        wanted: what is asked of any network.
        options: other sizes, see ``architecture_options`` of ``build_model``.

    Raises:
        UserError: an unknown architecture or option, sizes that do not fit each other, published
            weights that there are not or that are out of reach.
    """
    for name in options.keys() & SETTINGS.keys():
        raise UserError(
            f"architecture_options must not hold {name}: set model.{SETTINGS[name]} instead"
        )
    if architecture in T2T_SIZES:
        return build_t2t(architecture, wanted, options)
    if architecture == "volo":
        return build_volo(wanted, options)
    return build_timm(TIMM_NAMES.get(architecture, architecture), wanted, options)


def build_t2t(architecture: str, wanted: Wanted, options: Mapping[str, Any]) -> T2TViT:
    """T2T-ViT; see ``build_network``."""
    if wanted.pretrained:
        raise UserError(
            f"{architecture} has no weights to fetch: convert the official checkpoint by "
            "tools/convert_checkpoint.py t2t, name it in train.init_checkpoint and set "
            "model.pretrained_backbone=false"
        )
    refuse_unknown_options(T2TViT, options)
    sizes = {**T2T_SIZES[architecture], **options}
    try:
        return T2TViT(wanted.num_classes, wanted.image_size, drop_path=wanted.drop_path, **sizes)
    except TypeError as error:  # a text for a number
        raise UserError(f"architecture_options of {architecture} {sizes}: {error}") from error


def build_volo(wanted: Wanted, options: Mapping[str, Any]) -> VOLO:
    """A VOLO of sizes of one's own; see ``build_network``."""
    if wanted.pretrained:
        raise UserError(
            "a VOLO of sizes of one's own has no weights to fetch: set "
            "model.pretrained_backbone=false, or model.architecture=volo_d1"
        )
    required = ("layers", "embed_dims", "num_heads")
    if missing := [name for name in required if name not in options]:
        raise UserError(f"architecture_options of volo must hold {missing[0]}, four numbers")
    refuse_unknown_options(VOLO, options)
    return VOLO(**timm_words(wanted), **options)


def build_timm(architecture: str, wanted: Wanted, options: Mapping[str, Any]) -> nn.Module:
    """A network of timm; see ``build_network``."""
    name = architecture.split(".")[0]  # what follows the dot names certain weights
    if not timm.is_model(name):
        known = [*T2T_SIZES, *TIMM_NAMES, *timm.list_models()]
        nearest = difflib.get_close_matches(architecture, known, n=3) or ["t2t_vit_14", "volo_d1"]
        raise UserError(
            "architecture must be a T2T-ViT or a network of timm, such as "
            f"{', '.join(nearest)}; got {architecture!r}"
        )
    try:
        return create_timm_network(architecture, wanted.pretrained, **timm_words(wanted), **options)
    except TypeError as error:  # an argument that this network does not take
        raise UserError(
            f"timm cannot make a {name} with these settings ({error}): choose a network with "
            "softmax attention, or other architecture_options"
        ) from error


def timm_words(wanted: Wanted) -> dict[str, Any]:
    """What is wanted of any network, as timm calls it."""
    return {
        "num_classes": wanted.num_classes,
        "img_size": wanted.image_size,
        "drop_path_rate": wanted.drop_path,
    }


def refuse_unknown_options(network: type[nn.Module], options: Mapping[str, Any]) -> None:
    """Raise a ``UserError`` if ``options`` are not all arguments of the class ``network``."""
    known = [name for name in arguments_of(network) if name not in SETTINGS]
    refuse_unknown(options, known, "model.architecture_options")


def refuse_unknown(names: Iterable[str], known: Collection[str], section: str) -> None:
    """Raise a ``UserError`` that suggests the nearest key of a config's section, unless known."""
    for name in names:
        if name not in known:
            raise unknown_key(f"{section}.{name}", known)


def arguments_of(function: Callable[..., Any]) -> list[str]:
    """The names of what a function or class takes."""
    return list(inspect.signature(function).parameters)

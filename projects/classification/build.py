"""The one place that knows the classifiers' sizes."""

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import timm
from timm.models.volo import VOLO
from torch import nn

from dropkey_core.attention import apply_dropkey
from dropkey_core.engine import UserError
from dropkey_core.variants import apply_reattention, apply_token_pooling
from projects.classification.averaging import WeightAverage
from projects.classification.classifier import Classifier
from projects.classification.diversification import Diversification
from projects.classification.mixing import build_mixing
from projects.classification.t2t import T2TViT

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
# What build_model sets by itself, in our words and in timm's.
SETTINGS = {
    "num_classes": "num_classes",
    "image_size": "image_size",
    "img_size": "image_size",
    "drop_path": "drop_path",
    "drop_path_rate": "drop_path",
    "pretrained": "pretrained_backbone",
    "attn_drop_rate": "drop_ratio with drop_unit=weight",
}
UNSETTABLE = ("network", "select")
# Variants that change the network, in the order in which they are applied.
NETWORK_VARIANTS: dict[str, Callable[..., Any]] = {
    "reattention": apply_reattention,
    "token_pooling": apply_token_pooling,
}
VARIANTS: dict[str, Callable[..., Any]] = {**NETWORK_VARIANTS, "diversification": Diversification}


def build_model(
    architecture: str = "t2t_vit_14",
    num_classes: int = 1000,
    image_size: int = 224,
    *,
    architecture_options: Mapping[str, Any] | None = None,
    pretrained_backbone: bool = False,
    drop_path: float = 0.1,
    drop_ratio: float = 0.1,
    drop_unit: str = "key",
    drop_schedule: str = "linear_decreasing",
    mixup: float = 0.0,
    cutmix: float = 0.0,
    label_smoothing: float = 0.0,
    ema_decay: float = 0.0,
    variants: Mapping[str, Mapping[str, Any] | None] | None = None,
) -> Classifier:
    """Build an image classifier with DropKey in all its self-attention.

    ``drop_ratio=0.0`` is the baseline, ``drop_unit="weight"`` vanilla attention dropout.

    Args:
        architecture: ``t2t_vit_14``, ``t2t_vit_19``, ``t2t_vit_24`` (or ``t2t_vit_t_14`` and so
            on, whose tokens-to-token is a transformer), ``t2t_vit_7``, ``_10``, ``_12``;
            ``volo_d1`` to ``volo_d5``; or another timm network with softmax attention such as
            ``deit_base_patch16_224``.
        num_classes: size of the class head.
        image_size: side of the square images in pixels.
        architecture_options: other sizes. For T2T-ViT what ``T2TViT`` takes: ``embed_dim``,
            ``depth``, ``num_heads``, ``mlp_ratio``, ``splits`` and so on; for timm's networks
            keyword arguments of ``timm.create_model``. timm cannot change the sizes of the VOLOs
            that have a number: ``volo`` takes all of them (``layers``, ``embed_dims``,
            ``num_heads``, of four stages each, and so on).
        pretrained_backbone: start a timm network from its published weights, fetched once from the
            Hugging Face hub; a head of other classes begins anew. T2T-ViT's are not there.
        drop_path: probability that a sample skips a branch of the last block (stochastic depth).
        drop_ratio: ratio at the first of all layers.
        drop_unit: what the attention drops: ``key`` (DropKey), ``weight`` (vanilla dropout) or
            another unit that ``dropkey_core.drop_key_attention`` knows.
        drop_schedule: how the ratio changes with depth, see ``dropkey_core.drop_ratios``.
        mixup: alpha of mixup, see ``build_mixing``; 0 is none.
        cutmix: alpha of cutmix; 0 is none.
        label_smoothing: part of each target that is spread over all classes, in [0, 1).
        ema_decay: weight of what went before in a moving average of the network's weights, which
            takes the network's place in evaluation, see ``WeightAverage``; 0 is none.
        variants: methods that DropKey is compared with, alone or together: ``reattention``,
            ``token_pooling``, ``diversification``, each with its settings (none: ``{}``). They are
            the arguments of ``apply_reattention`` and ``apply_token_pooling`` of
            ``dropkey_core.variants``, and of ``Diversification``.

    Returns:
        The model in training mode; ``network`` is the bare network, equipped by ``apply_dropkey``
        whatever the ratio. In eval mode nothing is dropped or mixed.

    Raises:
        UserError: an unknown architecture, option or variant, sizes that do not fit each other,
            published weights that there are not or that are out of reach.
        ValueError: a number outside its range, an unknown schedule or unit, a variant that the
            network is not made for.
    """
    check_sizes(num_classes, image_size, drop_path)
    options = dict(architecture_options or {})
    for name in options.keys() & SETTINGS.keys():
        raise UserError(
            f"architecture_options must not hold {name}: set model.{SETTINGS[name]} instead"
        )
    settings = checked_variants(variants)
    build = BUILDERS.get(architecture, build_timm)
    network = build(architecture, num_classes, image_size, drop_path, pretrained_backbone, options)
    apply_dropkey(network, drop_ratio, drop_schedule, unit=drop_unit, select=is_regularised)
    for name, apply in NETWORK_VARIANTS.items():
        if name in settings:
            apply(network, **settings[name])
    diversification = settings.get("diversification")
    return Classifier(
        network,
        num_classes,
        image_size,
        label_smoothing=label_smoothing,
        mixing=build_mixing(mixup, cutmix, label_smoothing, num_classes),
        diversification=None if diversification is None else Diversification(**diversification),
        average=WeightAverage(network, ema_decay) if ema_decay else None,
    )


def check_sizes(num_classes: int, image_size: int, drop_path: float) -> None:
    """Refuse numbers that no network can have."""
    for name, number in (("num_classes", num_classes), ("image_size", image_size)):
        if number < 1:
            raise UserError(f"{name} must be at least 1, got {number}")
    if not 0.0 <= drop_path < 1.0:
        raise ValueError(f"drop_path must be in [0, 1), got {drop_path}")


def checked_variants(variants: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """The settings of each variant, refused where something has another name."""
    settings = {name: dict(options or {}) for name, options in (variants or {}).items()}
    for name, options in settings.items():
        refuse_unknown(name, VARIANTS, "variants")
        for option in options:
            refuse_unknown(option, settings_of(VARIANTS[name]), f"variants.{name}")
    return settings


def settings_of(function: Callable[..., Any]) -> list[str]:
    """What a config can set of a function's arguments: no modules, no functions."""
    return [name for name in inspect.signature(function).parameters if name not in UNSETTABLE]


def refuse_unknown(name: str, known: Collection[str], where: str) -> None:
    """Raise a ``UserError`` that suggests the nearest name, unless ``name`` is known."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{where} may hold {', '.join(known)}; got {name}{hint}")


def refuse_unknown_options(
    architecture: str, network: type[nn.Module], options: Mapping[str, Any]
) -> None:
    """Raise a ``UserError`` if ``options`` are not all arguments of the class ``network``."""
    known = [name for name in settings_of(network) if name not in SETTINGS]
    for name in options:
        refuse_unknown(name, known, f"architecture_options of {architecture}")


def is_regularised(name: str, module: nn.Module) -> bool:
    """Whether attention has dropout in the official networks: all but in tokens-to-token."""
    return not name.startswith("tokens_to_token.")


def build_t2t(
    architecture: str,
    num_classes: int,
    image_size: int,
    drop_path: float,
    pretrained: bool,
    options: Mapping[str, Any],
) -> T2TViT:
    """T2T-ViT; see ``build_model`` for the arguments."""
    if pretrained:
        raise UserError(
            f"{architecture} has no weights to fetch: convert the official checkpoint by "
            "tools/convert_checkpoint.py t2t, name it in train.init_checkpoint and set "
            "model.pretrained_backbone=false"
        )
    refuse_unknown_options(architecture, T2TViT, options)
    sizes = {**T2T_SIZES[architecture], **options}
    try:
        return T2TViT(num_classes, image_size, drop_path=drop_path, **sizes)
    except TypeError as error:  # a text for a number
        raise UserError(f"architecture_options of {architecture} {sizes}: {error}") from error


def build_volo(
    architecture: str,
    num_classes: int,
    image_size: int,
    drop_path: float,
    pretrained: bool,
    options: Mapping[str, Any],
) -> VOLO:
    """A VOLO of sizes of one's own; see ``build_model`` for the arguments."""
    if pretrained:
        raise UserError(
            "a VOLO of sizes of one's own has no weights to fetch: set "
            "model.pretrained_backbone=false, or model.architecture=volo_d1"
        )
    required = ("layers", "embed_dims", "num_heads")
    if missing := [name for name in required if name not in options]:
        raise UserError(f"architecture_options of volo must hold {missing[0]}, four numbers")
    refuse_unknown_options(architecture, VOLO, options)
    return VOLO(img_size=image_size, num_classes=num_classes, drop_path_rate=drop_path, **options)


def build_timm(
    architecture: str,
    num_classes: int,
    image_size: int,
    drop_path: float,
    pretrained: bool,
    options: Mapping[str, Any],
) -> nn.Module:
    """A network of timm; see ``build_model`` for the arguments."""
    architecture = TIMM_NAMES.get(architecture, architecture)
    name = architecture.split(".")[0]  # what follows the dot names certain weights
    if not timm.is_model(name):
        known = [*T2T_SIZES, *TIMM_NAMES, *timm.list_models()]
        nearest = difflib.get_close_matches(architecture, known, n=3) or ["t2t_vit_14", "volo_d1"]
        raise UserError(
            "architecture must be a T2T-ViT or a network of timm, such as "
            f"{', '.join(nearest)}; got {architecture!r}"
        )
    if pretrained and not timm.is_model_pretrained(architecture):
        raise UserError(f"timm has no weights {architecture}: set model.pretrained_backbone=false")
    sizes = {"img_size": image_size, "drop_path_rate": drop_path, **options}
    try:
        return timm.create_model(
            architecture if pretrained else name,
            pretrained=pretrained,
            num_classes=num_classes,
            **sizes,
        )
    except TypeError as error:  # an argument that this network does not take
        raise UserError(
            f"timm cannot make a {name} with these settings ({error}): choose a network with "
            "softmax attention, or other architecture_options"
        ) from error
    except OSError as error:  # what the hub's client raises without network is one, too
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"cannot fetch the weights {architecture} from the Hugging Face hub ({reason}): copy "
            "them into its cache (HF_HOME), or set model.pretrained_backbone=false"
        ) from error


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    **dict.fromkeys(T2T_SIZES, build_t2t),
    "volo": build_volo,
}

"""``build_model``: a classifier with DropKey from the settings of a config."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from dropkey_core.attention.patterns import Pattern
from dropkey_core.attention.places import Unit
from dropkey_core.equip import apply_dropkey
from dropkey_core.variants import apply_reattention, apply_token_pooling
from projects.classification.classifier import ClassificationModel, Diversification
from projects.classification.mixing import build_mixing
from projects.classification.network import Wanted, arguments_of, build_network, refuse_unknown
from projects.classification.patterns import unit_at

UNSETTABLE = ("network", "select")  # arguments of variants that no config can hold
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
    drop_unit: str | Pattern | Unit = "key",
    drop_schedule: str = "linear_decreasing",
    mixup: float = 0.0,
    cutmix: float = 0.0,
    label_smoothing: float = 0.0,
    variants: Mapping[str, Mapping[str, Any] | None] | None = None,
) -> ClassificationModel:
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
            ``num_heads``, of four stages each, and so on). One that is null is left out, so that
            an override can take away what a YAML sets.
        pretrained_backbone: start a timm network from its published weights, fetched once from the
            Hugging Face hub; a head of other classes begins anew. T2T-ViT's are not there.
        drop_path: probability that a sample skips a branch of the last block (stochastic depth).
        drop_ratio: ratio at the first of all layers.
        drop_unit: what the attention drops: ``key`` (DropKey), ``weight`` (vanilla dropout) or
            another unit that ``dropkey_core.drop_key_attention`` knows. Blocks and crosses are
            fitted to each attention, see ``unit_at``.
        drop_schedule: how the ratio changes with depth, see ``dropkey_core.drop_ratios``.
        mixup: alpha of mixup, see ``build_mixing``; 0 is none.
        cutmix: alpha of cutmix; 0 is none.
        label_smoothing: part of each target that is spread over all classes, in [0, 1).
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
    settings = checked_variants(variants)
    wanted = Wanted(num_classes, image_size, drop_path, pretrained_backbone)
    options = {k: v for k, v in (architecture_options or {}).items() if v is not None}
    network = build_network(architecture, wanted, options)
    report = apply_dropkey(
        network, drop_ratio, drop_schedule, unit=drop_unit, select=is_regularised
    )
    for site in report.equipped:
        network.get_submodule(site.name).unit = unit_at(network, site.name, drop_unit)
    for name, apply in NETWORK_VARIANTS.items():
        if name in settings:
            apply(network, **settings[name])
    diversification = settings.get("diversification")
    return ClassificationModel(
        network,
        num_classes,
        image_size,
        label_smoothing=label_smoothing,
        mixing=build_mixing(mixup, cutmix, label_smoothing, num_classes),
        diversification=None if diversification is None else Diversification(**diversification),
    )


def checked_variants(variants: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """The settings of each variant, refused where something has another name."""
    settings = {name: dict(options or {}) for name, options in (variants or {}).items()}
    refuse_unknown(settings, VARIANTS, "model.variants")
    for name, options in settings.items():
        known = [option for option in arguments_of(VARIANTS[name]) if option not in UNSETTABLE]
        refuse_unknown(options, known, f"model.variants.{name}")
    return settings


def is_regularised(name: str, module: nn.Module) -> bool:
    """Whether attention has dropout in the official networks: all but in tokens-to-token."""
    return not name.startswith("tokens_to_token.")

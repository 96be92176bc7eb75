"""Small models of transformers, made without the network, with inputs.

transformers ships no small configurations and no inputs for its tests, so that both are guessed
from the names of settings and of arguments. Whoever asks tries one guess after the other.

Sizes: B = 2 in a batch, L = 8 tokens, images of 64 pixels, vocabularies of 160.
"""

import dataclasses
import importlib
import inspect
import itertools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

_BATCH, _LENGTH, _VOCABULARY, _IMAGE = 2, 8, 160, 64
RULES = ("set", "set, 4 layers", "set, windows of 2", "set, sections", "scale", "layers")


def types() -> list[str]:
    """Return the names of all types of configuration."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return sorted(CONFIG_MAPPING_NAMES)


def models(name: str) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    from transformers import CONFIG_MAPPING

    cls = CONFIG_MAPPING[name]
    makers = _model_classes(name, cls)
    for rule in RULES:
        for maker in makers[:2]:
            yield f"{rule}, {maker.__name__}", lambda r=rule, m=maker: m(small_config(cls(), r))


def _model_classes(name: str, config: type) -> list[type[nn.Module]]:
    """Return the classes that are built from a configuration, the plainest first."""
    from transformers import PreTrainedModel
    from transformers.models.auto import modeling_auto

    known = []
    for mapping in ("MODEL_MAPPING_NAMES", *vars(modeling_auto)):
        names = getattr(modeling_auto, mapping)
        if mapping.endswith("_MAPPING_NAMES") and name in names:
            known += [names[name]] if isinstance(names[name], str) else list(names[name])
    package = importlib.import_module(config.__module__.rpartition(".")[0])
    files = [f for f in dir(package) if f.startswith("modeling_")]
    stem = config.__module__.rpartition(".configuration_")[2]
    files = [f"modeling_{stem}", *files]
    for file in dict.fromkeys(files):
        try:
            module = importlib.import_module(f"{package.__name__}.{file}")
        except ModuleNotFoundError:
            continue
        fitting = [
            cls
            for cls in vars(module).values()
            if inspect.isclass(cls)
            and issubclass(cls, PreTrainedModel)
            and cls.__module__ == module.__name__
            and getattr(cls, "config_class", None) is config
            and "forward" in vars(cls)
        ]
        fitting.sort(key=lambda cls: known.index(cls.__name__) if cls.__name__ in known else 99)
        if fitting:
            return fitting
    return []


_IDS = re.compile(r"(_token_id|_token_index|_token|_id|_ids|_index)$")
_LAYERS = re.compile(r"(layers?|depth|depths|n_layer|blocks|num_stacks|layers_per_stage)$")
_HEADS = re.compile(r"heads?$|n_head|attention_heads_per")
_WIDTH = re.compile(
    r"(hidden|embed|inter|ffn|mlp|proj|model|dim|channels|width|rank|n_embd|n_inner|size|d_ff|d_kv|d_head|d_ssm)"
)
_KEEP = re.compile(
    r"(type_vocab|num_channels|in_channels|in_chans|image_channels|patch|kernel|stride|conv_k|num_mel"
    r"|tubelet|temporal|window|ratio|buckets|num_labels|spatial_merge|state_size|chunk|block|group"
    r"|rope_dim|num_frames|pool|conv_dim$|codebook_size)"
)


def small_config(config: Any, rule: str) -> Any:
    """Return a configuration of the same class with few layers and small widths.

    What the class derives from other settings (its default is None) is derived anew.

    Args:
        config: of transformers, as its class makes it.
        rule: "set" gives all widths of a kind one value, "scale" divides them by one number, and
            "layers" leaves them; "set, 4 layers" takes 4 where it would be 2, and "set, windows of
            2" makes windows fit small images, and "set, sections" splits rotary embeddings.
    """
    ids: dict[int, int] = {}
    return _shrink(config, rule, ids)


def _shrink(config: Any, rule: str, ids: dict[int, int]) -> Any:
    small: dict[str, Any] = {}
    factor = _factor(config)
    for name, default in _defaults(type(config)).items():
        value = _get(config, name)
        if name.startswith("backbone_config"):
            small |= _small_backbone(name, value, rule)
        elif _is_config(value):
            small[name] = _shrink(value, rule, ids)
        elif name == "rope_parameters" and isinstance(value, dict):
            sections = value.get("mrope_section") or [16, 24, 24] * ("sections" in rule)
            small[name] = {**value, "mrope_section": _sections(sections)} if sections else value
        elif name in ("image_token_id", "image_token_index"):
            small[name] = ids.setdefault(value or -1, 16 + len(ids))
        elif value is None:
            small[name] = _missing(name)
        elif default is not None:
            small[name] = _small(name, value, rule, factor, ids)
        elif name == "layer_types" and isinstance(value, list):
            small[name] = list(dict.fromkeys(value))[:4]
    if small.get("layer_types"):
        kinds = small["layer_types"]
        small["layer_types"] = (kinds * 2)[: max(2, len(kinds))]
        small["num_hidden_layers"] = len(small["layer_types"])
    small["use_cache"] = False
    return type(config)(**{name: value for name, value in small.items() if value is not None})


def _get(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception:  # some have values that differ from layer to layer
        return None


def _missing(name: str) -> int | None:
    """Return a value for what some configurations want to be told; None for all else."""
    values = {"vocab_size": _VOCABULARY, "num_experts_per_tok": 2, "n_routed_experts": 4}
    values |= {"prediction_length": 4, "context_length": 16, "n_group": 1, "topk_group": 1}
    return values.get(name)


def _small_backbone(name: str, value: Any, rule: str) -> dict[str, Any]:
    """Return a convolutional backbone of four stages in place of one that has to be fetched."""
    from transformers import ResNetConfig

    if _is_config(value) and value.model_type not in ("timm_backbone", "resnet"):
        return {name: _shrink(value, rule, {})}
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    stages = ["stage4"] if "4 layers" in rule else ["stage2", "stage3", "stage4"]
    backbone = ResNetConfig(**sizes, layer_type="basic", out_features=stages)
    return {name: backbone, "backbone": None, "use_timm_backbone": False}


def _sections(sections: list[int]) -> list[int]:
    """Scale the parts of a rotary embedding to a head of 16 numbers."""
    rest = [size * 8 // sum(sections) for size in sections[1:]]
    return [8 - sum(rest), *rest]


def _is_config(value: Any) -> bool:
    return hasattr(value, "to_dict") and hasattr(value, "model_type")


def _defaults(cls: type) -> dict[str, Any]:
    """Return the settings that a configuration takes, with what they are if nothing is said."""
    if dataclasses.is_dataclass(cls):
        made = {
            f.name: f.default_factory() if callable(f.default_factory) else f.default
            for f in dataclasses.fields(cls)
            if f.init
        }
        return {k: None if v is dataclasses.MISSING else v for k, v in made.items()}
    return {p.name: p.default for p in inspect.signature(cls.__init__).parameters.values()}


def _factor(config: Any) -> int:
    """Return by how much "scale" divides: the largest power of 2 that leaves a width of 64."""
    width = getattr(config, "hidden_size", None) or getattr(config, "d_model", None) or 0
    return 2 ** max(0, int(math.log2(max(width, 64) / 64))) if isinstance(width, int) else 1


def _small(name: str, value: Any, rule: str, factor: int, ids: dict[int, int]) -> Any:
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return _small_list(name, value, rule, ids)
    if "drop" in name and isinstance(value, float):
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    return _small_number(name, value, rule, factor, ids)


def _small_list(name: str, value: Any, rule: str, ids: dict[int, int]) -> Any:
    if not value or not all(isinstance(v, int) and not isinstance(v, bool) for v in value):
        if name in ("layer_types", "mlp_layer_types") or name.endswith("layers_block_type"):
            return list(dict.fromkeys(value)) if all(isinstance(v, str) for v in value) else value
        return value
    if name == "lags_sequence":
        return [1, 2]
    if _LAYERS.search(name) and max(value) > 1 and len(value) <= 6:
        return type(value)(min(v, 3 if "4 layers" in rule else 1) for v in value)
    if _HEADS.search(name):
        return type(value)(v // math.gcd(*value) for v in value)
    return value


def _small_number(name: str, value: int, rule: str, factor: int, ids: dict[int, int]) -> int:
    if "vocab" in name and "type" not in name:
        return min(value, _VOCABULARY)
    if _IDS.search(name):
        return value if value < 8 else ids.setdefault(value, 16 + len(ids))
    if re.search(r"image_size|img_size|input_size|input_resolution", name):
        return min(value, _IMAGE)
    if re.search(r"max.*(position|length|target|source|seq)|n_positions|n_ctx", name):
        return min(value, 512)
    if re.search(r"n_group|topk_group", name):
        return 1
    if re.search(r"experts|moe_num|moe_k", name) and value > 1:
        return 2 if re.search(r"per_tok|top_?k|_per_|moe_k", name) else 4
    if re.search(r"num_queries|num_proposals|num_query", name):
        return min(value, 8)
    if _LAYERS.search(name) and value > 2:
        return min(value, 4 if "4 layers" in rule else 2)
    if "window" in name and "windows of 2" in rule:
        return 2
    if rule == "layers" or _KEEP.search(name):
        return value
    if _HEADS.search(name):
        return _small_heads(name, value, rule, factor)
    if _WIDTH.search(name) and value >= 32:
        return _small_width(name, value, rule, factor)
    return value


def _small_heads(name: str, value: int, rule: str, factor: int) -> int:
    if rule == "scale":
        return max(1, value // factor)
    few = 2 if re.search(r"key_value|kv", name) else 4
    return min(value, few)


def _small_width(name: str, value: int, rule: str, factor: int) -> int:
    if rule == "scale":
        is_of_head = re.search(r"head_dim|d_kv|head_size", name)
        return value if is_of_head else max(8, value // factor)
    if name == "mamba_d_head":
        return 32
    if name == "mamba_d_ssm":
        return 128
    return 16 if re.search(r"head_dim|d_kv|head_size|lora_rank|head_width", name) else 64


# ---------------------------------------------------------------------------------------- inputs


def arguments(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Give products of what each argument may be: those without default, and usual ones."""
    parameters = inspect.signature(model.forward).parameters
    find = _Settings(model.config)
    for plan in _plans(model, list(parameters.values())):
        if "input_ids" in plan:
            yield from _with_pictures(model, plan, find)
        yield from _products(plan, find)


def _plans(model: nn.Module, parameters: list[inspect.Parameter]) -> list[list[str]]:
    """Return lists of arguments that may do."""
    known = [p.name for p in parameters]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
    main = [getattr(model, "main_input_name", "input_ids")]
    usual = ["decoder_input_ids", "bbox", "input_ids"]
    extra = ["pixel_values", "input_features", "input_values"]
    past = ["past_values", "past_time_features", "past_observed_mask"]
    most = [*main, *needed, *usual]
    plans = [[*most, "attention_mask", "encoder_hidden_states"], [*most, "attention_mask"], most]
    plans += [[*main, *needed], [*main, *needed, *usual, *extra], needed]
    plans += [[*needed, *usual, *extra], [*past, "future_values", "future_time_features"], past]
    plans += [["inputs_embeds", "encoder_hidden_states"], [*main, "encoder_hidden_states"]]
    plans += [["inputs_embeds"], [*main, *needed, "input_features_mask"]]
    plans = [[name for name in dict.fromkeys(plan) if name in known] for plan in plans]
    return [plan for i, plan in enumerate(plans) if plan and plan not in plans[:i]]


def _products(names: list[str], find: "_Settings") -> Iterator[dict[str, Any]]:
    """Give the likeliest of each argument, then all with one that is less likely."""
    ways = {name: _ways(name, find) for name in names}
    first = {name: way[0] for name, way in ways.items()}
    yield first
    for name, way in ways.items():
        yield from ({**first, name: other} for other in way[1:])


_PICTURES = {"pixel_values": "image", "input_features": "audio", "input_values": "audio"}


def _with_pictures(
    model: nn.Module, plan: list[str], find: "_Settings"
) -> Iterator[dict[str, Any]]:
    """Give text with as many image or audio tokens as the model makes features of an input."""
    parameters = inspect.signature(model.forward).parameters
    for argument, kind in _PICTURES.items():
        token = find(f"{kind}_token_id", f"{kind}_token_index", default=-1)
        features = getattr(model, f"get_{kind}_features", None)
        if token < 0 or features is None or argument not in parameters:
            continue
        beside = [n for n in (f"{kind}_grid_thw", "image_sizes") if n in parameters]
        for given in itertools.chain(
            _products([argument, *beside], find), _products([argument], find)
        ):
            try:
                with torch.no_grad():
                    number = _rows(features(**given))
            except Exception:
                continue
            rest = {n: _ways(n, find)[0] for n in plan if n not in (argument, "attention_mask")}
            text = rest["input_ids"][0]
            ids = torch.cat([text[:4], torch.full([number // _BATCH], token), text[4:]])
            yield {**rest, **given, "input_ids": ids.expand(_BATCH, -1).clone()}


def _rows(features: Any) -> int:
    """Return how many feature vectors there are."""
    features = getattr(features, "pooler_output", features)
    parts = features if isinstance(features, list | tuple) else [features]
    return sum(part.numel() // part.shape[-1] for part in parts)


class _Settings:
    """Looks a setting up in a configuration, or in those inside it."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def __call__(self, *names: str, default: int) -> int:
        for config in self._all(self.config):
            for name in names:
                value = getattr(config, name, None)
                value = value[0] if isinstance(value, list | tuple) and value else value
                if isinstance(value, int) and not isinstance(value, bool):
                    return value
        return default

    def _all(self, config: Any) -> Iterator[Any]:
        yield config
        for value in vars(config).values():
            if _is_config(value):
                yield from self._all(value)


def _ways(name: str, find: _Settings) -> list[Any]:
    """Return what an argument may be, by its name."""
    b, length = _BATCH, _LENGTH
    width = find("hidden_size", "d_model", "embed_dim", "n_embd", default=64)
    if name == "encoder_hidden_states":
        width = find("encoder_hidden_size", "cross_attention_hidden_size", default=width)
    if name == "hidden_states" and find("patch_size", default=0):
        return [_images(find)[3], torch.randn(b, length, width), torch.randn(32, width)]
    if name.startswith(("past", "future")):
        return _series(name, find)
    if "mask" in name and "pixel" not in name:
        mask = torch.ones(b, length, dtype=torch.long)
        mask[1, -2:] = 0
        return [mask]
    if name in ("bbox", "boxes"):
        return [torch.tensor([1, 2, 3, 4]).expand(b, length, 4).clone()]
    if name.startswith("pixel_values") or name in ("image", "images", "flattened_patches"):
        return _images(find)
    if "ids" in name or name in ("labels", "input_tokens", "codes"):
        high = min(find("vocab_size", default=_VOCABULARY), _VOCABULARY)
        ids = torch.randint(high // 2, max(high - 1, high // 2 + 1), (b, length))
        return [ids % high, ids[:, :, None].expand(b, length, 4) % 16]
    if name in ("input_values", "audio_values", "input_features", "mel_spec", "spectrogram"):
        return _sounds(find)
    if name == "timesteps":
        return [torch.arange(length).expand(b, length), torch.tensor([1, 2])]
    if name.endswith("grid_thw"):
        return [torch.tensor([[1, 4, 4], [1, 4, 4]])]
    if name == "image_sizes":
        return [torch.tensor([[_IMAGE, _IMAGE], [_IMAGE, _IMAGE]])]
    return [torch.randn(b, length, width), torch.randn(b * length, width), torch.randn(b, width)]


def _series(name: str, find: _Settings) -> list[Tensor]:
    b, past = _BATCH, find("context_length", default=32)
    steps = past if name.startswith("past") else find("prediction_length", default=4)
    if name == "past_observed_mask":
        return [torch.ones(b, steps + 2), torch.ones(b, steps)]
    if "time" in name:
        width = find("num_time_features", default=0)
        return [torch.randn(b, steps + 2 * name.startswith("past"), width)]
    one = [torch.randn(b, steps + extra) for extra in (2, 0)]
    return [*one, *(torch.randn(b, steps, n) for n in (1, 2, 7))]


def _images(find: _Settings) -> list[Tensor]:
    b, size = _BATCH, find("image_size", "img_size", "input_size", default=_IMAGE)
    channels = find("num_channels", "in_channels", "in_chans", default=3)
    patch = find("patch_size", default=16)
    frames = find("num_frames", "frames_per_clip", default=2)
    flat = find("temporal_patch_size", default=1) * channels * patch * patch
    return [
        torch.randn(b, channels, size, size),
        torch.randn(b, frames, channels, size, size),
        torch.randn(b, 1, channels, size, size),
        torch.randn(32, flat),
        torch.randn(b, channels, 224, 224),
        torch.randn(b, 16, flat),
    ]


def _sounds(find: _Settings) -> list[Tensor]:
    b, mels = _BATCH, find("num_mel_bins", "input_feat_per_channel", "input_size", default=80)
    frames = find("max_source_positions", default=64)
    long = find("max_length", default=64)
    return [
        torch.randn(b, mels, 2 * frames),
        torch.randn(b, 128, mels),
        torch.randn(b, long, mels),
        torch.randn(b, 4000),
        torch.randn(b, 1, 4000),
        torch.randn(b, 1, 4 * find("spec_size", default=64), find("num_mel_bins", default=64)),
        torch.randn(b, mels, 128),
    ]

"""Small models of timm, torchvision and transformers, made without the network, with inputs.

``architectures`` names them: of timm and torchvision one for each family of each file, of
transformers every type of configuration (``sweep_transformers``). ``candidates`` gives, from the
smallest on, ways to make one; ``inputs`` gives ways to call it. Neither knows what will work:
whoever asks tries.

Sizes: B = 2 in a batch, images of 64 pixels where a model takes them.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import sweep_transformers
import torch
from torch import nn

LIBRARIES = ("timm", "torchvision", "transformers")
Inputs = dict[str, Any]

# What names of models say of their size and training, from small to large.
_SMALL = ("test", "atto", "femto", "pico", "nano", "xxs", "xxt", "tiny", "mini", "_t", "xs")
_SMALL += ("small", "_s", "_b0", "_0", "_1", "_m", "base", "_b")
_SIZE = re.compile(
    r"(test|atto|femto|pico|nano|micro|mini|zepto|tiny|small|base|large|medium|huge|giant\w*|wee"
    r"|gigantic|enormous|x*(small|large|tiny)|little|betwixt|mediumd|dwee|dpwee|dlittle|pwee|plus"
    r"|rms|rmlp|short|tall|wide|kobe|big|lite|gap|cls|clsgap|map|enc|dist|distilled|ols|hnf|mlp"
    r"|pruned|bfrobust|dwnorm|blur|ssld|evos|frn|lrf|srf|[a-z]{1,2})$"
)
_BATCH, _IMAGE = 2, 64


def architectures(library: str) -> list[str]:
    """Return the names of what a library can build."""
    if library == "transformers":
        return sweep_transformers.types()
    if library == "torchvision":
        from torchvision.models import get_model_builder, list_models

        return _one_of_each_family(list_models(), lambda name: get_model_builder(name).__module__)
    from timm.models import _registry, list_models

    files = _registry._model_to_module
    return _one_of_each_family(list_models(), lambda name: files[name])


def candidates(library: str, name: str) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """Give ways to make an architecture: how small, and what makes it."""
    if library == "transformers":
        yield from sweep_transformers.models(name)
    elif library == "torchvision":
        yield from _torchvision_models(name)
    else:
        yield from _timm_models(name)


def _one_of_each_family(names: list[str], file_of: Callable[[str], str]) -> list[str]:
    """Return the smallest of each family: names that differ in numbers and sizes alone."""
    families: dict[tuple[str, str], list[str]] = {}
    for name in names:
        words = re.findall(r"(?:^|_)([a-z]+)", name)
        kind = "_".join(words[:1] + [w for w in words[1:] if not _SIZE.match(w)])
        families.setdefault((file_of(name), kind), []).append(name)
    return sorted(min(family, key=_size_by_name) for family in families.values())


def _size_by_name(name: str) -> tuple[int, int, int, str]:
    small = next((i for i, word in enumerate(_SMALL) if word in name), len(_SMALL))
    pixels = [int(n) for n in re.findall(r"_(\d{3})\b", name)]
    return small, max(pixels, default=0), len(name), name


def _timm_models(name: str) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    import timm

    wide = {"embed_dim": 64, "num_heads": 4, "depth": 2}
    settings: list[dict[str, Any]] = [
        {"img_size": _IMAGE, **wide},
        {"img_size": _IMAGE, "depth": 2},
    ]
    for key in ("depths", "layers"):
        settings += [{"img_size": _IMAGE, key: (2,) * n} for n in (4, 3)]
        settings += [{key: (2,) * n} for n in (4, 3)]
    settings += [{"img_size": size} for size in (_IMAGE, 128)] + [{"depth": 2}, {}]
    for setting in settings:
        small = {"num_classes": 4, **setting}
        yield str(setting), lambda small=small: timm.create_model(name, pretrained=False, **small)


def _torchvision_models(name: str) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    from torchvision.models import get_model

    detector = {"weights_backbone": None, "min_size": _IMAGE, "max_size": _IMAGE}
    settings: list[dict[str, Any]] = [detector, {"weights_backbone": None}]
    settings += [{"image_size": _IMAGE, "num_layers": 2}, {}]
    for setting in settings:
        small = {"weights": None, **setting}
        yield str(setting), lambda small=small: get_model(name, **small)


def inputs(library: str, model: nn.Module) -> Iterator[Inputs]:
    """Give ways to call a model: arguments of its forward by name, the likeliest first."""
    if library == "transformers":
        yield from sweep_transformers.arguments(model)
        return
    if type(model).__module__.startswith("torchvision.models.detection"):
        yield _detection()
    config = getattr(model, "pretrained_cfg", None) or {}
    own = config.get("input_size", (3, 224, 224))[-1]
    sizes = dict.fromkeys([_size_of(model) or _IMAGE, _IMAGE, 128, 224, own])
    name = next(iter(inspect.signature(model.forward).parameters))
    for size in sizes:
        yield {name: torch.randn(_BATCH, 3, size, size)}
    for frames in (8, 16):
        yield {name: torch.randn(1, 3, frames, 112, 112)}
    yield {f"image{i}": torch.randn(_BATCH, 3, 128, 128) for i in (1, 2)}  # optical flow


def _detection() -> Inputs:
    """Return two images with one object each, as torchvision's detectors want them."""
    boxes, masks = torch.tensor([[8.0, 8.0, 40.0, 48.0]]), torch.ones(1, 64, 64, dtype=torch.uint8)
    target = {"boxes": boxes, "labels": torch.tensor([1]), "masks": masks}
    target["keypoints"] = torch.full((1, 17, 3), 20.0)
    return {"images": [torch.rand(3, 64, 64) for _ in range(2)], "targets": [target, target]}


def _size_of(model: nn.Module) -> int | None:
    for module in model.modules():
        size = getattr(module, "img_size", getattr(module, "image_size", None))
        size = size[0] if isinstance(size, tuple) else size
        if isinstance(size, int):
            return size
    return None

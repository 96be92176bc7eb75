"""What the benchmark command measures: the model and the loader of a config."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dropkey_core.engine import UserError, instantiate, load_config
from dropkey_core.engine.benchmark import Measurement, Step, checked_device, measure
from dropkey_core.engine.build import build_optimizer
from projects.detr.build import build_model
from projects.detr.detr import Detr
from projects.detr.official import OfficialDetr, OfficialOptimizer, official_preparation

# Neither a download nor a dataset is needed; what the user overrides comes later and wins.
WITHOUT_DATA = ("model.num_classes=91", "model.pretrained_backbone=false")


def benchmark_models(
    path: str | Path,
    overrides: Sequence[str] = (),
    compared: Sequence[str] = (),
    reference: str | None = None,
    batch_shape: tuple[int, int, int] = (2, 480, 640),
    repeats: int = 5,
    device: str = "cpu",
) -> dict[str, dict[str, Measurement]]:
    """Measure training step and inference of a config's model and its variants on random images.

    Args:
        path: the YAML.
        overrides: ``key=value`` for all variants.
        compared: further ``key=value``; each makes a variant to be measured beside the first.
        reference: folder of a checkout of the official DETR, to be measured too, with the same
            weights and its own optimizer.
        batch_shape: images, height and width in pixels.
        repeats: turns of each.
        device: ``cpu`` or ``cuda``.

    Returns:
        measurements by job, then by contender, of which the first is the official DETR or, without
        it, the config as it is.

    Raises:
        UserError: for whatever is wrong with the config, the device or the reference.
    """
    where = checked_device(device)
    plain = Path(path).name
    models = {}
    for name, changes in {plain: [], **{change: [change] for change in compared}}.items():
        config = load_config(path, [*WITHOUT_DATA, *overrides, *changes])
        model: Detr = instantiate(config.model, "model").to(where)
        models[name] = model, build_optimizer(config.optimizer, model)
    ours, _ = models[plain]
    if reference:
        official = OfficialDetr(reference, like=ours).to(where)
        models = {"official DETR": (official, OfficialOptimizer(official)), **models}
    samples = random_samples(*batch_shape, num_classes=ours.class_embed.out_features - 1)
    jobs = {
        "training step": {n: training_step(model, o, samples) for n, (model, o) in models.items()},
        "inference": {n: inference_step(model, samples) for n, (model, _) in models.items()},
    }
    return {job: measure(steps, len(samples), repeats, where) for job, steps in jobs.items()}


def benchmark_loader(
    path: str | Path,
    overrides: Sequence[str] = (),
    reference: str | None = None,
    num_images: int = 64,
    repeats: int = 5,
) -> dict[str, dict[str, Measurement]]:
    """Measure the way from image files to normalised training images, in this process alone.

    Args:
        path: the YAML; its training set and mapper are used.
        overrides: ``key=value``.
        reference: folder of a checkout of the official DETR, to measure its way too.
        num_images: of the training set, the first ones with an object.
        repeats: turns of each.

    Returns:
        measurements of the job ``loader`` by contender.

    Raises:
        UserError: for whatever is wrong with the config, the dataset or the reference.
    """
    config = load_config(path, [*WITHOUT_DATA, *overrides])
    section = config.dataloader.train
    records = instantiate(section.dataset, "dataloader.train.dataset")
    records = [record for record in records if record["annotations"]][:num_images]
    if not records:
        raise UserError("dataloader.train.dataset holds no image with an object")
    mapper = instantiate(section.mapper, "dataloader.train.mapper")
    normaliser = build_model("resnet10", embed_dim=8, num_heads=1, pretrained_backbone=False)
    preparations: dict[str, Callable[[dict[str, Any]], Any]] = {
        Path(path).name: lambda record: normaliser.batch([mapper(record)])
    }
    if reference:
        preparations = {"official DETR": official_preparation(reference), **preparations}
    steps = {name: loading_step(prepare, records) for name, prepare in preparations.items()}
    return {"loader": measure(steps, len(records), repeats, torch.device("cpu"))}


def random_samples(
    batch_size: int, height: int, width: int, num_classes: int, num_objects: int = 7
) -> list[dict[str, Any]]:
    """Training samples of noise, with as many objects as an image of COCO has on average.

    Args:
        batch_size: number of samples.
        height: of the images, in pixels.
        width: of the images, in pixels.
        num_classes: labels are below it.
        num_objects: in each image.
    """
    generator = torch.Generator().manual_seed(0)

    def sample() -> dict[str, Any]:
        pixels = torch.randint(0, 256, (3, height, width), generator=generator)
        return {
            "image": pixels.to(torch.uint8),
            "height": height,
            "width": width,
            "labels": torch.randint(num_classes, (num_objects,), generator=generator),
            "boxes_cxcywh": 0.2 + 0.3 * torch.rand(num_objects, 4, generator=generator),
        }

    return [sample() for _ in range(batch_size)]


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, samples: Sequence[dict[str, Any]]
) -> Step:
    """Forward, losses, backward and the optimizer's step, clipping included, of ``model``."""

    def step() -> None:
        model.train()
        optimizer.zero_grad()
        sum(model(samples).values()).backward()
        optimizer.step()

    return step


def inference_step(model: nn.Module, samples: Sequence[dict[str, Any]]) -> Step:
    """From images to detections, without gradients."""

    @torch.no_grad()
    def step() -> None:
        model.eval()
        model(samples)

    return step


def loading_step(
    prepare: Callable[[dict[str, Any]], Any], records: Sequence[dict[str, Any]]
) -> Step:
    """Prepare every record once, with the same random choices in every turn."""

    def step() -> None:
        torch.manual_seed(0)
        random.seed(0)  # the official pipeline draws from Python's generator
        for record in records:
            prepare(record)

    return step

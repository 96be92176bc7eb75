#!/usr/bin/env python
"""Benchmark of DETR: how fast a config's model trains and detects, and how much memory that takes.

tools/benchmark/model.py --config projects/detr/dropkey.yaml
tools/benchmark/model.py --config projects/detr/dropkey.yaml --reference ../detr
tools/benchmark/model.py --config projects/detr/dropkey.yaml --autocast bfloat16 --compile
tools/benchmark/model.py --config projects/detr/dropkey.yaml --loader --reference ../detr

Weights are random and the model has COCO's 91 classes, unless overrides say otherwise; images are
noise. With --reference the official DETR of that checkout takes turns with ours, with the same
weights and its own optimizer. --autocast adds both in that mixed precision, --compile ours as
torch.compile makes it. --loader measures the way from JPEG file to normalised training image
instead, in this process alone, on the config's dataset.
"""

import argparse
import copy
import os
import random
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads give way

import torch
from torch import nn
from torch.amp import GradScaler

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from official_detr import OfficialDetr, OfficialOptimizer, official_preparation
from report import argument_parser, device, positive, run_benchmark, speed_table
from timing import CPU, Results, Step, measure

from dropkey_core.engine import UserError, instantiate, load_config
from dropkey_core.engine.build import build_optimizer
from projects.detr.build import build_model
from projects.detr.detr import Detr

OFFICIAL = "official DETR"
# Neither a download nor a dataset is needed; what the user overrides comes later and wins.
WITHOUT_DATA = ("model.num_classes=91", "model.pretrained_backbone=false")


def benchmark_models(arguments: argparse.Namespace) -> Results:
    """Measure training step and inference of a config's model, and of what it is compared with."""
    plain = Path(arguments.config).name
    config = load_config(arguments.config, [*WITHOUT_DATA, *arguments.overrides])
    ours: Detr = instantiate(config.model, "model").to(arguments.device)
    models: dict[str, tuple[nn.Module, torch.optim.Optimizer]] = {
        plain: (ours, build_optimizer(config.optimizer, ours))
    }
    if arguments.compile:
        compiled = copy.deepcopy(ours)
        compiled.compile(dynamic=True)
        models[f"{plain}, compiled"] = compiled, build_optimizer(config.optimizer, compiled)
    if arguments.reference:
        official = OfficialDetr(arguments.reference, like=ours).to(arguments.device)
        models = {OFFICIAL: (official, OfficialOptimizer(official)), **models}
    samples = random_samples(*arguments.batch, num_classes=ours.class_embed.out_features - 1)
    jobs: dict[str, dict[str, Step]] = {"training step": {}, "inference": {}}
    for dtype in [None, *arguments.autocast]:
        type_ = dtype and getattr(torch, dtype)
        under = partial(torch.autocast, arguments.device.type, type_, enabled=dtype is not None)
        for name, (model, optimizer) in models.items():
            name += "" if dtype is None else f", {dtype}"
            scaler = GradScaler(arguments.device.type, enabled=dtype == "float16")
            jobs["training step"][name] = partial(train, model, optimizer, samples, under, scaler)
            jobs["inference"][name] = partial(detect, model, samples, under)
    return {
        job: measure(steps, len(samples), arguments.repeats, arguments.device)
        for job, steps in jobs.items()
    }


def benchmark_loader(arguments: argparse.Namespace) -> Results:
    """Measure the way from image files to normalised training images."""
    config = load_config(arguments.config, [*WITHOUT_DATA, *arguments.overrides])
    section = config.dataloader.train
    records = instantiate(section.dataset, "dataloader.train.dataset")
    records = [record for record in records if record["annotations"]][: arguments.images]
    if not records:
        raise UserError("dataloader.train.dataset holds no image with an object")
    mapper = instantiate(section.mapper, "dataloader.train.mapper")
    normaliser = build_model("resnet10", embed_dim=8, num_heads=1, pretrained_backbone=False)
    preparations: dict[str, Callable[[dict[str, Any]], Any]] = {
        Path(arguments.config).name: lambda record: normaliser.batch([mapper(record)])
    }
    if arguments.reference:
        preparations = {OFFICIAL: official_preparation(arguments.reference), **preparations}
    steps = {name: partial(load, prepare, records) for name, prepare in preparations.items()}
    return {"loader": measure(steps, len(records), arguments.repeats)}


def random_samples(
    batch_size: int, height: int, width: int, num_classes: int, num_objects: int = 7
) -> list[dict[str, Any]]:
    """Training samples of noise, with as many objects as an image of COCO has on average."""
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


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    samples: Sequence[dict[str, Any]],
    under: Callable[[], AbstractContextManager] = nullcontext,
    scaler: GradScaler | None = None,
) -> None:
    """Forward and losses ``under`` autocast, backward, the optimizer's step, clipping included."""
    scaler = scaler or GradScaler(enabled=False)
    model.train()
    optimizer.zero_grad()
    with under():
        loss = sum(model(samples).values())
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)  # before clipping
    scaler.step(optimizer)
    scaler.update()


@torch.no_grad()
def detect(
    model: nn.Module,
    samples: Sequence[dict[str, Any]],
    under: Callable[[], AbstractContextManager] = nullcontext,
) -> None:
    """From images to detections, without gradients."""
    model.eval()
    with under():
        model(samples)


def load(prepare: Callable[[dict[str, Any]], Any], records: Sequence[dict[str, Any]]) -> None:
    """Prepare every record once, with the same random choices in every turn."""
    torch.manual_seed(0)
    random.seed(0)  # the official pipeline draws from Python's generator
    for record in records:
        prepare(record)


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    benchmark = benchmark_loader if arguments.loader else benchmark_models
    print(speed_table(benchmark(arguments)))


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's error."""
    parser = argument_parser(__doc__)
    parser.add_argument("--config", required=True, metavar="FILE", help="the experiment's YAML")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the YAML")
    parser.add_argument(
        "--autocast",
        choices=("bfloat16", "float16"),
        action="append",
        default=[],
        help="measure all under it as well; may be repeated",
    )
    parser.add_argument("--compile", action="store_true", help="measure ours compiled as well")
    parser.add_argument("--reference", metavar="FOLDER", help="checkout of the official DETR")
    parser.add_argument(
        "--batch",
        type=positive,
        nargs=3,
        default=(2, 480, 640),
        metavar=("N", "HEIGHT", "WIDTH"),
        help="images and their size in pixels; default: 2 480 640",
    )
    parser.add_argument("--device", type=device, default=CPU, metavar="cpu|cuda")
    parser.add_argument("--loader", action="store_true", help="measure the loader instead")
    parser.add_argument("--images", type=positive, default=64, metavar="N", help="for --loader")
    return run_benchmark(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())

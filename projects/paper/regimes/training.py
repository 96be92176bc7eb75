"""One small training: the whole set in memory as tensors, augmented by batches, judged at the end.

Everything drawn for the data (subset, order, shifts, flips) comes from a generator of its own. So
for one seed all methods start from the same weights and see the same pixels in the same order, and
differ by their masks alone.

Shapes: N images of S x S pixels, B of them in a batch.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor

from dropkey_core.engine.build import build_optimizer, instantiate
from dropkey_core.engine.errors import UserError
from projects.classification.classifier import ClassificationModel
from projects.paper.regimes.judging import Images, judge, normalised
from projects.paper.regimes.measures import MEASURES, Trial
from projects.paper.regimes.plan import BASELINE, Augmentation, Plan, Run
from projects.paper.regimes.results import fingerprint

FINETUNING_RATE, FINETUNING_PART = 1e-5, 6  # the paper's 50 epochs are a sixth of 300
MASK_SEEDS = 2**31  # masks are seeded apart from weights; the generator takes 32 bits


class Batches(NamedTuple):
    """What a training sees, drawn beforehand: each tensor has (steps, B) elements.

    Attributes:
        rows: of the training images.
        down: shift in pixels, from 0 to twice the padding.
        right: likewise.
        flipped: bool, True = mirrored.
    """

    rows: Tensor
    down: Tensor
    right: Tensor
    flipped: Tensor


@contextmanager
def one_core() -> Iterator[None]:
    """Compute on one thread, which gives the same sums whatever the number of cores.

    Tiny numbers count as 0: fitted networks have tiny gradients, which a CPU is slow with.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)


class Trainer:
    """Trains the runs of a plan, on one thread, each from its seed alone.

    Args:
        plan: see there.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.configs = {name: network.load() for name, network in plan.networks.items()}
        self.split = cache(self._split)  # of a network's data, by name

    def settings(self, run: Run) -> str:
        """What the numbers depend on besides ``run``, as 8 hexadecimal digits."""
        return fingerprint(
            self.configs[run.network],
            ("model", "optimizer", "lr_multiplier", "dataset"),
            batch_size=self.plan.batch_size,
            augmentation=repr(self.plan.augmentations[run.augmentation]),
            unit=self.plan.methods.get(run.method),
        )

    @one_core()
    def __call__(self, run: Run) -> dict[str, float]:
        """Train and judge.

        Returns:
            ``train_top1`` and ``train_loss`` of the training images, without augmentation and with
            nothing dropped; ``test_top1``, ``test_loss`` and ``test_ece``; ``seconds`` that the
            processor worked; what else the plan asks for. Accuracies and the calibration error
            ``ece`` are in percent, losses are mean cross entropies in nats.

        Raises:
            UserError: settings that do not fit the network or the data.
            FloatingPointError: gradients that are not finite.
        """
        started = time.process_time()
        draws = torch.Generator().manual_seed(run.seed)
        train = draw_subset(self.split(run.network, "train"), run.images, draws)
        augmentation = self.plan.augmentations[run.augmentation]
        config = self.configs[run.network]
        schedule = instantiate(config.lr_multiplier, "lr_multiplier")

        def fit(model: ClassificationModel, steps: int, factor: Callable[[float], float]) -> None:
            size = len(train.labels), steps, self.plan.batch_size
            batches = draw_batches(*size, augmentation, draws)
            optimizer = build_optimizer(config.optimizer, model)
            train_in_place(model, train, batches, augmentation.padding, optimizer, factor)

        torch.manual_seed(run.seed)
        model = self.build(run)
        torch.manual_seed(MASK_SEEDS + run.seed)
        fit(model, run.steps, schedule)
        test = self.split(run.network, "test")
        on_train, on_test = judge(model.network, train), judge(model.network, test)
        steps, slow = run.steps // FINETUNING_PART, FINETUNING_RATE / config.optimizer.lr
        drops_keys = self.plan.methods.get(run.method) == "key"
        finetune = partial(fit, steps=max(1, steps), factor=lambda where: slow)
        trial = Trial(model, test, finetune, run.seed, drops_keys)
        measures: dict[str, float] = {}
        for name in self.plan.measures:
            measures |= MEASURES[name](trial)
        return {
            "train_top1": on_train.top1,
            "train_loss": on_train.loss,
            **{f"test_{name}": value for name, value in on_test._asdict().items()},
            "seconds": time.process_time() - started,
            **measures,
        }

    def build(self, run: Run) -> ClassificationModel:
        """The network with its method; what it starts from is torch's generator's to say."""
        changed: dict[str, Any] = {"drop_ratio": run.ratio}
        if run.method != BASELINE:
            changed |= {"drop_schedule": run.schedule, "drop_unit": self.plan.methods[run.method]}
        model: ClassificationModel = instantiate(
            OmegaConf.merge(self.configs[run.network].model, changed), "model"
        )
        return model

    def _split(self, network: str, split: str) -> Images:
        section = self.configs[network].dataloader[split].dataset
        records = instantiate(section, f"dataloader.{split}.dataset")
        images = [records[index] for index in range(len(records))]
        pixels = torch.stack([record["image"] for record in images])
        return Images(pixels, torch.tensor([record["label"] for record in images]))


def train_in_place(
    model: ClassificationModel,
    train: Images,
    batches: Batches,
    padding: int,
    optimizer: torch.optim.Optimizer,
    factor: Callable[[float], float],
) -> None:
    """Train a model on batches that are drawn already; it is in evaluation mode afterwards.

    Args:
        model: any.
        train: what the batches are drawn from.
        batches: of all steps.
        padding: of the augmentation.
        optimizer: of the model's parameters.
        factor: part of the training that is done, in [0, 1) -> factor on the learning rates.
    """
    padded = normalised(F.pad(train.pixels, [padding] * 4))
    side, num_steps = train.pixels.shape[-1], len(batches.rows)
    rates = [group["lr"] for group in optimizer.param_groups]
    model.train()
    for step, batch in enumerate(map(Batches._make, zip(*batches, strict=True))):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor(step / num_steps)
        losses = model.losses(augmented(padded, side, batch), train.labels[batch.rows])
        optimizer.zero_grad()
        sum(losses.values(), torch.zeros(())).backward()
        optimizer.step()
    model.eval()


def draw_subset(images: Images, per_class: int, draws: torch.Generator) -> Images:
    """``per_class`` images of each class, drawn without replacement.

    Raises:
        UserError: a class has fewer.
    """
    rows = []
    for label in images.labels.unique():
        found = torch.nonzero(images.labels == label)[:, 0]
        if len(found) < per_class:
            raise UserError(f"per_class must be at most {len(found)}, got {per_class}")
        rows.append(found[torch.randperm(len(found), generator=draws)[:per_class]])
    chosen = torch.cat(rows)
    return Images(images.pixels[chosen], images.labels[chosen])


def draw_batches(
    num_images: int,
    num_steps: int,
    batch_size: int,
    augmentation: Augmentation,
    draws: torch.Generator,
) -> Batches:
    """Draw everything random about the data of a training; epochs follow each other seamlessly."""
    shape, num_rows = (num_steps, batch_size), num_steps * batch_size
    epochs = -(-num_rows // num_images)
    order = torch.cat([torch.randperm(num_images, generator=draws) for _ in range(epochs)])
    shifts = torch.randint(2 * augmentation.padding + 1, (2, *shape), generator=draws)
    flipped = torch.rand(shape, generator=draws) < augmentation.flip_probability
    return Batches(order[:num_rows].view(shape), shifts[0], shifts[1], flipped)


def augmented(padded: Tensor, side: int, batch: Batches) -> Tensor:
    """Cut a batch out of padded images.

    Args:
        padded: (N, 3, S + 2p, S + 2p) float32.
        side: S.
        batch: of one step, tensors (B,).

    Returns:
        (B, 3, S, S).
    """
    places = torch.arange(side)
    columns = torch.where(batch.flipped[:, None], places.flip(0), places)  # (B, S)
    y = (batch.down[:, None] + places)[:, None, :, None]  # (B, 1, S, 1)
    x = (batch.right[:, None] + columns)[:, None, None, :]  # (B, 1, 1, S)
    return padded[batch.rows[:, None, None, None], torch.arange(3)[:, None, None], y, x]

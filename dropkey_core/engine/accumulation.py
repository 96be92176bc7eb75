"""Gradient accumulation: a step's batch in micro-batches whose losses and gradients add up.

Losses are divided by counts over the batch: of images, objects, weights of classes. A model says
what they are by ``totals(batch) -> dict[str, Tensor]``, from the targets alone and summed over the
processes, and ``forward(batch, totals)`` divides by them rather than by those of its own samples.
So the step is that of the whole batch, up to the order of sums. Two things follow the micro-batch:
random draws (masks, dropout, mixup), and the means of batch norm where it is not frozen.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from dropkey_core.engine.distributed import gather_objects, rank_and_world_size
from dropkey_core.engine.errors import UserError

Batch = Sequence[dict[str, Any]]
AUTO = "auto"
MEASURED = 2  # images that are measured: batch norm and mixup want more than one
# Of free memory a step may take half: there is more than what the forward keeps.
MARGIN = 2.0
CGROUP = Path("/sys/fs/cgroup")  # of a container, or of a job of SLURM's


def check_accumulation(config: DictConfig, num_processes: int) -> None:
    """Raise UserError if ``train.accumulate`` does not divide what each process has of a batch."""
    number, batch = config.train.accumulate, config.dataloader.train.get("total_batch_size")
    if number in (AUTO, 1) or not isinstance(batch, int):
        return
    if batch % (number * num_processes):
        each = f", {batch // num_processes} in each process" if num_processes > 1 else ""
        raise UserError(
            f"train.accumulate={number} must divide the batch: "
            f"dataloader.train.total_batch_size is {batch}{each}"
        )


def add_losses(sums: dict[str, Tensor], losses: Mapping[str, Tensor]) -> Tensor:
    """Add a micro-batch's losses to those of the step, without graph; return their total with it.

    Raises:
        FloatingPointError: the total is not finite.
    """
    for name, loss in losses.items():
        sums[name] = sums[name] + loss.detach() if name in sums else loss.detach()
    total: Any = sum(losses.values())
    if not torch.isfinite(total):
        raise FloatingPointError("the loss is not finite")
    return total


def calls_of(model: nn.Module, batch: Batch, number: int) -> list[tuple[Any, ...]]:
    """Return the arguments with which ``model`` is called for each of ``number`` micro-batches."""
    if number == 1:
        return [(batch,)]
    share, rest = divmod(len(batch), number)
    if rest:
        raise UserError(f"train.accumulate={number} must divide the batch of {len(batch)}")
    totals = model.totals(batch)  # type: ignore[operator]
    return [(batch[first : first + share], totals) for first in range(0, len(batch), share)]


class Accumulation:
    """How many micro-batches a step has: as many as asked for, or as memory asks for.

    Args:
        wanted: their number, or ``auto``: as many as free memory asks for when training begins; 1
            where that is not known, doubled whenever memory runs out.
        model: needs ``totals`` for more than one.
        forward_context: autocast, if any.
        say: prints a line.

    Attributes:
        number: 0 until it is chosen.

    Raises:
        UserError: more than one are wanted of a model without ``totals``.
    """

    def __init__(
        self,
        wanted: int | str,
        model: nn.Module,
        forward_context: Callable[[], AbstractContextManager[Any]],
        say: Callable[[str], None],
    ) -> None:
        self.is_auto = wanted == AUTO
        self.number = 0 if self.is_auto else int(wanted)
        self.model = model
        self.forward_context = forward_context
        self.say = say
        self.can_split = hasattr(model, "totals")
        if self.number > 1 and not self.can_split:
            name = type(model).__name__
            raise UserError(f"train.accumulate must be 1: {name} has no method totals(batch)")

    def calls(self, batch: Batch) -> list[tuple[Any, ...]]:
        """Return the arguments of the model for each micro-batch, see :func:`calls_of`."""
        if not self.number or (self.is_auto and len(batch) % self.number):
            self.choose(batch)
        return calls_of(self.model, batch, self.number)

    def choose(self, batch: Batch) -> None:
        """Choose a number of micro-batches that the free memory is enough for."""
        self.number = 1
        free = bytes_free(next(self.model.parameters()).device)
        if not self.can_split or len(batch) == 1 or free is None:
            return
        per_image, free = self.measure(batch), free // rank_and_world_size()[1]
        trained = [p for p in self.model.parameters() if p.requires_grad]
        # What comes with the first step: gradients, and two moments of Adam's for each.
        free = max(free - 3 * sum(p.numel() * p.element_size() for p in trained), 0)
        told = f"an image takes {per_image / 2**20:,.0f} MiB or more, {free / 2**20:,.0f} are free"
        if per_image > free:
            raise UserError(f"memory is not enough for one image: {told}; make the images smaller")
        fitting = max(free / (MARGIN * per_image), 1)
        divisors = [n for n in range(1, len(batch) + 1) if len(batch) % n == 0]
        number = next(n for n in divisors if len(batch) / n <= fitting)
        self.number = max(gather_objects(number))
        self.say(f"train.accumulate: {self.number} micro-batches of {len(batch)} images ({told})")

    def measure(self, batch: Batch) -> float:
        """Return the bytes that a forward keeps of each of the largest images of a batch."""
        totals = self.model.totals(batch)  # type: ignore[operator]
        largest = sorted(batch, key=lambda sample: sample["image"].numel())[-MEASURED:]

        def forward() -> Any:
            with self.forward_context():
                return self.model(largest, totals)

        return bytes_kept(self.model, forward) / len(largest)

    def double(self, batch: Batch) -> None:
        """Take smaller micro-batches, for memory has run out.

        Raises:
            UserError: there are none, their number was given, or other processes would not know.
        """
        divisors = [n for n in range(2, len(batch) + 1) if len(batch) % n == 0]
        larger = [n for n in divisors if n >= 2 * self.number]
        told = f"GPU memory ran out with train.accumulate={self.number}"
        if not larger or not self.can_split:
            raise UserError(f"{told}, {len(batch) // self.number} images: make them smaller")
        if not self.is_auto or rank_and_world_size()[1] > 1:
            raise UserError(f"{told}: --resume with train.accumulate={larger[0]}")
        self.number = larger[0]
        torch.cuda.empty_cache()
        self.say(f"{told}: {self.number} micro-batches from here on")


def bytes_kept(model: nn.Module, forward: Callable[[], Any]) -> int:
    """Return the bytes that ``forward`` keeps for its backward, the model's parameters apart.

    Each storage counts once. What is there only for a moment does not count.

    Args:
        model: whose buffers stay as they are, whatever the forward does to them.
        forward: calls the model.
    """
    ours = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        with suppress(RuntimeError, NotImplementedError):  # a tensor without storage
            storage = value.untyped_storage()
            if storage.data_ptr() not in ours:
                kept[storage.data_ptr()] = storage.nbytes()
        return value

    buffers = {name: value.clone() for name, value in model.named_buffers()}
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            outputs = forward()  # alive to here: what is freed could be counted once for two
    finally:
        for name, value in model.named_buffers():
            value.copy_(buffers[name])
    del outputs
    return sum(kept.values())


def bytes_free(device: torch.device) -> int | None:
    """Return what a process may still take; None where only trying tells, as on CUDA."""
    if device.type == "cuda":
        return None
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    known = [free for free in (_free_in_machine(), _free_in_group()) if free is not None]
    return min(known, default=None)


def _free_in_machine() -> int | None:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 2**10
    return None


def _free_in_group() -> int | None:
    """What the group of processes that this one belongs to may still take (cgroup 2)."""
    with suppress(OSError, ValueError, KeyError):
        limit = int((CGROUP / "memory.max").read_text())  # "max" for none
        used = int((CGROUP / "memory.current").read_text())
        lines = (CGROUP / "memory.stat").read_text().splitlines()
        return limit - used + int(dict(line.split() for line in lines)["inactive_file"])
    return None

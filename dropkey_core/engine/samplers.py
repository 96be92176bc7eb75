"""Which samples a process reads, as pure functions of its rank and of the steps already done.

A sample of the training stream has a *position*: 0 for the first ever read, and so on for ever. The
position alone decides the dataset index and the augmentation seed, in any number of processes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.utils.data import Sampler

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.randomness import fold_seed


class Draw(NamedTuple):
    """One sample to read: which record, and the seed of its augmentation."""

    record: int
    seed: int


def rank_and_world_size() -> tuple[int, int]:
    """Return this process's rank and the number of processes, (0, 1) without torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class ShuffledStream:
    """An endless sequence of draws; each epoch is a fresh permutation of the dataset.

    Args:
        size: number of records.
        seed: decides the permutations and the augmentation seeds.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self._epoch = -1
        self._order: list[int] = []

    def __getitem__(self, position: int) -> Draw:
        epoch, offset = divmod(position, self.size)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(fold_seed(self.seed, 0, epoch))
            self._order = torch.randperm(self.size, generator=generator).tolist()
            self._epoch = epoch
        return Draw(self._order[offset], fold_seed(self.seed, 1, position))


class TrainBatchSampler(Sampler[list[Draw]]):
    """Batches of the endless training stream that fall to this process.

    Step ``s`` reads positions ``[s * total_batch_size, (s + 1) * total_batch_size)``; rank ``r`` of
    ``w`` takes the ``r``-th of ``w`` equal parts. The rank is asked for anew when iteration begins.

    Args:
        size: number of records.
        total_batch_size: samples per step over all processes.
        seed: see :class:`ShuffledStream`.

    Attributes:
        first_step: where iteration begins; the engine sets it when a run is resumed.
    """

    def __init__(self, size: int, total_batch_size: int, seed: int) -> None:
        if size < 1:
            raise UserError("dataloader.train.dataset has no records to train on")
        if total_batch_size < 1:
            raise UserError(f"total_batch_size must be at least 1, got {total_batch_size}")
        self.stream = ShuffledStream(size, seed)
        self.total_batch_size = total_batch_size
        self.first_step = 0
        self.share()

    def share(self) -> int:
        """Return the number of samples of this process in each step."""
        world_size = rank_and_world_size()[1]
        share, rest = divmod(self.total_batch_size, world_size)
        if rest:
            raise UserError(
                "dataloader.train.total_batch_size must be a multiple of the number of processes: "
                f"{self.total_batch_size} samples cannot be shared by {world_size}"
            )
        return share

    def __iter__(self) -> Iterator[list[Draw]]:
        rank, share = rank_and_world_size()[0], self.share()
        step = self.first_step
        while True:
            start = step * self.total_batch_size + rank * share
            yield [self.stream[position] for position in range(start, start + share)]
            step += 1


class TestBatchSampler(Sampler[list[Draw]]):
    """Batches of this process's contiguous part of the dataset, each record exactly once.

    The parts of all processes differ in length by at most one and together make up the dataset.

    Args:
        size: number of records.
        batch_size: samples per batch of one process.
    """

    __test__ = False  # its name does not make it a test

    def __init__(self, size: int, batch_size: int) -> None:
        if batch_size < 1:
            raise UserError(f"dataloader.test.batch_size must be at least 1, got {batch_size}")
        self.size = size
        self.batch_size = batch_size
        self.shard()  # now rather than after hours of training

    def shard(self) -> range:
        """Return the indices of this process."""
        rank, world_size = rank_and_world_size()
        if self.size < world_size:
            raise UserError(
                f"dataloader.test.dataset has {self.size} records, too few for {world_size} "
                "processes"
            )
        return range(self.size * rank // world_size, self.size * (rank + 1) // world_size)

    def __len__(self) -> int:
        return -(-len(self.shard()) // self.batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        shard = self.shard()
        for start in range(0, len(shard), self.batch_size):
            yield [Draw(i, fold_seed(0, i)) for i in shard[start : start + self.batch_size]]

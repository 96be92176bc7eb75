"""Data loading: seeds, distributed samplers, and loaders of samples (lists, never collated).

Every random draw is a function of the seed and a counter, so order, augmentation and dropout of
step n do not depend on which process ran the steps before it. Records are detectron2's dicts.
"""

import atexit
import itertools
import multiprocessing
import pickle
import random
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from dropkey_core.engine.distributed import rank_and_world_size
from dropkey_core.engine.errors import UserError
from dropkey_core.engine.signals import SIGNALS

Record = Mapping[str, Any]
Sample = dict[str, Any]
Mapper = Callable[[dict[str, Any]], Sample]

_MASK = (1 << 64) - 1


def fold_seed(seed: int, *counters: int) -> int:
    """Mix ``counters`` into ``seed`` one by one and return 64 random-looking bits.

    Each is added and mixed by the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), so
    neighbouring steps, ranks or positions get unrelated seeds, and (1, 2) differs from (2, 1).
    """
    state = _mix(seed & _MASK)
    for counter in counters:
        state = _mix(state ^ _mix((counter + 0x632BE59BD9B4E019) & _MASK))
    return state


def _mix(bits: int) -> int:
    bits = (bits + 0x9E3779B97F4A7C15) & _MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK
    return bits ^ (bits >> 31)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch, numpy and Python for one training step of one process."""
    folded = fold_seed(seed, step, rank)
    torch.manual_seed(folded)
    np.random.seed(folded & 0xFFFFFFFF)  # noqa: NPY002, models may use the global generator
    random.seed(folded)


@contextmanager
def sample_randomness(seed: int) -> Iterator[None]:
    """Seed torch (CPU), numpy and Python inside the block, and put back their states after it."""
    former = random.getstate(), np.random.get_state()  # noqa: NPY002, timm draws from the global one
    try:
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: that one also reaches for CUDA, in every loader process.
            torch.default_generator.manual_seed(seed)
            np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
            random.seed(seed)
            yield
    finally:
        random.setstate(former[0])
        np.random.set_state(former[1])  # noqa: NPY002


class Draw(NamedTuple):
    """One sample to read: which record, and the seed of its augmentation."""

    record: int
    seed: int


class TrainBatchSampler(Sampler[list[Draw]]):
    """Distributed sampler of the endless training stream: the batches that fall to this process.

    Each epoch is a fresh permutation of the dataset. A sample's *position* in the stream alone
    decides its record and augmentation, in any number of processes. Step ``s`` reads positions
    ``[s * total_batch_size, (s + 1) * total_batch_size)``, of which each rank, which is asked for
    when iteration begins, takes its equal part.

    Args:
        size: number of records.
        total_batch_size: samples per step over all processes.
        seed: decides the permutations and the augmentation seeds.

    Attributes:
        first_step: where iteration begins; the engine sets it when a run is resumed.
    """

    def __init__(self, size: int, total_batch_size: int, seed: int) -> None:
        if size < 1:
            raise UserError("dataloader.train.dataset has no records to train on")
        if total_batch_size < 1:
            raise UserError(f"total_batch_size must be at least 1, got {total_batch_size}")
        self.size = size
        self.seed = seed
        self.total_batch_size = total_batch_size
        self.first_step = 0
        self._epoch = -1
        self._order: list[int] = []
        self.share()

    def draw(self, position: int) -> Draw:
        """Return what lies at ``position`` of the stream."""
        epoch, offset = divmod(position, self.size)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(fold_seed(self.seed, 0, epoch))
            self._order = torch.randperm(self.size, generator=generator).tolist()
            self._epoch = epoch
        return Draw(self._order[offset], fold_seed(self.seed, 1, position))

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
        for step in itertools.count(self.first_step):
            start = step * self.total_batch_size + rank * share
            yield [self.draw(position) for position in range(start, start + share)]


class TestBatchSampler(Sampler[list[Draw]]):
    """Distributed sampler of a test set: this process's contiguous part, each record once.

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
            too_few = f"{self.size} records, too few for {world_size} processes"
            raise UserError(f"dataloader.test.dataset has {too_few}")
        return range(self.size * rank // world_size, self.size * (rank + 1) // world_size)

    def __len__(self) -> int:
        return -(-len(self.shard()) // self.batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        shard = self.shard()
        for start in range(0, len(shard), self.batch_size):
            yield [Draw(i, fold_seed(0, i)) for i in shard[start : start + self.batch_size]]


def build_train_loader(
    dataset: Sequence[Record],
    mapper: Mapper,
    total_batch_size: int,
    num_workers: int = 4,
    seed: int = 0,
) -> "DataLoader[list[Sample]]":
    """Return an endless loader of shuffled training batches.

    Args:
        dataset: the records, as a list or as a sequence that makes each when asked for it.
        mapper: makes a sample of a record; all its randomness comes from the global generators of
            torch, numpy and Python, which are seeded for the sample's place in the stream. With a
            method ``teaches(record)``, whether there is something to learn, one record has to.
        total_batch_size: samples per step over all processes.
        num_workers: loader processes of each training process; the samples do not depend on it.
        seed: decides order and augmentation.

    Raises:
        UserError: no records, none that teaches, or a batch that cannot be shared evenly among
            processes.
    """
    sampler = TrainBatchSampler(len(dataset), total_batch_size, seed)
    teaches = getattr(mapper, "teaches", None)
    if teaches is not None and not any(map(teaches, dataset)):
        raise UserError(
            f"dataloader.train.dataset: nothing is left to learn from on any of its {len(dataset)} "
            f"images (first: {_name(dataset[0])})"
        )
    return SampleLoader(dataset, mapper, sampler, num_workers)


def build_test_loader(
    dataset: Sequence[Record], mapper: Mapper, batch_size: int = 1, num_workers: int = 4
) -> "DataLoader[list[Sample]]":
    """Return a loader that reads this process's part of ``dataset`` once, in order.

    Its length is the number of batches of this process; parts may differ by one record.
    """
    sampler = TestBatchSampler(len(dataset), batch_size)
    return SampleLoader(dataset, mapper, sampler, num_workers)


def start_at(loader: "DataLoader[list[Sample]]", step: int) -> bool:
    """Let a train loader begin at ``step``; False if it is not one of ours and cannot."""
    sampler = getattr(loader, "batch_sampler", None)
    if not isinstance(sampler, TrainBatchSampler):
        return False
    sampler.first_step = step
    return True


def steps_per_epoch(loader: "DataLoader[list[Sample]]") -> float | None:
    """Return after how many steps each record was read once; None for a loader of others."""
    sampler = getattr(loader, "batch_sampler", None)
    if not isinstance(sampler, TrainBatchSampler):
        return None
    return sampler.size / sampler.total_batch_size


def endless(loader: Iterable[list[Sample]]) -> Iterator[list[Sample]]:
    """Yield the batches of a loader, again from the first where one that is not ours ends.

    Raises:
        UserError: it has none.
    """
    while True:
        is_empty = True
        for batch in loader:
            is_empty = False
            yield batch
        if is_empty:
            raise UserError(
                "dataloader.train has no batches: it has fewer records than a batch, or can be "
                "read only once"
            )


class SampleLoader(DataLoader[Any]):
    """A loader of mapped records whose worker processes hear neither Ctrl-C nor SIGTERM.

    Both reach the whole process group, and the engine still needs its workers to finish its step.

    Attributes:
        classes: names by index, where the records have them.
    """

    def __init__(
        self, records: Sequence[Record], mapper: Mapper, sampler: Sampler[Any], num_workers: int
    ) -> None:
        self.classes = getattr(records, "classes", None)
        super().__init__(
            MappedRecords(records, mapper),
            batch_sampler=sampler,
            num_workers=num_workers,
            collate_fn=list,
            pin_memory=torch.cuda.is_available(),  # else no copy to the GPU is asynchronous
            worker_init_fn=ignore_signals,
        )

    def __iter__(self) -> Any:
        if not hasattr(signal, "pthread_sigmask"):  # Windows
            return super().__iter__()
        # A process inherits what is blocked, so there is no moment at which a worker could hear.
        context = self.multiprocessing_context or multiprocessing
        if self.num_workers and context.get_start_method() != "fork":
            resource_tracker.ensure_running()  # before: where it is started, it unblocks them
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals(worker: int) -> None:
    """Ignore the signals in a process that has inherited nothing: of Windows, of a fork server."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@atexit.register
def _end_workers() -> None:
    # At exit Python sends workers left over SIGTERM, which ours do not hear, and waits for them.
    if hasattr(signal, "SIGCHLD"):  # torch would report their end as a failure
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


class PackedRecords:
    """A list of records packed into one array.

    Counting references to a million small objects touches their memory, which loader processes
    share only until then: in the end each would have its own copy.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        packed = [pickle.dumps(record, protocol=-1) for record in records]
        self._ends = np.cumsum([len(record) for record in packed], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(packed), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a fresh copy of one record."""
        start = self._ends[index - 1] if index else 0
        # Bytes that this very object packed: nothing from a file.
        return dict(pickle.loads(self._bytes[start : self._ends[index]].data))


class MappedRecords(Dataset[Any]):
    """Records turned into samples on demand. A list is packed: other sequences make their own."""

    def __init__(self, records: Sequence[Record], mapper: Mapper) -> None:
        self._records = PackedRecords(records) if isinstance(records, list) else records
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, draw: Draw) -> Sample:
        record = dict(self._records[draw.record])  # the mapper's to change
        try:
            with sample_randomness(draw.seed):
                return self.mapper(record)
        except UserError as error:
            if (name := _name(record)) in str(error):
                raise
            raise UserError(f"{name}: {error}") from error
        except Exception as error:
            raise RuntimeError(f"while preparing {_name(record)}: {error!r}") from error


def _name(record: Record) -> str:
    return str(record.get("file_name", f"image_id {record.get('image_id')}"))

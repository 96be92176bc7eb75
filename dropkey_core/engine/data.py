"""From records (detectron2's dataset dicts) to batches of samples: lists, never collated."""

import atexit
import multiprocessing
import pickle
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.randomness import sample_randomness
from dropkey_core.engine.samplers import Draw, TestBatchSampler, TrainBatchSampler
from dropkey_core.engine.signals import SIGNALS

Record = Mapping[str, Any]
Sample = dict[str, Any]
Mapper = Callable[[dict[str, Any]], Sample]


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
        mapper: makes a sample of a record; all its randomness comes from torch's global generator,
            which is seeded for the sample's place in the stream.
        total_batch_size: samples per step over all processes.
        num_workers: loader processes of each training process; the samples do not depend on it.
        seed: decides order and augmentation.

    Raises:
        UserError: without records, or if the batch cannot be shared evenly among processes.
    """
    sampler = TrainBatchSampler(len(dataset), total_batch_size, seed)
    return _loader(MappedRecords(dataset, mapper), sampler, num_workers)


def build_test_loader(
    dataset: Sequence[Record], mapper: Mapper, batch_size: int = 1, num_workers: int = 4
) -> "DataLoader[list[Sample]]":
    """Return a loader that reads this process's part of ``dataset`` once, in order.

    Its length is the number of batches of this process; parts may differ by one record.
    """
    sampler = TestBatchSampler(len(dataset), batch_size)
    return _loader(MappedRecords(dataset, mapper), sampler, num_workers)


def start_at(loader: "DataLoader[list[Sample]]", step: int) -> bool:
    """Let a train loader begin at ``step``; False if it is not one of ours and cannot."""
    sampler = getattr(loader, "batch_sampler", None)
    if not isinstance(sampler, TrainBatchSampler):
        return False
    sampler.first_step = step
    return True


def _loader(
    records: "MappedRecords", sampler: TrainBatchSampler | TestBatchSampler, num_workers: int
) -> "DataLoader[list[Sample]]":
    return DeafLoader(records, batch_sampler=sampler, num_workers=num_workers, collate_fn=list)


class DeafLoader(DataLoader[Any]):
    """A DataLoader whose worker processes hear neither Ctrl-C nor SIGTERM.

    Both reach the whole process group. The engine finishes its step and saves, for which it still
    needs its workers; they end when it lets go of them.
    """

    def __iter__(self) -> Any:
        # A process inherits what is blocked, so there is no moment at which a worker could hear.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@atexit.register
def _end_workers() -> None:
    # At exit Python sends workers left over SIGTERM, which ours do not hear, and waits for them.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would report their end as a failure
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


class PackedRecords:
    """A list of records packed into one array.

    Loader processes share memory only until they touch it, and counting references to a million
    small objects touches all of them: in the end each process would have its own copy.
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
        record: dict[str, Any] = pickle.loads(self._bytes[start : self._ends[index]].data)
        return record


class MappedRecords(Dataset[Any]):
    """Records turned into samples on demand.

    A list is packed; any other sequence, which makes its records as they are asked for, is read as
    it is.
    """

    def __init__(self, records: Sequence[Record], mapper: Mapper) -> None:
        self._records = PackedRecords(records) if isinstance(records, list) else records
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self._records)

    def record(self, index: int) -> dict[str, Any]:
        """Return one record, which is the caller's to change."""
        return dict(self._records[index])

    def __getitem__(self, draw: Draw) -> Sample:
        record = self.record(draw.record)
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

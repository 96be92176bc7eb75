import os
import random
import signal
import subprocess
import sys
from itertools import chain, islice

import numpy as np
import pytest
import torch

from dropkey_core.engine import UserError, build_test_loader, build_train_loader, data
from dropkey_core.engine.data import (
    TestBatchSampler,
    TrainBatchSampler,
    endless,
    fold_seed,
    sample_randomness,
    seed_step,
    start_at,
)
from dropkey_core.engine.paths import PROJECT_ROOT


def records(size=6):
    return [{"file_name": f"/data/{n}.jpg", "image_id": n, "boxes": [n]} for n in range(size)]


def noisy(record):
    return {"image_id": record["image_id"], "noise": torch.rand(1).item()}


def read(num_workers, first_step=0, steps=4):
    loader = build_train_loader(records(), noisy, 4, num_workers, seed=3)
    assert start_at(loader, first_step)
    return list(islice(loader, steps))


def test_samples_do_not_depend_on_workers_start_or_the_global_generator():
    torch.manual_seed(0)
    whole = read(0)
    torch.manual_seed(1)
    assert read(2) == whole
    assert read(0, first_step=2, steps=2) == whole[2:]
    assert len({sample["noise"] for batch in whole for sample in batch}) == 16


def test_test_loader_reads_in_order_the_same_every_time():
    loader = build_test_loader(records(5), noisy, batch_size=2, num_workers=0)
    first = list(loader)
    assert [[s["image_id"] for s in batch] for batch in first] == [[0, 1], [2, 3], [4]]
    assert list(loader) == first
    assert len(loader) == 3


def test_mapper_may_change_its_record():
    def change(record):
        record["boxes"].append("changed")
        return {"boxes": list(record["boxes"])}

    loader = build_test_loader(records(2), change, batch_size=2, num_workers=0)
    assert list(loader) == list(loader) == [[{"boxes": [0, "changed"]}, {"boxes": [1, "changed"]}]]


class Made:
    """Records that are made when they are asked for."""

    def __init__(self):
        self.asked = []

    def __len__(self):
        return 3

    def __getitem__(self, index):
        self.asked.append(index)
        return {"image_id": index * 10}


def test_records_can_be_made_on_demand():
    made = Made()
    loader = build_test_loader(made, dict, batch_size=2, num_workers=0)
    assert made.asked == []
    assert list(loader) == [[{"image_id": 0}, {"image_id": 10}], [{"image_id": 20}]]
    assert made.asked == [0, 1, 2]


def refuse(record):
    raise UserError("the image is truncated")


def crash(record):
    raise KeyError("bbox")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_error_names_the_file_in_one_line(num_workers):
    loader = build_test_loader(records(1), refuse, num_workers=num_workers)
    with pytest.raises(UserError) as caught:
        list(loader)
    assert caught.value.one_line() == "/data/0.jpg: the image is truncated"
    loader = build_test_loader(records(1), crash, num_workers=num_workers)
    with pytest.raises(RuntimeError, match=r"while preparing /data/0.jpg: KeyError\('bbox'\)"):
        list(loader)


at_birth = []  # signals that each forked process of this one sends itself before anything else
os.register_at_fork(after_in_child=lambda: [os.kill(os.getpid(), number) for number in at_birth])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_worker_outlives_a_signal_that_comes_before_it_has_begun(number):
    loader = build_test_loader(records(3), noisy, batch_size=1, num_workers=1)
    loader.multiprocessing_context = "fork"
    at_birth.append(number)
    try:
        assert [sample["image_id"] for (sample,) in loader] == [0, 1, 2]
    finally:
        at_birth.clear()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGINT, signal.SIGTERM}


class Struck:
    """A mapper that arrives in a spawned process with signals, before that can ignore any."""

    def __call__(self, record):
        return {"image_id": record["image_id"]}

    def __reduce__(self):
        return strike, ()


def strike():
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    return Struck()


@pytest.mark.slow
def test_spawned_worker_outlives_signals_that_come_before_it_has_begun():
    loader = build_test_loader(records(2), Struck(), batch_size=1, num_workers=1)
    loader.multiprocessing_context = "spawn"
    assert [sample["image_id"] for (sample,) in loader] == [0, 1]
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGINT, signal.SIGTERM}


def test_worker_ignores_signals_where_nothing_is_inherited(monkeypatch):
    monkeypatch.delattr(signal, "pthread_sigmask")
    loader = build_test_loader(records(2), strike_at, batch_size=1, num_workers=1)
    loader.multiprocessing_context = "fork"
    assert [sample["image_id"] for (sample,) in loader] == [0, 1]


def strike_at(record):
    strike()
    return {"image_id": record["image_id"]}


@pytest.mark.slow
def test_process_ends_with_an_iterator_still_held():
    """Python itself sends SIGTERM to workers at exit, and waits for them."""
    script = (
        "from dropkey_core.engine import build_train_loader\n"
        "batches = iter(build_train_loader([{'n': 1}] * 4, dict, 2, 1))\n"
        "print(next(batches))\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[{'n': 1}, {'n': 1}]\n", "")


def test_foreign_loader_cannot_be_positioned():
    assert not start_at([[1]], 3)


@pytest.fixture
def as_rank(monkeypatch):
    def become(rank, world_size):
        monkeypatch.setattr(data, "rank_and_world_size", lambda: (rank, world_size))

    return become


def test_stream_is_a_pure_function_of_position():
    forwards, backwards = TrainBatchSampler(7, 1, seed=1), TrainBatchSampler(7, 1, seed=1)
    draws = [forwards.draw(position) for position in range(30)]
    assert [backwards.draw(position) for position in reversed(range(30))] == draws[::-1]


def test_each_epoch_is_a_permutation_and_a_new_one():
    stream = TrainBatchSampler(50, 1, seed=1)
    epochs = [[stream.draw(50 * e + i).record for i in range(50)] for e in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != list(range(50))
    assert len({stream.draw(p).seed for p in range(150)}) == 150
    other = TrainBatchSampler(50, 1, seed=2)
    assert [other.draw(i).record for i in range(50)] != epochs[0]


def test_ranks_share_the_batch_of_one_process(as_rank):
    as_rank(0, 1)
    alone = list(islice(TrainBatchSampler(10, 6, seed=0), 8))
    shares = []
    for rank in range(3):
        as_rank(rank, 3)
        shares.append(list(islice(TrainBatchSampler(10, 6, seed=0), 8)))
    for step in range(8):
        parts = [share[step] for share in shares]
        assert list(chain(*parts)) == alone[step]
        assert all(len(part) == 2 for part in parts)
        assert parts[0] != parts[1] != parts[2]


@pytest.mark.parametrize(("size", "world_size"), [(10, 1), (10, 3), (7, 2), (3, 3)])
def test_test_parts_cover_everything_once(as_rank, size, world_size):
    seen, lengths = [], []
    for rank in range(world_size):
        as_rank(rank, world_size)
        sampler = TestBatchSampler(size, batch_size=2)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert all(1 <= len(batch) <= 2 for batch in batches)
        seen += [draw.record for batch in batches for draw in batch]
        lengths.append(sum(map(len, batches)))
    assert seen == list(range(size))
    assert max(lengths) - min(lengths) <= 1


def test_records_that_teach_nothing_are_refused(as_rank):
    class Mapper:
        def teaches(self, record):
            return record["image_id"] > 1

        def __call__(self, record):
            return record

    records = [{"image_id": number} for number in range(3)]
    assert len(build_train_loader(records, Mapper(), 2, 0).dataset) == 3
    told = r"dataloader\.train\.dataset: nothing is left to learn from on any of its 2 images"
    with pytest.raises(UserError, match=rf"{told} \(first: image_id 0\)"):
        build_train_loader(records[:2], Mapper(), 2, 0)


def test_bad_sizes_are_refused(as_rank):
    with pytest.raises(UserError, match="no records"):
        TrainBatchSampler(0, 4, seed=0)
    with pytest.raises(UserError, match="total_batch_size must be at least 1, got 0"):
        TrainBatchSampler(4, 0, seed=0)
    with pytest.raises(UserError, match="batch_size must be at least 1, got -1"):
        TestBatchSampler(4, -1)
    as_rank(0, 3)
    with pytest.raises(UserError, match=r"must be a multiple .* 4 samples cannot be shared by 3"):
        TrainBatchSampler(10, 4, seed=0)
    with pytest.raises(UserError, match="has 2 records, too few for 3 processes"):
        list(TestBatchSampler(2, 1))


def test_counters_and_their_order_matter():
    seeds = {fold_seed(s, a, b) for s in range(8) for a in range(8) for b in range(8)}
    assert len(seeds) == 512
    assert fold_seed(3, 1, 2) == fold_seed(3, 1, 2)
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert fold_seed(-1, 2**70) == fold_seed(-1, 2**70)


def test_bits_of_neighbouring_seeds_are_independent():
    bits = [bin(fold_seed(0, n) ^ fold_seed(0, n + 1)).count("1") for n in range(2000)]
    assert abs(np.mean(bits) - 32) < 0.5  # standard error of the mean is 4 / sqrt(2000) = 0.09


def draw():
    return torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002


def test_step_seed_governs_all_three_generators():
    seed_step(5, step=3, rank=1)
    first = draw()
    draw()
    seed_step(5, step=3, rank=1)
    assert draw() == first
    for other in ((6, 3, 1), (5, 4, 1), (5, 3, 0)):
        seed_step(*other)
        assert not set(draw()) & set(first)


def test_sample_randomness_seeds_all_three_generators_and_leaves_no_trace():
    seed_step(0, 0, 0)
    expected = draw()
    seed_step(0, 0, 0)
    with pytest.raises(KeyError), sample_randomness(11):
        inside = draw()
        raise KeyError
    assert draw() == expected
    with sample_randomness(11):
        assert draw() == inside
    with sample_randomness(12):
        assert not set(draw()) & set(inside)


def test_a_loader_that_ends_begins_again():
    batches = endless([[{"a": 1}], [{"a": 2}]])
    assert [next(batches)[0]["a"] for _ in range(5)] == [1, 2, 1, 2, 1]
    with pytest.raises(UserError, match="no batches"):
        next(endless([]))

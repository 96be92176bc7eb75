from itertools import chain, islice

import pytest

from dropkey_core.engine import UserError, samplers
from dropkey_core.engine.samplers import ShuffledStream, TestBatchSampler, TrainBatchSampler


@pytest.fixture
def as_rank(monkeypatch):
    def become(rank, world_size):
        monkeypatch.setattr(samplers, "rank_and_world_size", lambda: (rank, world_size))

    return become


def test_stream_is_a_pure_function_of_position():
    forwards, backwards = ShuffledStream(7, seed=1), ShuffledStream(7, seed=1)
    draws = [forwards[position] for position in range(30)]
    assert [backwards[position] for position in reversed(range(30))] == draws[::-1]


def test_each_epoch_is_a_permutation_and_a_new_one():
    stream = ShuffledStream(50, seed=1)
    epochs = [[stream[50 * e + i].record for i in range(50)] for e in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != list(range(50))
    assert len({stream[p].seed for p in range(150)}) == 150
    assert [ShuffledStream(50, seed=2)[i].record for i in range(50)] != epochs[0]


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


def test_first_step_continues_the_stream():
    sampler = TrainBatchSampler(10, 4, seed=0)
    whole = list(islice(sampler, 9))
    sampler.first_step = 5
    assert list(islice(sampler, 4)) == whole[5:]


def test_uneven_share_is_refused(as_rank):
    as_rank(0, 3)
    with pytest.raises(
        UserError, match=r"total_batch_size must be a multiple .* 4 samples .* by 3"
    ):
        next(iter(TrainBatchSampler(10, 4, seed=0)))


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


def test_bad_sizes_are_refused(as_rank):
    with pytest.raises(UserError, match="no records"):
        TrainBatchSampler(0, 4, seed=0)
    with pytest.raises(UserError, match="total_batch_size must be at least 1, got 0"):
        TrainBatchSampler(4, 0, seed=0)
    with pytest.raises(UserError, match="batch_size must be at least 1, got -1"):
        TestBatchSampler(4, -1)
    as_rank(0, 3)
    with pytest.raises(UserError, match="has 2 records, too few for 3 processes"):
        list(TestBatchSampler(2, 1))

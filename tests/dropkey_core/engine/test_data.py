import multiprocessing
import os
import signal
import subprocess
import sys
from itertools import islice

import pytest
import torch

from dropkey_core.engine import UserError, build_test_loader, build_train_loader
from dropkey_core.engine.data import start_at
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


def test_worker_outlives_a_signal_to_the_process_group():
    others = set(multiprocessing.active_children())
    batches = iter(build_train_loader(records(), noisy, 4, num_workers=1))
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - others
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
    for _ in range(4):
        next(batches)
    del batches
    worker.join(timeout=5)
    assert worker.exitcode == 0


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

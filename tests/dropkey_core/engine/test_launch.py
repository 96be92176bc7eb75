"""One process of several fails, or is asked to stop: forked ones, as if torchrun had started them.

What the launching process does with those that it has launched is tried with shells in their place;
tests/tools/test_train_net.py and tests/distributed_check.py try it with the tool itself.
"""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from dropkey_core.engine import UserError, launch
from dropkey_core.engine.launch import ending_together, watch
from tests.dropkey_core.engine.toy_run import after_calls, assert_same_run, curve, toy
from tests.ranks import run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]

TOY = ["--config", "toy.yaml", "model.drop_ratio=0.0"]
FAULTY = ["model._target_=toy_faults.FaultyModel"]
MAPPER, EVALUATOR = "dataloader.train.mapper", "dataloader.evaluator"


@pytest.fixture
def main(toy_folder, load_script, monkeypatch):
    """The tool, whose processes wait less before they tell an error that may be another's."""
    monkeypatch.setattr(launch, "OTHER_ERROR_S", 0.2)
    monkeypatch.setattr(launch, "USER_ERROR_S", 0.1)
    return load_script("tools/train_net").main


@pytest.mark.parametrize(
    ("rank", "overrides", "message"),
    [
        (2, [f"{MAPPER}._target_=toy_faults.FaultyMapper", f"{MAPPER}.rank=2"], "truncated"),
        (1, [*FAULTY, "model.fault=loss", "model.rank=1"], "not finite"),
        (0, [f"{EVALUATOR}._target_=toy_faults.FaultyEvaluator", f"{EVALUATOR}.rank=0"],
         "there are no images"),
        (0, [*FAULTY, "model.fault=folder", "model.rank=0"], "cannot write"),
    ],
)  # fmt: skip
def test_who_fails_says_why_and_nobody_waits(main, rank, overrides, message):
    six = "dataloader.train.total_batch_size=6"
    ended = run_ranks(3, main, [*TOY, six, *overrides], timeout=120)
    assert None not in ended, "a process hangs"
    assert ended[rank].value == 2
    [line] = ended[rank].err.splitlines()
    assert line.startswith(f"error: rank {rank} of 3: " if rank else "error: ")
    assert message in line
    for other in {0, 1, 2} - {rank}:
        assert ended[other].value is None  # an error of torch's: the connection is gone
        assert f"rank {other} of 3 fails; if another one has failed, see there" in ended[other].err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataloader.train.total_batch_size=4", "samples cannot be shared by 3"),
        ("dataset.size=2", "dataloader.test.dataset has 2 records, too few for 3 processes"),
    ],
)
def test_what_cannot_be_shared_is_told_before_any_step(main, override, message):
    six = "dataloader.train.total_batch_size=6"
    ended = run_ranks(3, main, [*TOY, six, override], timeout=120)
    assert [rank.value for rank in ended] == [2, 2, 2]
    assert all(message in rank.err and "step 1/" not in rank.out for rank in ended)


def stopped(main, command):
    """Run the tool; process 1 alone gets SIGTERM in its third step."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ["RANK"] == "1":
            terminate = partial(os.kill, os.getpid(), signal.SIGTERM)
            after_calls(patch, toy("ToyModel"), "forward", 3, terminate)
        return main(command)


def test_two_processes_stop_and_go_on_to_the_last_bit(main, toy_folder):
    """With dropout, which differs between processes, and a loader's own processes."""
    toy = ["--config", "toy.yaml", "dataloader.train.num_workers=1"]
    parts = [*toy, "train.output_dir=parts"]
    whole = run_ranks(2, main, [*toy, "train.output_dir=whole"])
    assert [rank.value for rank in [*whole, *run_ranks(2, stopped, main, parts)]] == [0] * 4
    assert torch.load(toy_folder / "parts" / "last.pth", weights_only=True)["step"] == 3
    assert [rank.value for rank in run_ranks(2, main, [*parts, "--resume"])] == [0, 0]
    assert len(curve(toy_folder / "parts")) == 12
    assert_same_run(toy_folder / "parts", toy_folder / "whole")


def test_two_processes_work_off_their_shares_in_parts(main, toy_folder):
    """The losses of one process with the whole batch, with gradients exchanged once a step."""
    toy = [*TOY, "train.max_iter=3"]
    assert main([*toy, "train.output_dir=whole"]) == 0
    parts = [*toy, "train.output_dir=parts", "train.accumulate=2"]
    ended = run_ranks(2, main, parts)
    assert [rank.value for rank in ended] == [0, 0], ended[0].err
    whole, found = (
        [float(row["loss"]) for row in curve(toy_folder / name)] for name in ("whole", "parts")
    )
    assert found == pytest.approx(whole, rel=1e-5)


def unequal(main, command):
    """Run the tool in another folder as process 1, as on a machine of its own."""
    if os.environ["RANK"] == "1":
        Path("elsewhere").mkdir()
        shutil.copy("toy.yaml", "elsewhere")
        os.chdir("elsewhere")
    return main(command)


def test_machines_must_share_the_folder(main, toy_folder):
    assert main([*TOY, "train.max_iter=1"]) == 0
    ended = run_ranks(2, unequal, main, [*TOY, "--resume"])
    assert [rank.value for rank in ended] == [2, 2]
    assert "different steps, [0, 1]: train.output_dir output must be the same" in ended[0].err


def launching(commands, note, error=None):
    """Launch shells as Lightning launches processes, and wait for something that never comes."""
    sys.stderr = note.open("w", buffering=1)  # not what pytest has put there
    processes = [
        subprocess.Popen(["bash", "-c", command], stderr=sys.stderr) for command in commands
    ]
    watch(processes)
    strategy = SimpleNamespace(launcher=SimpleNamespace(procs=processes))
    with ending_together(SimpleNamespace(world_size=3, global_rank=0, strategy=strategy)):
        if error is not None:
            raise error
        time.sleep(60)


WAITS = "exec sleep 59.875"


@pytest.mark.parametrize(
    ("commands", "error", "code", "told"),
    [
        ([WAITS, "echo error: mine >&2; exit 2"], None, 2, "error: mine\n"),
        (["kill -KILL $$", WAITS], None, 137, "error: process 1 was ended by SIGKILL\n"),
        # 1 is multiprocessing's for any exception: the watch has not made another of it
        ([WAITS, WAITS], UserError("the disk is full"), 1, "UserError: the disk is full\n"),
        # a consequence leaves the word to its cause, which ends half a second later
        ([WAITS, "echo error: mine >&2; sleep 0.5; exit 2"], RuntimeError("Connection closed"), 2,
         "error: mine\n"),
    ],
)  # fmt: skip
def test_the_launching_process_ends_as_the_one_that_fails(tmp_path, commands, error, code, told):
    note, context = tmp_path / "told", multiprocessing.get_context("fork")
    process = context.Process(target=launching, args=(commands, note, error))
    process.start()
    process.join(timeout=10)
    process.kill()
    assert process.exitcode == code
    assert note.read_text().endswith(told)
    deadline = time.monotonic() + 10
    while subprocess.run(["pgrep", "-f", "sleep 59.875"], capture_output=True).stdout:
        assert time.monotonic() < deadline  # what was killed takes a moment to be gone


def abandoned(pids):
    """Launch a process that watches, and be gone."""
    reading, writing = os.pipe()
    if os.fork():
        os.read(reading, 1)
        os._exit(0)
    os.environ["LOCAL_RANK"] = "1"
    watch([])
    pids.put(os.getpid())
    os.write(writing, b".")
    time.sleep(30)


def test_a_launched_process_does_not_outlive_its_parent():
    context = multiprocessing.get_context("fork")
    pids = context.SimpleQueue()
    process = context.Process(target=abandoned, args=(pids,))
    process.start()
    pid = pids.get()
    process.join()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in state(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"  # gone in between


def test_connection_is_closed_at_the_end(tmp_path):
    dist.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path / 'meet'}")
    with ending_together(SimpleNamespace(world_size=1)):
        pass
    assert not dist.is_initialized()

"""One process of several fails, or is asked to stop: forked ones, as if torchrun had started them.

What the launching process does with those that it has launched is tried with shells in their place;
tests/tools/test_train_net.py and tests/distributed_check.py try it with the tool itself.
"""

import csv
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dropkey_core.engine import UserError, joint_end
from dropkey_core.engine.joint_end import JointEnd
from dropkey_core.engine.samplers import rank_and_world_size
from tests.ranks import run_ranks

TOY = ["--config", "toy.yaml", "model.drop_ratio=0.0"]
FAULTY = ["model._target_=toy_faults.FaultyModel"]
MAPPER, EVALUATOR = "dataloader.train.mapper", "dataloader.evaluator"


@pytest.fixture
def main(toy_folder, load_script, monkeypatch):
    """The tool, whose processes wait less before they tell an error that may be another's."""
    monkeypatch.setattr(joint_end, "OTHER_ERROR_S", 0.2)
    monkeypatch.setattr(joint_end, "USER_ERROR_S", 0.1)
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
    import toy_experiment

    forward, calls = toy_experiment.ToyModel.forward, []

    def counted(self, batch):
        calls.append(1)
        if len(calls) == 3 and rank_and_world_size()[0] == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, batch)

    toy_experiment.ToyModel.forward = counted
    return main(command)


def test_two_processes_stop_and_go_on_to_the_last_bit(main, toy_folder):
    """With dropout, which differs between processes, and a loader's own processes."""
    toy = ["--config", "toy.yaml", "dataloader.train.num_workers=1"]
    parts = [*toy, "train.output_dir=parts"]
    for function, arguments in (
        (main, [[*toy, "train.output_dir=whole"]]),
        (stopped, [main, parts]),
    ):
        assert [rank.value for rank in run_ranks(2, function, *arguments)] == [0, 0]
    assert torch.load(toy_folder / "parts" / "last.pth", weights_only=True)["step"] == 3
    assert [rank.value for rank in run_ranks(2, main, [*parts, "--resume"])] == [0, 0]
    runs = [toy_folder / name for name in ("whole", "parts")]
    whole, resumed = (torch.load(run / "last.pth", weights_only=True) for run in runs)
    assert whole["step"] == resumed["step"] == 12
    for name, weight in whole["model"].items():
        assert torch.equal(weight, resumed["model"][name]), name
    curves = []
    for run in runs:
        with (run / "metrics.csv").open() as file:
            curves.append(
                [(row["step"], row["loss"], row["bbox/AP"]) for row in csv.DictReader(file)]
            )
    assert curves[0] == curves[1]
    assert len(curves[0]) == 12


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
    end = JointEnd(SimpleNamespace(procs=processes))
    end.watch()
    with end.guard(SimpleNamespace(world_size=3, global_rank=0)):
        if error is not None:
            raise error
        time.sleep(60)


def launched_by(commands, note, error=None):
    """Exit code of ``launching``, its messages, and seconds until it and its shells had ended."""
    process = multiprocessing.get_context("fork").Process(
        target=launching, args=(commands, note, error)
    )
    began = time.monotonic()
    process.start()
    process.join(timeout=30)
    process.kill()
    left = subprocess.run(["pgrep", "-f", "sleep 59.875"], capture_output=True, text=True).stdout
    return process.exitcode, note.read_text(), time.monotonic() - began, left


WAITS = "exec sleep 59.875"


def test_the_launching_process_ends_with_the_code_of_the_one_that_fails(tmp_path):
    code, told, seconds, left = launched_by([WAITS, "echo error: mine >&2; exit 2"], tmp_path / "1")
    assert (code, told, left) == (2, "error: mine\n", "")
    assert seconds < 10
    code, told, seconds, left = launched_by(["kill -KILL $$", WAITS], tmp_path / "2")
    assert (code, told, left) == (137, "error: process 1 was ended by SIGKILL\n", "")
    assert seconds < 10


def test_the_launching_process_fails_and_ends_the_others(tmp_path):
    error = UserError("the disk is full")
    code, told, seconds, left = launched_by([WAITS, WAITS], tmp_path / "1", error)
    assert code == 1  # multiprocessing's for any exception: the watch has not made another of it
    assert told.splitlines()[-1].endswith("UserError: the disk is full")
    assert left == ""
    assert seconds < 10


def test_a_consequence_leaves_the_word_to_its_cause(tmp_path):
    """The connection is gone half a second before the one that failed has ended."""
    gone = RuntimeError("Connection closed by peer")
    slow = "echo error: mine >&2; sleep 0.5; exit 2"
    code, told, _, left = launched_by([WAITS, slow], tmp_path / "1", gone)
    assert (code, told, left) == (2, "error: mine\n", "")


def abandoned(pids):
    """Launch a process that watches, and be gone."""
    reading, writing = os.pipe()
    if os.fork():
        os.read(reading, 1)
        os._exit(0)
    os.environ["LOCAL_RANK"] = "1"
    JointEnd(None).watch()
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

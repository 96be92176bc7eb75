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

from dropkey_core.engine import (
    UserError,
    failed_step,
    launch,
    load_config,
    read_checkpoint,
    replay_step,
    trainer,
)
from dropkey_core.engine.launch import ending_together, watch
from dropkey_core.engine.trainer import Trainer
from tests.dropkey_core.engine.toy_run import after_calls, assert_same_run, curve, run, toy
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


SETTINGS = ["train.amp={enabled: true, dtype: float16}", "train.checkpointer.max_to_keep=20"]


@pytest.fixture
def on_a_cpu(toy_folder, monkeypatch):
    """Mixed precision as on a GPU: float16 by autocast and a scaler, both of which CPUs have."""
    for module in (trainer, failed_step):
        monkeypatch.setattr(module, "choose_device", lambda *_: None)


@pytest.fixture
def scaled_by(monkeypatch):
    """Multiplies the losses of some steps by a factor, of the others by 0.01: none overflows."""
    from toy_experiment import ToyModel

    forward = ToyModel.forward

    def scale(factor, *steps):
        calls = []

        def scaled(model, batch):
            losses = forward(model, batch)
            if model.training:
                calls.append(1)
                times = factor if len(calls) - 1 in steps else 0.01
                losses = {name: loss * times for name, loss in losses.items()}
            return losses

        monkeypatch.setattr(ToyModel, "forward", scaled)

    return scale


run_scaled = partial(run, *SETTINGS)


def logged(name, folder="output"):
    return [float(row[name]) for row in curve(Path(folder))]


def test_overflow_leaves_out_a_step_and_halves_the_scale(on_a_cpu, scaled_by):
    scaled_by(1e4, 3)
    run_scaled("train.checkpointer.period=1", "train.eval_period=0")
    steps = [read_checkpoint(f"output/model_{number:07d}.pth") for number in range(12)]
    for name, weight in steps[2]["model"].items():
        assert torch.equal(weight, steps[3]["model"][name])  # left out
        assert not torch.equal(weight, steps[4]["model"][name])  # and on it goes
    assert logged("loss_scale") == [2.0**16] * 3 + [2.0**15] * 9
    assert logged("skipped_steps") == [0] * 3 + [1] * 9
    # data and learning rate go on: 0.6667 of 12 steps are over after the ninth, as ever
    assert logged("lr") == pytest.approx([1e-2] * 9 + [1e-3] * 3)
    assert steps[11]["step"] == 12


def test_scale_is_resumed(on_a_cpu, scaled_by):
    scaled_by(1e4, 3, 15)  # the fourth step, of either run
    run_scaled(output="whole")
    whole = read_checkpoint("whole/last.pth")
    run_scaled("train.max_iter=6")
    run_scaled(resume=True)
    resumed = read_checkpoint("output/last.pth")
    assert resumed["scaler"] == whole["scaler"]
    assert resumed["scaler"]["scale"] == 2.0**15
    assert logged("skipped_steps") == logged("skipped_steps", "whole")


def test_overflow_in_the_forward_names_the_setting(on_a_cpu, monkeypatch):
    train_step = Trainer.train_step

    def grown(trainer, batch):
        if trainer.step == 2:
            trainer.model.head.weight.data.mul_(1e6)  # beyond float16, not beyond float32
        return train_step(trainer, batch)

    monkeypatch.setattr(Trainer, "train_step", grown)
    message = r"step 2: the loss is not finite .*; try train.amp.enabled=false or a lower optimizer"
    with pytest.raises(UserError, match=message):
        run_scaled()
    failed = "output/failed_step_0000002.pth"
    with pytest.raises(UserError, match=r"step 2 of .* fails: first not finite is the output"):
        replay_step(load_config("toy.yaml", SETTINGS), failed)
    assert replay_step(load_config("toy.yaml"), failed)["loss_l1"] > 65504  # as the message says


def test_gradients_that_never_become_finite_end_the_run(on_a_cpu, scaled_by):
    scaled_by(1e30, *range(100))
    message = (
        "step 31: .* no gradients are finite, with the loss scaled by 3.05e-05 only; try train"
    )
    with pytest.raises(UserError, match=message):
        run_scaled("train.max_iter=100", "train.eval_period=0")
    assert logged("skipped_steps")[-1] == 30


def test_nothing_is_told_without_a_scaler(toy_folder):
    run("train.max_iter=1")
    assert "loss_scale" not in curve(toy_folder / "output")[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_overflow_on_a_gpu(toy_folder, scaled_by):
    scaled_by(1e4, 3)
    run_scaled("train.device=cuda", "train.eval_period=0")
    assert logged("skipped_steps") == [0] * 3 + [1] * 9
    assert logged("loss_scale") == [2.0**16] * 3 + [2.0**15] * 9


def test_connection_is_closed_at_the_end(tmp_path):
    dist.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path / 'meet'}")
    with ending_together(SimpleNamespace(world_size=1)):
        pass
    assert not dist.is_initialized()

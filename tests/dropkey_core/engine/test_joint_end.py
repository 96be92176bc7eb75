"""One process of several fails, or is asked to stop: forked ones, as if torchrun had started them.

What the launching process does with those that it has launched is in tests/tools/test_train_net.
"""

import csv
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from dropkey_core.engine import joint_end
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
    ended = run_ranks(3, main, [*TOY, six, *overrides], timeout=40)
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
    ended = run_ranks(3, main, [*TOY, six, override], timeout=40)
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

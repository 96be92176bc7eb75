import csv
import os
import re
import signal
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from dropkey_core.engine.paths import PROJECT_ROOT

pytestmark = pytest.mark.slow

TOOL = PROJECT_ROOT / "tools" / "train_net.py"


@pytest.fixture
def main(load_script):
    return load_script("tools/train_net").main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.widht=5"], "error: unknown key 'model.widht'; nearest is 'model.width'\n"),
        (["train.device=tpu"], "error: train.device must be cuda, mps or cpu, got 'tpu'\n"),
        (["--eval-only", "--weights", "w.pth"],
         "error: no checkpoint at w.pth (from train.init_checkpoint): neither a file nor the "
         "folder of a run\n"),
        (["dataloader.train.mapper.refuse=3", "dataloader.train.num_workers=1"],
         "error: /nowhere/3.jpg: the image is truncated\n"),
        (["--num-gpus", "0"], "error: --num-gpus must be at least 1, got 0\n"),
    ],
)  # fmt: skip
def test_user_error_is_one_line_and_exit_2(main, toy_folder, capsys, arguments, message):
    assert main(["--config", "toy.yaml", *arguments]) == 2
    assert capsys.readouterr().err == message


def test_second_run_in_a_folder(main, toy_folder, capsys):
    command = ["--config", "toy.yaml", "train.max_iter=1"]
    assert main(command) == 0
    assert main(command) == 2
    assert "error: train.output_dir output already holds a run" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert main([*command, "--resume"]) == 0
    assert main([*command, "--eval-only", "--weights", "output"]) == 0
    assert "bbox/AP" in capsys.readouterr().out


def test_print_config_is_the_resolved_yaml(main, toy_folder, capsys):
    command = ["--config", "toy.yaml", "optimizer.lr=1e-3", "--print-config", "--weights", "w.pth"]
    assert main(command) == 0
    config = OmegaConf.create(capsys.readouterr().out)
    assert config.optimizer.params.base_lr == 1e-3
    assert config.train.init_checkpoint == "w.pth"
    assert not (toy_folder / "output").exists()


def test_the_command_that_a_failed_step_names(main, toy_folder, capsys, monkeypatch):
    from toy_experiment import ToyModel

    forward = ToyModel.forward
    with monkeypatch.context() as patch:
        patch.setattr(ToyModel, "forward", lambda *a: {"loss": forward(*a)["loss_l2"] / 0})
        assert main(["--config", "toy.yaml"]) == 2
        *_, command = capsys.readouterr().err.split("; ")
        assert command.startswith("again with: tools/train_net.py --config output/config.yaml ")
        again = command.split()[3:]
        assert main(again) == 2
        assert "step 0 of output/failed_step_0000000.pth fails" in capsys.readouterr().err
    assert main(again) == 0  # what was broken is mended
    assert "all finite" in capsys.readouterr().out
    assert main([*again, "--resume"]) == 2
    assert capsys.readouterr().err == "error: --replay does not go with --resume\n"


def start(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT / "tests" / "toy")}
    environment["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, str(TOOL), "--config", "toy.yaml", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **pipes)


def test_ctrl_c_in_a_terminal(toy_folder):
    """The signal reaches the loader's processes too, as it does from a terminal."""
    arguments = ("train.max_iter=100000", "dataloader.train.num_workers=2", "train.eval_period=0")
    process = start(toy_folder, *arguments)
    while not process.stdout.readline().startswith("step 3/"):
        assert process.poll() is None, process.stderr.read()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command with --resume goes on" in out
    assert "Traceback" not in err
    assert (toy_folder / "output" / "last.pth").exists()


def losses(folder):
    with (folder / "metrics.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_two_processes_train_as_one_until_one_fails(main, toy_folder):
    """Without dropout, whose masks differ between ranks, the curves agree to float rounding."""
    settings = ["model.drop_ratio=0.0", "dataset.size=9", "dataloader.train.total_batch_size=2"]
    settings += ["train.eval_period=5"]
    mapper = "dataloader.train.mapper"
    faulty = [f"{mapper}._target_=toy_faults.FaultyMapper", f"{mapper}.rank=1"]  # in step 6
    two = start(toy_folder, *settings, *faulty, "train.output_dir=two", "--num-gpus", "2")
    assert main(["--config", "toy.yaml", *settings, "train.output_dir=one"]) == 0
    out, err = two.communicate(timeout=100)
    assert two.returncode == 2
    # No warnings, none of Lightning's notices, nothing of the process that lost the other one.
    assert re.fullmatch(r"error: rank 1 of 2: /nowhere/\d.jpg: the image is truncated\n", err)
    assert losses(toy_folder / "two") == pytest.approx(losses(toy_folder / "one")[:5], rel=1e-4)
    (line,) = (line for line in out.splitlines() if line.startswith("bbox/AP"))
    assert "bbox/images 9.0000" in line  # told once, not by each process

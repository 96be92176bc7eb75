import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dropkey_core.engine import UserError, read_checkpoint
from dropkey_core.engine.paths import PROJECT_ROOT
from projects.paper.tables import Plan, processes, read_table
from projects.paper.tables.job import plan_jobs
from projects.paper.tables.processes import train_in_processes
from projects.paper.tables.record import State, state_of


@pytest.fixture
def config(content, write_table):
    return plan_jobs(read_table(write_table(content)), Plan("demo"))[0].config


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts a few lines of Python in the place of tools/train_net.py."""

    def put(*lines):
        script = tmp_path / "stand_in.py"
        script.write_text("\n".join(("import sys, time", *lines)))
        monkeypatch.setattr(processes, "TRAIN", script)

    return put


def leave(config, step):
    folder = Path(config.train.output_dir)
    folder.mkdir(parents=True)
    torch.save({"step": step, "metrics": {"bbox/AP": 1.5}}, folder / "last.pth")


def test_metrics_are_those_of_the_last_checkpoint(config, stand_in):
    leave(config, config.train.max_iter)
    stand_in("assert sys.argv[3:] == ['--resume', '--num-gpus', '2'], sys.argv")
    assert train_in_processes(config, 2) == {"bbox/AP": 1.5}


def test_failure_is_told(config, stand_in):
    stand_in("sys.exit(2)")
    with pytest.raises(UserError, match="the training ended with exit code 2, see above"):
        train_in_processes(config, 2)


def test_training_that_ended_early(config, stand_in):
    leave(config, 1)
    stand_in("sys.exit(0)")
    with pytest.raises(UserError, match="stopped after step 1; the same command goes on"):
        train_in_processes(config, 2)


@pytest.mark.slow
def test_ctrl_c_in_a_terminal(content, write_table, monkeypatch):
    """Reaches each process once: the training saves, and the same command goes on."""
    monkeypatch.setenv("PYTHONPATH", str(PROJECT_ROOT / "tests" / "toy"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = write_table(content)
    command = [sys.executable, str(PROJECT_ROOT / "tools" / "reproduce.py"), path.name]
    command += ["--rows", "none", "--seeds", "0", "--num-gpus", "2", "train.max_iter=100000"]
    command += ["train.eval_period=0"]
    process = subprocess.Popen(
        command, cwd=path.parent, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    while not process.stdout.readline().startswith("step 3/"):
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command with --resume goes on" in out
    (job,) = plan_jobs(read_table(path), Plan(rows=("none",), seeds=(0,)))
    assert state_of(job) is State.unfinished
    assert read_checkpoint(job.folder / "last.pth")["step"] >= 3

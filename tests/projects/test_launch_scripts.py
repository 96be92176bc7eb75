"""The launch scripts run what they say, with a python, an srun and a scontrol that take notes."""

import os
import signal
import subprocess
import time

import pytest

from dropkey_core.engine import load_config
from dropkey_core.engine.paths import PROJECT_ROOT

SCRIPTS = sorted(path for path in PROJECT_ROOT.glob("projects/*/launch/*") if path.is_file())
NOTE = 'printf "%s\\n" "$(basename "$0")" "$@" >> "$NOTES"\n'
SRUN = (
    NOTE
    + 'trap \'echo SIGTERM >> "$NOTES"; exit 0\' TERM\nwhile [ -e "$LASTS" ]; do sleep 0.05; done\n'
)


@pytest.fixture
def commands(tmp_path):
    """A folder of commands that write their names and arguments, one a line, into notes."""
    for name, text in (("python", NOTE), ("srun", SRUN), ("scontrol", NOTE)):
        path = tmp_path / name
        path.write_text(f"#!/bin/bash\n{text}")
        path.chmod(0o755)
    return tmp_path


def start(script, commands, *arguments):
    path = f"{commands}:{os.environ['PATH']}"
    variables = {"PATH": path, "NOTES": str(commands / "notes"), "LASTS": str(commands / "lasts")}
    return subprocess.Popen(
        ["bash", str(script), *arguments],
        cwd=PROJECT_ROOT,
        env={**os.environ, **variables, "SLURM_JOB_ID": "42"},
    )


def notes(commands):
    return (commands / "notes").read_text().splitlines()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parts[-3]}-{path.name}")
def test_script_runs_the_project_with_settings_that_exist(script, commands, load_script, capsys):
    assert start(script, commands, "train.seed=7").wait(timeout=30) == 0
    told = notes(commands)
    arguments = told[next(i for i, word in enumerate(told) if word.endswith("train_net.py")) + 1 :]
    assert arguments[1].startswith(f"projects/{script.parts[-3]}/")
    assert load_script("tools/train_net").main([*arguments, "--print-config"]) == 0
    assert "seed: 7" in capsys.readouterr().out
    if script.suffix == ".sbatch":
        assert told[:2] == ["srun", "--kill-on-bad-exit=1"]
        assert "--resume" in arguments
    else:
        number = {"eight_gpus.sh": "8", "one_gpu.sh": "1"}[script.name]
        assert arguments[arguments.index("--num-gpus") + 1] == number


ONE_GPU = [path for path in SCRIPTS if path.name == "one_gpu.sh"]


def images_until(config):
    """How many images are seen in all, and from one evaluation and checkpoint to the next."""
    train = config.train
    steps = (train.max_iter, train.eval_period, train.checkpointer.period)
    return [config.dataloader.train.total_batch_size * number for number in steps]


@pytest.mark.parametrize("script", ONE_GPU, ids=lambda path: path.parts[-3])
def test_one_gpu_sees_as_many_images_as_eight(script, commands):
    assert start(script, commands).wait(timeout=30) == 0
    told = notes(commands)
    path = told[told.index("--config") + 1]
    published = load_config(path)
    smaller = load_config(path, [word for word in told if "=" in word])
    assert images_until(smaller) == images_until(published)
    rates = [c.optimizer.lr / c.dataloader.train.total_batch_size for c in (smaller, published)]
    assert rates[0] == pytest.approx(rates[1])
    assert smaller.optimizer.lr < published.optimizer.lr


def test_slurm_saves_and_requeues_before_the_time_limit(commands):
    (commands / "lasts").touch()
    process = start(PROJECT_ROOT / "projects/qpic/launch/slurm.sbatch", commands)
    while not (commands / "notes").exists():
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    assert notes(commands)[-4:] == ["SIGTERM", "scontrol", "requeue", "42"]


def test_slurm_passes_on_the_exit_code_of_the_run(commands):
    (commands / "srun").write_text("#!/bin/bash\nexit 2\n")
    assert start(PROJECT_ROOT / "projects/detr/launch/slurm.sbatch", commands).wait(30) == 2
    assert not (commands / "notes").exists()

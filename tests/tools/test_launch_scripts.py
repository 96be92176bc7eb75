"""The launch scripts run what they say, with a python, an srun and a scontrol that take notes."""

import os
import re
import signal
import subprocess
import time

import pytest

from dropkey_core.engine import load_config
from dropkey_core.engine.paths import PROJECT_ROOT

LAUNCH = PROJECT_ROOT / "tools/launch"
RECIPES = [f"projects/{name}/dropkey.yaml" for name in ("detr", "qpic", "metro")]
RECIPES += ["projects/classification/t2t.yaml"]
NOTE = 'printf "%s\\n" "$(basename "$0")" "$@" >> "$NOTES"\n'
SRUN = NOTE + "trap 'echo SIGTERM >> \"$NOTES\"; exit 0' TERM\n"
SRUN += 'while [ -e "$LASTS" ]; do sleep 0.05; done\n'


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
        ["bash", str(LAUNCH / script), *arguments],
        cwd=PROJECT_ROOT,
        env={**os.environ, **variables, "SLURM_JOB_ID": "42"},
    )


def notes(commands):
    return (commands / "notes").read_text().splitlines()


def after_train_net(words):
    """What comes after tools/train_net.py in a command."""
    return words[next(i for i, word in enumerate(words) if word.endswith("train_net.py")) + 1 :]


@pytest.fixture
def one_gpu(load_script, monkeypatch):
    """Runs one_gpu.py; returns its exit code and what train_net.py would get."""
    script = load_script("tools/launch/one_gpu")

    def run(*arguments):
        told = []
        monkeypatch.setattr(script.os, "execv", lambda program, words: told.extend(words))
        code = script.main(list(arguments))
        return code, after_train_net(told) if told else None

    return run


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("script", ["one_gpu.py", "eight_gpus.sh", "slurm.sbatch"])
def test_each_recipe_starts_with_settings_that_exist(
    recipe, script, commands, one_gpu, load_script, capsys
):
    if script == "one_gpu.py":
        _, arguments = one_gpu(recipe, "train.seed=7")
    else:
        assert start(script, commands, recipe, "train.seed=7").wait(timeout=30) == 0
        told = notes(commands)
        arguments = after_train_net(told)
    assert arguments[arguments.index("--config") + 1] == recipe
    assert load_script("tools/train_net").main([*arguments, "--print-config"]) == 0
    assert "seed: 7" in capsys.readouterr().out
    if script == "slurm.sbatch":
        assert told[:2] == ["srun", "--kill-on-bad-exit=1"]
        assert "--resume" in arguments
    else:
        number = {"one_gpu.py": "1", "eight_gpus.sh": "8"}[script]
        assert arguments[arguments.index("--num-gpus") + 1] == number


def images_until(config):
    """How many images are seen in all, and from one evaluation and checkpoint to the next."""
    train = config.train
    steps = (train.max_iter, train.eval_period, train.checkpointer.period)
    return [config.dataloader.train.total_batch_size * number for number in steps]


@pytest.mark.parametrize(("recipe", "batch"), zip(RECIPES, [8, 4, 30, 128], strict=True))
def test_one_gpu_sees_as_many_images_as_eight(recipe, batch, one_gpu):
    _, arguments = one_gpu(recipe)
    published = load_config(recipe)
    smaller = load_config(recipe, [word for word in arguments if "=" in word])
    assert smaller.dataloader.train.total_batch_size == batch
    assert images_until(smaller) == images_until(published)
    rates = [c.optimizer.lr / c.dataloader.train.total_batch_size for c in (smaller, published)]
    assert rates[0] == pytest.approx(rates[1])
    assert smaller.optimizer.lr < published.optimizer.lr


def test_one_gpu_leaves_the_last_word_to_the_command_line(one_gpu):
    code, arguments = one_gpu(RECIPES[1], "--factor", "16", "optimizer.lr=1.0e-3", "--resume")
    assert code == 0
    assert "dataloader.train.total_batch_size=1" in arguments
    assert arguments[-2:] == ["optimizer.lr=1.0e-3", "--resume"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([RECIPES[1], "--factor", "3"], "--factor must divide dataloader.*=16, got 3"),
        (["projects/detr/nothing.yaml"], "nothing.yaml"),
    ],
)
def test_one_gpu_says_what_is_wrong_in_one_line(arguments, message, one_gpu, capsys):
    assert one_gpu(*arguments) == (2, None)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert re.search(message, line)


def test_slurm_saves_and_requeues_before_the_time_limit(commands):
    (commands / "lasts").touch()
    process = start("slurm.sbatch", commands, RECIPES[1])
    while not (commands / "notes").exists():
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    assert notes(commands)[-4:] == ["SIGTERM", "scontrol", "requeue", "42"]


def test_slurm_passes_on_the_exit_code_of_the_run(commands):
    (commands / "srun").write_text("#!/bin/bash\nexit 2\n")
    assert start("slurm.sbatch", commands, RECIPES[0]).wait(30) == 2
    assert not (commands / "notes").exists()

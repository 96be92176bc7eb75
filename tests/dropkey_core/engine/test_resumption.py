import os
import signal
import subprocess
import sys

import pytest
import torch

from dropkey_core.engine import UserError, read_checkpoint, write_checkpoint
from dropkey_core.engine.paths import PROJECT_ROOT
from tests.dropkey_core.engine.toy_run import (
    Crash,
    after_calls,
    assert_same_run,
    crash,
    run,
)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def test_damaged_checkpoint_is_not_replaced_behind_the_users_back(toy_folder):
    run("train.checkpointer.period=3", "train.checkpointer.max_to_keep=3")
    output = toy_folder / "output"
    cut(output / "last.pth")  # and with it model_0000011.pth: two names of one file
    cut(output / "model_0000008.pth")
    advice = (
        r"last.pth.*; the newest one that is whole is model_0000005.pth, after step 6: copy it to "
        r"last.pth and --resume goes on from there$"
    )
    with pytest.raises(UserError, match=advice):
        run(resume=True)
    cut(output / "model_0000005.pth")
    with pytest.raises(UserError, match=r"no numbered one is whole: --overwrite begins .*best.pth"):
        run(resume=True)


def test_numbered_checkpoints_alone_are_not_trained_over(toy_folder):
    run("train.max_iter=6")
    (toy_folder / "output" / "last.pth").unlink()
    with pytest.raises(UserError, match=r"no last.pth to resume from, but model_0000004.pth: copy"):
        run(resume=True)


def test_going_on_from_a_numbered_checkpoint_gives_the_same_run(toy_folder):
    run(output="whole")
    run()
    output = toy_folder / "output"
    (output / "model_0000004.pth").replace(output / "last.pth")
    run(resume=True)
    assert_same_run(output, toy_folder / "whole")


@pytest.mark.parametrize("moment", ["link_file", "write_config"])
def test_run_that_ended_between_two_files_is_completed(toy_folder, monkeypatch, moment):
    """After last.pth and before its numbered name; while going on."""
    import dropkey_core.engine.trainer as trainer

    run(output="whole")
    with monkeypatch.context() as patch:
        after_calls(patch, trainer, moment, 1, crash)
        with pytest.raises(Crash):
            run()
            run(resume=True)
    run(resume=True)
    assert_same_run(toy_folder / "output", toy_folder / "whole")


def test_other_weights_are_listed(toy_folder):
    run("train.max_iter=1")
    last = toy_folder / "output" / "last.pth"
    config = (toy_folder / "output" / "config.yaml").read_text()
    with pytest.raises(
        UserError, match=r"mis-shaped: 2 \(backbone.weight \(8, 3\) instead of \(4, 3"
    ):
        run("model.width=4", resume=True)
    assert (toy_folder / "output" / "config.yaml").read_text() == config  # of what was trained
    state = read_checkpoint(last)
    state["model"]["head.weight"] = torch.zeros(2, 8)  # would be renewed in a new run
    write_checkpoint(last, state)
    with pytest.raises(UserError, match=r"head.weight is \(2, 8\), not \(1, 8\); go on as before"):
        run(resume=True)
    torch.save({"model": {}}, last)
    with pytest.raises(UserError, match="cannot be resumed from: it lacks best, evaluated_step"):
        run(resume=True)


def test_other_groups_of_parameters_are_refused(toy_folder):
    run("train.max_iter=1")
    with pytest.raises(
        UserError, match=r"optimizer.params has other groups.*--weights output/last.pth with anoth"
    ):
        run("optimizer.params.lr_multipliers={head: 0.1}", resume=True)


def test_state_of_another_optimizer_is_refused(toy_folder):
    run("train.max_iter=1")
    last = toy_folder / "output" / "last.pth"
    state = read_checkpoint(last)
    state["config"] = state["config"].replace("dropkey_core.engine.ClippedAdamW", "torch.optim.SGD")
    write_checkpoint(last, state)
    with pytest.raises(UserError, match=r"it holds torch.optim.SGD, not dropkey_core.engine.Clip"):
        run(resume=True)


def edited(path, change):
    content = read_checkpoint(path)
    change(content)
    write_checkpoint(path, content)


def other_shape(content):
    values = content["optimizer"]["state"][0]
    name = next(name for name in values if name in ("exp_avg", "momentum_buffer"))
    values[name] = values[name].new_zeros(7, 9)


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [*{last}, *{last}]\n"
    for last, name in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_shape, r"its optimizer has .* of shape \(7, 9\) for a parameter of .*--weights"),
        (lambda c: c.update(step="3"), "its step is '3'"),
        (lambda c: c.update(step=-3), "its step is -3"),
        (lambda c: c.update(metrics=[]), r"its metrics is \[\]"),
        (lambda c: c.update(optimizer={"state": {}}), "cannot be resumed from: 'param_groups'"),
        (lambda c: c.update(config="a: ["), "its config is not YAML: while parsing"),
        (lambda c: c.update(config=LAUGHS), r"repeats more than \d+ values"),
    ],
)
def test_what_no_run_would_have_saved_is_refused_in_one_line(toy_folder, change, message):
    run()
    edited(toy_folder / "output" / "last.pth", change)
    with pytest.raises(UserError, match=rf"last\.pth.*{message}"):
        run(resume=True)


def test_changed_settings_are_told_and_hold(toy_folder, capsys):
    run("train.max_iter=2")
    assert "changed" not in capsys.readouterr().out
    run("train.max_iter=2", resume=True)
    assert "changed" not in capsys.readouterr().out
    changed = ["train.max_iter=3", "optimizer.weight_decay=0.5", "train.seed=7"]
    run(*changed, resume=True)
    said = capsys.readouterr().out
    for change in ("weight_decay 0.0001 -> 0.5", "train.seed 1 -> 7", "train.max_iter 2 -> 3"):
        assert change in said
    groups = read_checkpoint(toy_folder / "output" / "last.pth")["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.5, 0.5]


def test_changed_version_is_told(toy_folder, capsys):
    run("train.max_iter=1")
    last = toy_folder / "output" / "last.pth"
    state = read_checkpoint(last)
    assert {"python", "dropkey", "torch", "lightning"} <= set(state["versions"])
    state["versions"]["torch"] = "1.0"
    write_checkpoint(last, state)
    run("train.max_iter=1", resume=True)
    assert f"torch 1.0 -> {torch.__version__}" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_process_is_resumed_to_the_last_bit(toy_folder):
    """Killed for good, in a real process; tests/kill_and_resume.py does that by the hundred."""
    workers = "dataloader.train.num_workers=2"
    tool = str(PROJECT_ROOT / "tools" / "train_net.py")
    process = subprocess.Popen(
        [sys.executable, tool, "--config", "toy.yaml", workers],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT / "tests" / "toy")},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not process.stdout.readline().startswith("step 9/"):
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    run(workers, resume=True)
    run(workers, output="whole")
    assert_same_run(toy_folder / "output", toy_folder / "whole")

import argparse
import os
import re
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from dropkey_core.engine import (
    UserError,
    load_weights,
    read_checkpoint,
    write_checkpoint,
)
from dropkey_core.engine import run as saving
from dropkey_core.engine.paths import PROJECT_ROOT
from dropkey_core.engine.published import PublishedWeights
from tests.dropkey_core.engine.toy_run import Crash, after_calls, assert_same_run, crash, run


class Net(nn.Module):
    reinitialised_on_mismatch = ("class_embed",)

    def __init__(self, classes=3, width=2):
        super().__init__()
        self.body = nn.Linear(2, width)
        self.class_embed = nn.Linear(width, classes)


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"model": s, "epoch": 3, "args": argparse.Namespace(lr=1e-4)}]
)
def test_loads_bare_and_wrapped_state_dicts(tmp_path, wrap):
    source, target = Net(), Net()
    torch.save(wrap(source.state_dict()), tmp_path / "w.pth")
    assert load_weights(target, tmp_path / "w.pth").startswith("loaded 4 of 4 tensors from ")
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value)


def test_class_head_of_another_size_stays_fresh_and_is_said(tmp_path):
    source, target = Net(classes=91), Net(classes=3)
    fresh = target.class_embed.weight.clone()
    torch.save({"model": source.state_dict()}, tmp_path / "w.pth")
    said = load_weights(target, tmp_path / "w.pth")
    assert said.startswith("loaded 2 of 4 tensors")
    assert said.endswith("initialised anew, for their shapes differ: "
                         "class_embed.weight, class_embed.bias")  # fmt: skip
    assert torch.equal(target.body.weight, source.body.weight)
    assert torch.equal(target.class_embed.weight, fresh)


class Chooser(Net):
    """A model that refuses a checkpoint of fewer than three epochs."""

    asked = None

    def checkpoint_problem(self, file, content):
        self.asked = file
        return "is too young: train on" if content["epoch"] < 3 else None


def test_a_model_may_refuse_a_checkpoint_whose_weights_fit(tmp_path):
    model, path = Chooser(), tmp_path / "w.pth"
    fresh = model.body.weight.clone()
    torch.save({"model": Net().state_dict(), "epoch": 2}, path)
    with pytest.raises(UserError, match=r"w\.pth \(from --weights\) is too young: train on$"):
        load_weights(model, path)
    assert model.asked == path
    assert torch.equal(model.body.weight, fresh)
    content = {"model": Net().state_dict(), "epoch": 3}
    torch.save(content, path)
    assert load_weights(model, path).startswith("loaded 4 of 4 tensors from ")
    assert torch.equal(model.body.weight, content["model"]["body.weight"])


def test_a_folder_of_a_run_stands_for_its_best_checkpoint(tmp_path):
    for name in ("last", "best"):
        torch.save({name: torch.ones(1)}, tmp_path / f"{name}.pth")
    assert read_checkpoint(tmp_path).keys() == {"best"}
    (tmp_path / "best.pth").unlink()
    assert read_checkpoint(str(tmp_path)).keys() == {"last"}
    (tmp_path / "last.pth").unlink()
    with pytest.raises(UserError, match=r"no checkpoint yet, neither best\.pth nor last\.pth"):
        read_checkpoint(tmp_path)


def test_published_weights_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(Net(width=5).state_dict(), tmp_path / "hub" / "checkpoints" / "w.pth")
    settings = {"url": "https://x.org/w.pth", "config": "a.yaml", "overrides": ("model.width=5",)}
    known = {"wide": PublishedWeights(**settings, licence="", metric="", source="")}
    said = "from wide (from --weights, made for a.yaml model.width=5)"
    assert load_weights(Net(width=5), "wide", published=known) == f"loaded 4 of 4 tensors {said}"
    with pytest.raises(UserError, match=r"wide \(from .* model\.width=5\) do not fit the model"):
        load_weights(Net(), "wide", published=known)
    with pytest.raises(UserError, match=r"no checkpoint at wid \(.* nearest is 'wide'"):
        load_weights(Net(), "wid", published=known)


def test_another_architecture_lists_what_differs(tmp_path):
    state = Net(width=5).state_dict()
    state["neck.weight"] = state.pop("body.bias")
    torch.save(state, tmp_path / "w.pth")
    expected = (
        f"the weights of {tmp_path}/w.pth (from --weights) do not fit the model; "
        "missing: 1 (body.bias); unexpected: 1 (neck.weight); "
        "mis-shaped: 1 (body.weight (5, 2) instead of (2, 2))"
    )
    with pytest.raises(UserError, match=re.escape(expected)):
        load_weights(Net(), tmp_path / "w.pth")


def test_long_lists_are_shortened(tmp_path):
    torch.save({f"k{n}": torch.zeros(1) for n in range(9)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"unexpected: 9 \(k0, k1, k2, k3, k4 and 4 more\)"):
        load_weights(Net(), tmp_path / "w.pth")


def test_unreadable_files(tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint at none.pth \(from --weights\)"):
        read_checkpoint("none.pth", "--weights")
    for content in (b"", b"no checkpoint", b"PK\x03\x04 half a zip"):
        (tmp_path / "bad.pth").write_bytes(content)
        with pytest.raises(UserError, match=r"the checkpoint .*bad.pth"):
            read_checkpoint(tmp_path / "bad.pth")
    torch.save(torch.zeros(2), tmp_path / "tensor.pth")
    with pytest.raises(UserError, match="must hold a dict, not a Tensor"):
        read_checkpoint(tmp_path / "tensor.pth")


def test_truncated_checkpoint(tmp_path):
    write_checkpoint(tmp_path / "w.pth", {"model": Net().state_dict()})
    whole = (tmp_path / "w.pth").read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "w.pth").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"w.pth"):
            read_checkpoint(tmp_path / "w.pth")


def test_damaged_checkpoint_is_not_replaced_behind_the_users_back(toy_folder):
    run("train.max_iter=9")
    last = toy_folder / "output" / "last.pth"
    last.write_bytes(last.read_bytes()[:-100])
    advice = r"last.pth.*; numbered ones are there: model_0000004.pth; copy one to last.pth and"
    with pytest.raises(UserError, match=advice):
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
    run(output="whole")
    with monkeypatch.context() as patch:
        after_calls(patch, saving, moment, 1, crash)
        with pytest.raises(Crash):
            run()
            run(resume=True)
    run(resume=True)
    assert_same_run(toy_folder / "output", toy_folder / "whole")


LAST = Path("output/last.pth")


def change_last(**changes):
    write_checkpoint(LAST, {**read_checkpoint(LAST), **changes})


def test_other_weights_are_listed(toy_folder):
    run("train.max_iter=1")
    config = (toy_folder / "output" / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"mis-shaped: 3 \(backbone.weight \(8, 3\) instead of"):
        run("model.width=4", resume=True)
    assert (toy_folder / "output" / "config.yaml").read_text() == config  # of what was trained
    model = read_checkpoint(LAST)["model"]
    change_last(model={**model, "head.weight": torch.zeros(2, 8)})  # renewed in a new run
    with pytest.raises(UserError, match=r"mis-shaped: 1 \(head.weight \(2, 8\) instead of \(1"):
        run(resume=True)
    torch.save({"model": {}}, LAST)
    with pytest.raises(UserError, match="cannot be resumed from: it lacks best, evaluated_step"):
        run(resume=True)


def test_other_groups_of_parameters_are_refused(toy_folder):
    run("train.max_iter=1")
    with pytest.raises(UserError, match=r"has other groups.*--weights output/last.pth with anoth"):
        run("optimizer.params.lr_multipliers={head: 0.1}", resume=True)


def test_state_of_another_optimizer_is_refused(toy_folder):
    run("train.max_iter=1")
    config = read_checkpoint(LAST)["config"]
    change_last(config=config.replace("dropkey_core.engine.ClippedAdamW", "torch.optim.SGD"))
    with pytest.raises(UserError, match=r"it holds torch.optim.SGD, not dropkey_core.engine.Clip"):
        run(resume=True)


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcdefghijklm")
)


def test_config_that_is_small_as_text_and_large_as_values_is_refused(toy_folder):
    run("train.max_iter=1")
    change_last(config=LAUGHS)
    with pytest.raises(UserError, match=r"^the config in the checkpoint .* values"):
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
    versions = read_checkpoint(LAST)["versions"]
    assert {"python", "dropkey", "torch", "lightning"} <= set(versions)
    change_last(versions={**versions, "torch": "1.0"})
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

import os
import subprocess
import sys

import pytest
import torch

from dropkey_core.engine import (
    Processes,
    UserError,
    evaluate,
    load_config,
    read_checkpoint,
)
from dropkey_core.engine.paths import PROJECT_ROOT
from tests.dropkey_core.engine.toy_run import (
    after_calls,
    assert_same_run,
    crash,
    curve,
    run,
    toy,
)


def test_a_whole_run(toy_folder, capsys):
    metrics = run("dataset.size=9")
    output = toy_folder / "output"
    assert metrics["bbox/images"] == 9
    assert {path.name for path in output.iterdir()} == {
        "best.pth", "config.yaml", "last.pth", "metrics.csv", "tensorboard",
        "model_0000004.pth", "model_0000009.pth",
    }  # fmt: skip
    rows = curve(output)
    assert [row["step"] for row in rows] == [str(step) for step in range(1, 13)]
    assert [row["step"] for row in rows if row["bbox/AP"]] == ["4", "8", "12"]
    for row in rows:
        terms = float(row["loss_l2"]) + float(row["loss_l1"])
        assert float(row["loss"]) == pytest.approx(terms, rel=1e-6)
    # 8 of 12 steps are 0.6667 of the run: the rate falls for the step after the ninth
    assert [float(row["lr"]) for row in rows] == pytest.approx([1e-2] * 9 + [1e-3] * 3)
    last = read_checkpoint(output / "last.pth")
    assert set(last["model"]) == {"backbone.weight", "backbone.bias", "head.weight", "head.bias"}
    assert last["step"] == 12
    assert "toy_experiment.ToyModel" in last["config"]
    best = read_checkpoint(output / "best.pth")
    assert best["metrics"]["bbox/AP"] == max(float(r["bbox/AP"]) for r in rows if r["bbox/AP"])
    assert "optimizer" not in best
    assert load_config(output / "config.yaml").dataset.size == 9
    assert list((output / "tensorboard").iterdir())
    printed = capsys.readouterr().out
    for word in ("step 1/12", "eta 0:00:", "loss_l1", "lr 0.01", "images_per_second", "memory_mb"):
        assert word in printed


@pytest.mark.slow
def test_spawned_workers_where_posix_is_not_give_the_same_run(toy_folder):
    run("train.max_iter=6", output="whole")
    script, toy = PROJECT_ROOT / "tests" / "no_posix.py", PROJECT_ROOT / "tests" / "toy"
    workers = ("dataloader.train.num_workers=2", "dataloader.test.num_workers=1")
    command = [sys.executable, script, "train", "toy.yaml", *workers, "train.max_iter=6"]
    environment = {**os.environ, "PYTHONPATH": str(toy)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert_same_run(toy_folder / "output", toy_folder / "whole")


def test_seed_changes_the_run(toy_folder):
    run("train.max_iter=1")
    run("train.max_iter=1", "train.seed=2", output="other")
    first, other = (curve(toy_folder / name)[0]["loss"] for name in ("output", "other"))
    assert first != other


def test_folder_of_another_run(toy_folder):
    run("train.max_iter=6")
    with pytest.raises(UserError, match=r"output already holds a run .*--resume.*--overwrite"):
        run("train.max_iter=1")
    (toy_folder / "output" / "mine.txt").write_text("kept")
    run("train.max_iter=1", overwrite=True)
    assert [row["step"] for row in curve(toy_folder / "output")] == ["1"]
    assert not (toy_folder / "output" / "model_0000004.pth").exists()
    assert (toy_folder / "output" / "mine.txt").exists()
    with pytest.raises(UserError, match="--resume and --overwrite exclude each other"):
        run(resume=True, overwrite=True)


def test_data_are_looked_at_before_weights_are_fetched(toy_folder, monkeypatch):
    after_calls(monkeypatch, toy("ToyModel"), "__init__", 1, crash)
    with pytest.raises(UserError, match="has no records to train on"):
        run("dataset.size=0")


def test_a_run_that_never_began_is_in_nobodys_way(toy_folder):
    with pytest.raises(UserError, match="no checkpoint at missing"):
        run("train.init_checkpoint=missing", "train.max_iter=1")
    assert (toy_folder / "output" / "config.yaml").exists()
    run("train.max_iter=1")
    assert (toy_folder / "output" / "last.pth").exists()


def test_a_run_ends_when_nothing_becomes_better(toy_folder, monkeypatch, capsys):
    """The third evaluation is the best; two more are not."""
    values = iter([1.0, 0.5, 2.0, 2.0, 1.0, 9.0])
    monkeypatch.setattr(
        toy("ToyEvaluator"), "evaluate", lambda self: {"bbox": {"AP": next(values)}}
    )
    run("train.eval_period=2", "train.patience=2", "train.max_iter=100")
    assert "train.patience: 2 evaluations without a better best.pth" in capsys.readouterr().out
    last = read_checkpoint("output/last.pth")
    assert (last["step"], last["stale"], last["best"]) == (10, 2, 2.0)
    assert read_checkpoint("output/best.pth")["step"] == 6
    run("train.eval_period=2", "train.patience=2", "train.max_iter=100", resume=True)
    assert len(curve(toy_folder / "output")) == 10
    run("train.eval_period=2", "train.patience=3", "train.max_iter=12", resume=True)
    assert read_checkpoint("output/last.pth")["best"] == 9.0


def compiling_by(monkeypatch, backend):
    """Let the toy's ``compile`` take a backend that needs no C++ compiler."""
    monkeypatch.setattr(
        toy("ToyModel"),
        "compile",
        lambda model, dynamic: torch.nn.Module.compile(model, backend=backend, dynamic=dynamic),
    )


def broken_backend(graph, inputs):
    raise RuntimeError("there is no C++ compiler")


@pytest.mark.slow
def test_compiled_code_gives_the_same_run(toy_folder, monkeypatch):
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    run(output="plain")
    compiling_by(monkeypatch, backend)
    run("train.compile=true")
    assert compiled
    assert_same_run(toy_folder / "output", toy_folder / "plain")


@pytest.mark.slow
def test_code_that_cannot_be_compiled_runs_as_it_is(toy_folder, monkeypatch, capsys):
    run(output="plain")
    compiling_by(monkeypatch, broken_backend)
    run("train.compile=true")
    said = capsys.readouterr().out
    assert said.count("train.compile: goes on without, for ") == 1
    assert "there is no C++ compiler" in said
    assert_same_run(toy_folder / "output", toy_folder / "plain")


def test_epochs_in_place_of_steps(toy_folder):
    """Ten records, four a step: an epoch is 2.5 steps."""
    run("train.max_epochs=3")
    rows = curve(toy_folder / "output")
    assert [float(row["epoch"]) for row in rows] == pytest.approx([0.4 * n for n in range(1, 9)])
    run("train.max_iter=8", output="steps")
    assert_same_run(toy_folder / "output", toy_folder / "steps")  # the schedule, too


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_iter=0", "train.max_iter must be at least 1, got 0"),
        ("train.checkpointer.period=0", "train.checkpointer.period must be at least 1, got 0"),
        ("train.eval_period=-1", "train.eval_period must be at least 0, got -1"),
        ("train.best_mode=lowest", "train.best_mode.*lowest.*min"),
        ("train.device=tpu", "train.device must be cuda, mps or cpu, got 'tpu'"),
        ("train.accumulate=0", "train.accumulate must be auto or at least 1, got 0"),
        ("train.accumulate=some", "train.accumulate must be auto or at least 1, got 'some'"),
        ("train.accumulate=3", "train.accumulate=3 must divide the batch: .*batch_size is 4$"),
        ("train.max_epochs=.inf", "train.max_epochs must be a number of epochs, got inf"),
        ("train.loggers=csv", r"train.loggers must be a list such as \[csv, .*, got 'csv'"),
        ("train.loggers=[1]", "train.loggers: unknown '1'; there are csv, mlflow, tensorboard, wa"),
        ("train.examples=-1", "train.examples must be at least 0, got -1"),
        ("train.patience=-1", "train.patience must be at least 0, got -1"),
        ("train={patience: 2, best_metric: ''}", "train.patience needs train.best_metric"),
        ("train.ema.decay=1", r"train.ema.decay must be 0 or in \(0, 1\), got 1.0"),
        ("model.drop_ratio=1.5", r"model: drop_ratio must be in \[0, 1\), got 1.5"),
        ("lr_multiplier.milestones=[2.0]", "lr_multiplier: milestones must increase"),
        ("optimizer.params.lr_multipliers={neck: 1.0}", "optimizer.params: .*'neck'"),
        ("dataloader.train.mapper.refuse=3", "/nowhere/3.jpg: the image is truncated"),
        ("dataset.size=0", "dataloader.train.dataset has no records"),
        ("train.init_checkpoint=none.pth", r"none.pth \(from train.init_checkpoint\)"),
    ],
)
def test_bad_settings(toy_folder, override, message):
    with pytest.raises(UserError, match=message):
        run(override)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there(toy_folder, capsys):
    run("train.device=cuda", "train.max_iter=1")
    told = "train.device is cuda and this machine has none"
    assert capsys.readouterr().out.count(f"warning: {told}: cpu takes its place") == 1
    assert read_checkpoint("output/last.pth")["config"].count("device: cpu") == 1
    with pytest.raises(UserError, match=f"{told}: use train.device=cpu"):
        run("train.device=cuda", processes=Processes(strict_device=True), output="other")
    with pytest.raises(UserError, match=f"{told}: use train.device=cpu"):
        run("train.device=cuda", processes=Processes(num_gpus=2), output="other")


def test_evaluate_equals_the_evaluation_in_training(toy_folder, capsys):
    metrics = run()
    config = load_config("toy.yaml", ["train.init_checkpoint=output/last.pth"])
    assert evaluate(config) == metrics
    assert evaluate(load_config("toy.yaml"), resume=True) == metrics
    assert evaluate(load_config("toy.yaml")) != metrics
    assert "no weights given" in capsys.readouterr().out

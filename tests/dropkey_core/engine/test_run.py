import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dropkey_core.engine import evaluate, load_config, read_checkpoint, write_checkpoint
from dropkey_core.engine.published import PublishedWeights
from tests.dropkey_core.engine.toy_run import (
    Crash,
    after_calls,
    assert_same_run,
    crash,
    curve,
    run,
    toy,
)


@pytest.mark.slow
@pytest.mark.parametrize("calls", [7, 10, 19])  # in the first evaluation; in steps 6 and 11
@pytest.mark.parametrize(
    "setting",
    [
        "dataloader.train.num_workers=0",
        "dataloader.train.num_workers=2",
        "train.ema={decay: 0.75, warmup: true}",
        "train.accumulate=2",  # in step 4, in the first evaluation, in step 8
        "train.amp={enabled: true, dtype: bfloat16}",
    ],
)
def test_crashed_run_resumes_to_the_last_bit(toy_folder, monkeypatch, setting, calls):
    run(setting, output="whole")
    with monkeypatch.context() as patch, pytest.raises(Crash):
        after_calls(patch, toy("ToyModel"), "forward", calls, crash)
        run(setting)
    run(setting, resume=True)
    assert_same_run(toy_folder / "output", toy_folder / "whole")


def test_finished_run_resumes_to_nothing_and_can_be_lengthened(toy_folder):
    metrics = run("train.max_iter=6")
    assert run("train.max_iter=6", resume=True) == metrics
    run("train.max_iter=8", resume=True)
    assert [row["step"] for row in curve(toy_folder / "output")] == [str(n) for n in range(1, 9)]


def test_best_is_remembered_by_a_resumed_run(toy_folder):
    run("train.max_iter=6")
    last = toy_folder / "output" / "last.pth"
    write_checkpoint(last, {**read_checkpoint(last), "best": 1e9})
    before = read_checkpoint(toy_folder / "output" / "best.pth")["step"]
    run("train.max_iter=12", resume=True)
    assert read_checkpoint(toy_folder / "output" / "best.pth")["step"] == before


@pytest.mark.parametrize(("mode", "best"), [("max", max), ("min", min)])
def test_best_is_the_highest_or_the_lowest(mode, best, toy_folder):
    run(f"train.best_mode={mode}", "train.eval_period=1")
    values = [float(row["bbox/AP"]) for row in curve(toy_folder / "output") if row["bbox/AP"]]
    assert max(values) > min(values)
    kept = read_checkpoint(toy_folder / "output" / "best.pth")
    assert kept["metrics"]["bbox/AP"] == best(values)


@pytest.mark.parametrize("owner", ["evaluator", "records"])
def test_names_of_classes_are_in_the_checkpoints(toy_folder, monkeypatch, owner):
    class Records(list):
        classes = ("dark", "light")

    if owner == "evaluator":
        monkeypatch.setattr(toy("ToyEvaluator"), "classes", ["dark", "light"], raising=False)
    else:
        records = toy("records")
        monkeypatch.setattr("toy_experiment.records", lambda size: Records(records(size)))
    run("train.max_iter=1")
    for name in ("best.pth", "last.pth"):
        assert list(read_checkpoint(toy_folder / "output" / name)["classes"]) == ["dark", "light"]


def test_unknown_best_metric_is_said_and_loses_nothing(toy_folder, capsys):
    run("train.best_metric=bbox/AP55", "train.max_iter=1")
    said = capsys.readouterr().out
    assert "no best.pth: train.best_metric 'bbox/AP55' is none of bbox/AP" in said
    assert not (toy_folder / "output" / "best.pth").exists()


def test_init_checkpoint_starts_training(toy_folder, capsys):
    run("train.max_iter=6")
    run("train.max_iter=1", "train.init_checkpoint=output/last.pth", output="tuned")
    assert "loaded 4 of 4 tensors from output/last.pth" in capsys.readouterr().out


def test_published_weights_start_training_by_name(toy_folder, capsys, monkeypatch):
    run("train.max_iter=1")
    settings = {"config": "toy.yaml", "licence": "", "metric": "", "source": "a page"}
    named = PublishedWeights(url="https://x.org/toy.pth", **settings)
    monkeypatch.setattr(PublishedWeights, "fetch", lambda self: Path("output/last.pth"))
    published = SimpleNamespace(PUBLISHED={"toy-1": named})
    monkeypatch.setitem(sys.modules, "toy_experiment.published", published)
    run("train.max_iter=1", "train.init_checkpoint=toy-1", output="tuned")
    config = load_config("toy.yaml", ["train.init_checkpoint=toy-1"])
    assert evaluate(config)["bbox/images"] == 10
    said = "loaded 4 of 4 tensors from toy-1 (from train.init_checkpoint, made for toy.yaml)"
    assert capsys.readouterr().out.count(said) == 2

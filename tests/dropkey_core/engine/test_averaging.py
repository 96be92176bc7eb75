import copy

import pytest
import torch

from dropkey_core.engine import UserError, evaluate, load_config, read_checkpoint, write_checkpoint
from dropkey_core.engine.averaging import WeightAverage
from tests.dropkey_core.engine.toy_run import (
    Crash,
    after_calls,
    assert_same_run,
    crash,
    curve,
    run,
    toy,
)

EMA = "train.ema={decay: 0.75, warmup: true}"


def test_the_average_follows_each_step():
    """a = 0.75 a + 0.25 w after each step, from the weights that the model had at first."""
    model = torch.nn.Linear(1, 1)
    average = WeightAverage(model, 0.75)
    expected = model.bias.detach().clone()
    for step, value in enumerate((1.0, -2.0, 5.0), start=1):
        with torch.no_grad():
            model.bias.fill_(value)
        average.update(model, step)
        expected = 0.75 * expected + 0.25 * value
        torch.testing.assert_close(average.state["bias"], expected)


def test_warm_up_begins_with_small_decays():
    """At most 1 - (1 + s)^(-2/3) in step s: 0.370 in the first, 0.519 in the second."""
    model = torch.nn.Linear(1, 1)
    with torch.no_grad():
        model.bias.fill_(0.0)
        average = WeightAverage(model, 0.5, warmup=True)
        model.bias.fill_(1.0)
    average.update(model, 1)
    torch.testing.assert_close(average.state["bias"], torch.tensor([2 ** (-2 / 3)]))
    average.update(model, 2)  # 0.519 is more than 0.5
    torch.testing.assert_close(average.state["bias"], torch.tensor([(2 ** (-2 / 3) + 1) / 2]))


def test_counters_are_copied_and_statistics_averaged():
    model = torch.nn.BatchNorm1d(2)
    average = WeightAverage(model, 0.5)
    model(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    average.update(model, 1)
    assert average.state["num_batches_tracked"] == 1
    torch.testing.assert_close(average.state["running_mean"], model.running_mean / 2)


def test_a_model_has_the_averages_for_a_while_only():
    model = torch.nn.Linear(2, 2)
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        model.weight.add_(1.0)
    own, averages = copy.deepcopy(model.state_dict()), copy.deepcopy(average.state)
    with pytest.raises(Crash), average.in_place_of_weights(model):
        torch.testing.assert_close(model.state_dict(), averages, rtol=0, atol=0)
        raise Crash
    torch.testing.assert_close(model.state_dict(), own, rtol=0, atol=0)
    torch.testing.assert_close(average.state, averages, rtol=0, atol=0)


def test_averages_are_evaluated_saved_and_not_trained(toy_folder):
    run(output="plain")
    metrics = run(EMA)
    plain, averaged = curve(toy_folder / "plain"), curve(toy_folder / "output")
    assert [row["loss"] for row in averaged] == [row["loss"] for row in plain]
    assert averaged[-1]["bbox/AP"] != plain[-1]["bbox/AP"]
    last, weights = read_checkpoint("output/last.pth"), read_checkpoint("plain/last.pth")["model"]
    torch.testing.assert_close(last["raw_model"], weights, rtol=0, atol=0)
    assert not torch.equal(last["model"]["head.weight"], weights["head.weight"])
    assert evaluate(load_config("toy.yaml", ["train.init_checkpoint=output/last.pth"])) == metrics
    best = read_checkpoint("output/best.pth")
    assert best.keys() >= {"model", "raw_model"}
    assert best["metrics"]["bbox/AP"] == max(float(r["bbox/AP"]) for r in averaged if r["bbox/AP"])


@pytest.mark.slow
@pytest.mark.parametrize("calls", [7, 10, 19])  # in the first evaluation; in steps 6 and 11
def test_averages_resume_to_the_last_bit(toy_folder, monkeypatch, calls):
    run(EMA, output="whole")
    with monkeypatch.context() as patch, pytest.raises(Crash):
        after_calls(patch, toy("ToyModel"), "forward", calls, crash)
        run(EMA)
    run(EMA, resume=True)
    assert_same_run(toy_folder / "output", toy_folder / "whole")
    ours, theirs = (read_checkpoint(f"{run}/last.pth") for run in ("output", "whole"))
    torch.testing.assert_close(ours["raw_model"], theirs["raw_model"], rtol=0, atol=0)


def test_averages_begin_with_the_checkpoint(toy_folder, capsys):
    """One without averages that is resumed, and one that a run starts from."""
    run("train.max_iter=4")
    weights = read_checkpoint("output/last.pth")["model"]
    run(EMA, "train.max_iter=4", resume=True)  # nothing is left to do
    assert "warning: the checkpoint has no averages: those of train.ema begin" in (
        capsys.readouterr().out
    )
    settings = [EMA, "train.max_iter=1", "train.init_checkpoint=output/last.pth"]
    run(*settings, output="tuned")
    tuned = read_checkpoint("tuned/last.pth")
    decay = 1 - 2 ** (-2 / 3)
    expected = decay * weights["head.bias"] + (1 - decay) * tuned["raw_model"]["head.bias"]
    torch.testing.assert_close(tuned["model"]["head.bias"], expected)


def test_a_run_goes_on_without_its_averages(toy_folder, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Crash):
        after_calls(patch, toy("ToyModel"), "forward", 10, crash)
        run(EMA)
    run(resume=True)
    run(output="plain")
    ours, theirs = (read_checkpoint(f"{run}/last.pth") for run in ("output", "plain"))
    assert "raw_model" not in ours
    torch.testing.assert_close(ours["model"], theirs["model"], rtol=0, atol=0)


def test_averages_of_another_model_are_refused(toy_folder):
    run(EMA, "train.max_iter=1")
    last = read_checkpoint("output/last.pth")
    del last["model"]["head.bias"]
    write_checkpoint(toy_folder / "output" / "last.pth", last)
    with pytest.raises(UserError, match=r"last.pth do not fit the model; missing: 1 \(head.bias\)"):
        run(EMA, resume=True)

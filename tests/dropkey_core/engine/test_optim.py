import copy

import pytest
import torch
from omegaconf import ListConfig
from torch import nn

from dropkey_core.engine import (
    ClippedAdamW,
    CosineMultiplier,
    StepMultiplier,
    evaluate,
    load_config,
    param_groups,
    read_checkpoint,
)
from dropkey_core.engine.optim import WeightAverage
from tests.dropkey_core.engine.toy_run import (
    Crash,
    after_calls,
    crash,
    curve,
    run,
    toy,
)


def model():
    parts = nn.ModuleDict({"backbone": nn.Linear(2, 2), "backbones": nn.Linear(2, 2)})
    parts["head"] = nn.Linear(2, 2)
    parts["head"].bias.requires_grad_(False)
    return parts


def names(model, group):
    return {n for n, p in model.named_parameters() if any(p is q for q in group["params"])}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_groups_by_dotted_name(prefix):
    plain = model()
    wrapped = nn.ModuleDict({"module": plain}) if prefix else plain
    base, slow = param_groups(wrapped, 1.0, {"backbone": 0.1})
    assert (base["lr"], slow["lr"]) == (1.0, 0.1)
    assert names(plain, slow) == {"backbone.weight", "backbone.bias"}
    assert names(plain, base) == {"backbones.weight", "backbones.bias", "head.weight"}


def test_multiplier_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no parameter's name contains 'backbon'"):
        param_groups(model(), 1.0, {"backbon": 0.1})


class WithTable(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.table = nn.Parameter(torch.zeros(1, 3, 2))

    def no_weight_decay(self):
        return {"table"}


def test_no_decay_of_vectors_and_of_what_a_part_lists():
    parts = nn.ModuleDict({"body": WithTable(), "head": WithTable()})
    groups = param_groups(parts, 1.0, {"head": 0.1}, decay_vectors=False)
    assert [group["lr"] for group in groups] == [1.0, 1.0, 0.1, 0.1]
    assert [group.get("weight_decay") for group in groups] == [None, 0.0, None, 0.0]
    assert names(parts, groups[0]) == {"body.linear.weight"}
    assert names(parts, groups[1]) == {"body.linear.bias", "body.table"}
    assert names(parts, groups[3]) == {"head.linear.bias", "head.table"}
    decayed = ClippedAdamW(groups, weight_decay=0.3).param_groups
    assert [group["weight_decay"] for group in decayed] == [0.3, 0.0, 0.3, 0.0]
    assert len(param_groups(parts, 1.0)) == 1


def with_gradient(scale=1.0):
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    parameter.grad = torch.tensor([3.0, 4.0]) * scale  # norm 5
    return parameter


def test_step_is_adamw_on_gradients_of_bounded_norm():
    ours, theirs = with_gradient(), with_gradient()
    ClippedAdamW([ours], lr=0.1, weight_decay=0.01, max_norm=0.5, eps=0.1).step()
    theirs.grad *= 0.5 / 5
    torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.01, eps=0.1).step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)  # clip divides by norm + 1e-6
    unclipped = with_gradient()
    ClippedAdamW([unclipped], lr=0.1, weight_decay=0.01, max_norm=None, eps=0.1).step()
    assert not torch.allclose(ours, unclipped)


def test_scaler_unscales_before_the_clipping():
    plain, scaled = with_gradient(), with_gradient(scale=1024.0)
    ClippedAdamW([plain], max_norm=0.5, lr=0.1, eps=0.1).step()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = ClippedAdamW([scaled], max_norm=0.5, lr=0.1, eps=0.1)
    scaler.scale(torch.zeros(()))  # makes the scale
    scaler.step(optimizer)
    torch.testing.assert_close(scaled, plain)


def test_overflow_under_a_scaler_changes_nothing():
    parameter = with_gradient(scale=float("inf"))
    before = copy.deepcopy(parameter.data)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.zeros(()))
    scaler.step(ClippedAdamW([parameter]))
    scaler.update()
    assert torch.equal(parameter, before)
    assert scaler.get_scale() == 512.0


@pytest.mark.parametrize("max_norm", [0.5, None])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_gradients_without_a_finite_norm_change_nothing(max_norm, value):
    sound, broken = with_gradient(), with_gradient()
    optimizer = ClippedAdamW([sound, broken], max_norm=max_norm)
    optimizer.step()
    before = copy.deepcopy((sound.data, broken.data, optimizer.state_dict()))
    sound.grad, broken.grad = torch.ones(2), torch.tensor([0.0, value])
    if value == 3e38:  # finite, but not its square
        sound.grad, message = torch.full((2,), value), "total norm is inf, and 0 of 2 hold NaN"
    else:
        message = f"total norm is {abs(value)}, and 1 of 2 hold NaN"
    with pytest.raises(FloatingPointError, match=f"the gradients are not finite: their {message}"):
        optimizer.step()
    torch.testing.assert_close(
        (sound.data, broken.data, optimizer.state_dict()), before, rtol=0, atol=0
    )
    torch.testing.assert_close(broken.grad, torch.tensor([0.0, value]), equal_nan=True)


def test_state_is_plain(tmp_path):
    optimizer = ClippedAdamW([with_gradient()], betas=ListConfig([0.8, 0.9]))
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pth")
    [group] = torch.load(tmp_path / "state.pth", weights_only=True)["param_groups"]
    assert group["betas"] == (0.8, 0.9)


@pytest.mark.parametrize(
    ("multiplier", "factors"),
    [
        (StepMultiplier([0.5, 0.75], gamma=0.1),
         {0: 1, 0.49: 1, 0.5: 0.1, 0.74: 0.1, 0.75: 0.01, 0.99: 0.01}),
        (CosineMultiplier(final=0.2), {0: 1, 0.5: 0.6, 1: 0.2}),
        (StepMultiplier([0.5], warmup=0.1), {0: 0.001, 0.05: 0.5005, 0.1: 1}),
        (CosineMultiplier(warmup=0.5), {0: 0.001, 0.5: 0.5, 1: 0}),
    ],
)  # fmt: skip
def test_learning_rate_follows_the_schedule(multiplier, factors):
    assert {where: multiplier(where) for where in factors} == pytest.approx(factors)


def test_bad_values():
    for milestones in ([0.5, 0.5], [0.7, 0.5], [1.0], [0.0], [200]):
        with pytest.raises(ValueError, match=r"milestones must increase within \(0, 1\)"):
            StepMultiplier(milestones)
    with pytest.raises(ValueError, match=r"warmup is a part of the run in \[0, 1\), got 500"):
        CosineMultiplier(warmup=500)


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

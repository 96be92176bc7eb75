import csv

import pytest
import torch

from dropkey_core.engine import (
    UserError,
    launch,
    load_config,
    read_checkpoint,
    replay,
    replay_step,
    train,
)
from dropkey_core.engine.trainer import Trainer

SETTINGS = ["train.amp.enabled=true", "train.checkpointer.max_to_keep=20"]


@pytest.fixture
def on_a_cpu(toy_folder, monkeypatch):
    """Mixed precision as on a GPU: float16 by autocast and a scaler, both of which CPUs have."""
    for module in (launch, replay):
        monkeypatch.setattr(module, "check_devices", lambda *_: None)


@pytest.fixture
def scaled_by(monkeypatch):
    """Multiplies the losses of some steps by a factor, of the others by 0.01: none overflows."""
    from toy_experiment import ToyModel

    forward = ToyModel.forward

    def scale(factor, *steps):
        calls = []

        def scaled(model, batch):
            losses = forward(model, batch)
            if model.training:
                calls.append(1)
                times = factor if len(calls) - 1 in steps else 0.01
                losses = {name: loss * times for name, loss in losses.items()}
            return losses

        monkeypatch.setattr(ToyModel, "forward", scaled)

    return scale


def run(*overrides, **arguments):
    return train(load_config("toy.yaml", [*SETTINGS, *overrides]), **arguments)


def log(folder="output"):
    with open(f"{folder}/metrics.csv") as file:  # noqa: PTH123
        return list(csv.DictReader(file))


def test_overflow_leaves_out_a_step_and_halves_the_scale(on_a_cpu, scaled_by):
    scaled_by(1e4, 3)
    run("train.checkpointer.period=1", "train.eval_period=0")
    steps = [read_checkpoint(f"output/model_{number:07d}.pth") for number in range(12)]
    for name, weight in steps[2]["model"].items():
        assert torch.equal(weight, steps[3]["model"][name])  # left out
        assert not torch.equal(weight, steps[4]["model"][name])  # and on it goes
    assert [float(row["loss_scale"]) for row in log()] == [2.0**16] * 3 + [2.0**15] * 9
    assert [float(row["skipped_steps"]) for row in log()] == [0] * 3 + [1] * 9
    # data and learning rate go on: 0.6667 of 12 steps are over after the ninth, as ever
    assert [float(row["lr"]) for row in log()] == pytest.approx([1e-2] * 9 + [1e-3] * 3)
    assert steps[11]["step"] == 12


def test_scale_is_resumed(on_a_cpu, scaled_by):
    scaled_by(1e4, 3, 15)  # the fourth step, of either run
    run("train.output_dir=whole")
    whole = read_checkpoint("whole/last.pth")
    run("train.max_iter=6")
    run(resume=True)
    resumed = read_checkpoint("output/last.pth")
    assert resumed["scaler"] == whole["scaler"]
    assert resumed["scaler"]["scale"] == 2.0**15
    assert [row["skipped_steps"] for row in log()] == [row["skipped_steps"] for row in log("whole")]


def test_overflow_in_the_forward_names_the_setting(on_a_cpu, monkeypatch):
    train_step = Trainer.train_step

    def grown(trainer, batch):
        if trainer.step == 2:
            trainer.model.head.weight.data.mul_(1e6)  # beyond float16, not beyond float32
        return train_step(trainer, batch)

    monkeypatch.setattr(Trainer, "train_step", grown)
    message = (
        r"step 2: the loss is not finite: .*; try train.amp.enabled=false or a lower optimizer"
    )
    with pytest.raises(UserError, match=message):
        run()
    failed = "output/failed_step_0000002.pth"
    with pytest.raises(UserError, match=r"step 2 of .* fails again"):
        replay_step(load_config("toy.yaml", SETTINGS), failed)
    assert replay_step(load_config("toy.yaml"), failed)["loss_l1"] > 65504  # as the message says


def test_gradients_that_never_become_finite_end_the_run(on_a_cpu, scaled_by):
    scaled_by(1e30, *range(100))
    message = (
        "step 31: .* no gradients are finite, with the loss scaled by 3.05e-05 only; try train"
    )
    with pytest.raises(UserError, match=message):
        run("train.max_iter=100", "train.eval_period=0")
    assert float(log()[-1]["skipped_steps"]) == 30


def test_nothing_is_told_without_a_scaler(toy_folder):
    train(load_config("toy.yaml", ["train.max_iter=1"]))
    assert "loss_scale" not in log()[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_overflow_on_a_gpu(toy_folder, scaled_by):
    scaled_by(1e4, 3)
    run("train.device=cuda", "train.eval_period=0")
    assert [float(row["skipped_steps"]) for row in log()] == [0] * 3 + [1] * 9
    assert [float(row["loss_scale"]) for row in log()] == [2.0**16] * 3 + [2.0**15] * 9

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dropkey_core.engine import (
    UserError,
    failed_step,
    in_float32,
    load_config,
    precision,
    read_checkpoint,
    replay_step,
    trainer,
)
from dropkey_core.engine.precision import (
    check_precision,
    describe_precision,
    has_bfloat16,
    measure_overflow,
    precision_of,
)
from dropkey_core.engine.trainer import Trainer
from tests.dropkey_core.engine.toy_run import curve, run

MIXED = "train.amp.enabled=true"
BF16 = "train.amp={enabled: true, dtype: bfloat16}"


def settings(*overrides):
    return load_config("toy.yaml", overrides).train


@pytest.fixture
def cuda(toy_folder, monkeypatch):
    """Settings as on a GPU, new or old, that is not asked anything."""

    def pretend(has_bfloat16, *overrides):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16
        )
        return settings("train.device=cuda", MIXED, *overrides)

    return pretend


@pytest.fixture
def cpu(toy_folder, monkeypatch):
    """Settings as on a CPU with or without bfloat16."""

    def pretend(has_bfloat16, *overrides):
        monkeypatch.setattr(precision, "has_bfloat16", lambda device: has_bfloat16)
        return settings(*overrides)

    return pretend


def test_bfloat16_is_the_default_without_a_scaler(cpu):
    plugin = precision_of(cpu(True, MIXED))
    assert plugin.scaler is None
    with plugin.forward_context():
        assert torch.nn.Linear(2, 2)(torch.randn(1, 2)).dtype is torch.bfloat16


def test_an_old_gpu_has_float16_and_a_scaler(cuda):
    train = cuda(False)
    check_precision(train)
    assert describe_precision(train).startswith("on cuda; mixed precision float16;")
    assert describe_precision(cuda(True)).startswith("on cuda; mixed precision bfloat16;")


@pytest.mark.parametrize(
    ("setting", "dtype", "said"),
    [
        (MIXED, torch.float32, "off (this cpu device has no bfloat16)"),
        (
            BF16,
            torch.bfloat16,
            "bfloat16 (this cpu device has no bfloat16, much slower than train.amp.enabled=false)",
        ),
    ],
)
def test_a_cpu_without_bfloat16_imitates_it_only_where_that_is_asked_for(cpu, setting, dtype, said):
    train = cpu(False, setting)
    check_precision(train)
    with precision_of(train).forward_context():
        assert torch.nn.Linear(2, 2)(torch.randn(1, 2)).dtype is dtype
    assert f"on cpu; mixed precision {said}; float32" in describe_precision(train)


def test_a_cpu_has_bfloat16_where_its_kernels_take_it(monkeypatch):
    for has in (True, False):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda has=has: has)
        assert has_bfloat16("cpu") is has
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not has_bfloat16("cpu")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([MIXED, "train.amp.dtype=float16"], "float16 needs a CUDA device, not cpu: leave"),
        (["train.amp.dtype=float8"], "train.amp.dtype.*float8"),
        (["train.float32_precision=low"], "train.float32_precision.*low"),
    ],
)
def test_what_cannot_be_is_told_before_data_is_read(toy_folder, overrides, message):
    with pytest.raises(UserError, match=message):
        run(*overrides, "dataset.size=0")  # which would be the next error


def test_a_gpu_without_bfloat16(cuda):
    with pytest.raises(UserError, match="this cuda device has no bfloat16: leave the dtype out"):
        check_precision(cuda(False, "train.amp.dtype=bfloat16"))


@pytest.mark.parametrize("name", ["highest", "high", "medium"])
def test_matrix_products_on_cuda(toy_folder, monkeypatch, name):
    given = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", given.append)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", name == "highest")
    train = settings("train.device=cuda", f"train.float32_precision={name}")
    precision_of(train)
    assert given == [name]
    assert torch.backends.cudnn.allow_tf32 is (name != "highest")
    assert describe_precision(train).endswith(f"float32 matrix products {name}")
    precision_of(settings(f"train.float32_precision={name}"))  # on a CPU
    assert given == [name]


def test_some_things_stay_float32():
    x = torch.randn(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with in_float32(x.device):
            assert (x @ x).dtype is torch.float32
        assert (x @ x).dtype is torch.bfloat16


def test_a_run_in_bfloat16_is_near_that_in_float32_and_says_so(toy_folder, capsys):
    run("train.max_iter=1", output="float32")
    run(BF16, "train.max_iter=1")
    assert "on cpu; mixed precision bfloat16" in capsys.readouterr().out
    found, expected = (logged("loss", name)[0] for name in ("output", "float32"))
    assert found == pytest.approx(expected, rel=0.02)
    assert found != expected
    assert read_checkpoint("output/last.pth")["model"]["head.weight"].dtype is torch.float32


def test_precision_may_change_in_a_run(toy_folder, monkeypatch):
    """From float16, which has a scaler, to bfloat16, which has none, and back."""
    monkeypatch.setattr(precision, "check_precision", lambda train: None)
    monkeypatch.setattr("dropkey_core.engine.launch.check_precision", lambda train: None)
    float16 = "train.amp={enabled: true, dtype: float16}"
    run(float16, "train.max_iter=2")
    assert read_checkpoint("output/last.pth")["scaler"]["scale"] <= 2.0**16
    run(BF16, "train.max_iter=3", resume=True)
    assert read_checkpoint("output/last.pth")["scaler"] == {}
    run(float16, "train.max_iter=4", resume=True)
    assert read_checkpoint("output/last.pth")["scaler"]["scale"] == 2.0**15  # anew, one overflow


SETTINGS = ["train.amp={enabled: true, dtype: float16}", "train.checkpointer.max_to_keep=20"]


@pytest.fixture
def on_a_cpu(toy_folder, monkeypatch):
    """Mixed precision as on a GPU: float16 by autocast and a scaler, both of which CPUs have."""
    for module in (trainer, failed_step):
        monkeypatch.setattr(module, "choose_device", lambda *_: None)


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


run_scaled = partial(run, *SETTINGS)


def logged(name, folder="output"):
    return [float(row[name]) for row in curve(Path(folder))]


@pytest.mark.slow
def test_overflow_leaves_out_a_step_and_halves_the_scale(on_a_cpu, scaled_by):
    scaled_by(1e4, 3)
    run_scaled("train.checkpointer.period=1", "train.eval_period=0")
    steps = [read_checkpoint(f"output/model_{number:07d}.pth") for number in range(12)]
    for name, weight in steps[2]["model"].items():
        assert torch.equal(weight, steps[3]["model"][name])  # left out
        assert not torch.equal(weight, steps[4]["model"][name])  # and on it goes
    assert logged("loss_scale") == [2.0**16] * 3 + [2.0**15] * 9
    assert logged("skipped_steps") == [0] * 3 + [1] * 9
    # data and learning rate go on: 0.6667 of 12 steps are over after the ninth, as ever
    assert logged("lr") == pytest.approx([1e-2] * 9 + [1e-3] * 3)
    assert steps[11]["step"] == 12


@pytest.mark.slow
def test_scale_is_resumed(on_a_cpu, scaled_by):
    scaled_by(1e4, 3, 15)  # the fourth step, of either run
    run_scaled(output="whole")
    whole = read_checkpoint("whole/last.pth")
    run_scaled("train.max_iter=6")
    run_scaled(resume=True)
    resumed = read_checkpoint("output/last.pth")
    assert resumed["scaler"] == whole["scaler"]
    assert resumed["scaler"]["scale"] == 2.0**15
    assert logged("skipped_steps") == logged("skipped_steps", "whole")


@pytest.mark.slow
def test_overflow_in_the_forward_names_the_setting(on_a_cpu, monkeypatch):
    train_step = Trainer.train_step

    def grown(trainer, batch):
        if trainer.step == 2:
            trainer.model.head.weight.data.mul_(1e6)  # beyond float16, not beyond float32
        return train_step(trainer, batch)

    monkeypatch.setattr(Trainer, "train_step", grown)
    message = r"step 2: the loss is not finite .*; try train.amp.enabled=false or a lower optimizer"
    with pytest.raises(UserError, match=message):
        run_scaled()
    failed = "output/failed_step_0000002.pth"
    with pytest.raises(UserError, match=r"step 2 of .* fails: first not finite is the output"):
        replay_step(load_config("toy.yaml", SETTINGS), failed)
    assert replay_step(load_config("toy.yaml"), failed)["loss_l1"] > 65504  # as the message says


@pytest.mark.slow
def test_gradients_that_never_become_finite_end_the_run(on_a_cpu, scaled_by):
    scaled_by(1e30, *range(100))
    message = (
        "step 31: .* no gradients are finite, with the loss scaled by 3.05e-05 only; try train"
    )
    with pytest.raises(UserError, match=message):
        run_scaled("train.max_iter=100", "train.eval_period=0")
    assert logged("skipped_steps")[-1] == 30


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_of_an_optimizer_that_counts_no_steps_only_the_scale_is_told(momentum):
    weight = torch.ones(1, requires_grad=True)
    weight.sum().backward()
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=momentum)
    optimizer.step()
    precision = SimpleNamespace(scaler=torch.amp.GradScaler("cpu", init_scale=8.0))
    precision.scaler.scale(weight.sum())  # it begins
    assert measure_overflow(precision, optimizer, 1) == {"loss_scale": 8.0}


def test_nothing_is_told_without_a_scaler(toy_folder):
    run("train.max_iter=1")
    assert "loss_scale" not in curve(toy_folder / "output")[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_overflow_on_a_gpu(toy_folder, scaled_by):
    scaled_by(1e4, 3)
    run_scaled("train.device=cuda", "train.eval_period=0")
    assert logged("skipped_steps") == [0] * 3 + [1] * 9
    assert logged("loss_scale") == [2.0**16] * 3 + [2.0**15] * 9

import pytest
import torch

from dropkey_core.engine import UserError, in_float32, load_config, precision, read_checkpoint
from dropkey_core.engine.precision import check_precision, describe_precision, precision_of
from tests.dropkey_core.engine.toy_run import (
    Crash,
    after_calls,
    assert_same_run,
    crash,
    curve,
    run,
    toy,
)

BF16 = "train.amp.enabled=true"


def settings(*overrides):
    return load_config("toy.yaml", overrides).train


@pytest.fixture
def cuda(toy_folder, monkeypatch):
    """Settings as on a GPU, new or old, that is not asked anything."""

    def pretend(has_bfloat16, *overrides):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16
        )
        return settings("train.device=cuda", "train.amp.enabled=true", *overrides)

    return pretend


def test_bfloat16_is_the_default_without_a_scaler(toy_folder):
    plugin = precision_of(settings(BF16))
    assert plugin.scaler is None
    with plugin.forward_context():
        assert torch.nn.Linear(2, 2)(torch.randn(1, 2)).dtype is torch.bfloat16


def test_an_old_gpu_has_float16_and_a_scaler(cuda):
    train = cuda(False)
    check_precision(train)
    assert describe_precision(train).startswith("on cuda; mixed precision float16;")
    assert describe_precision(cuda(True)).startswith("on cuda; mixed precision bfloat16;")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([BF16, "train.amp.dtype=float16"], "float16 needs a CUDA device, not cpu: bfloat16"),
        (["train.amp.dtype=float8"], "train.amp.dtype.*float8"),
        (["train.float32_precision=low"], "train.float32_precision.*low"),
    ],
)
def test_what_cannot_be_is_told_before_data_is_read(toy_folder, overrides, message):
    with pytest.raises(UserError, match=message):
        run(*overrides, "dataset.size=0")  # which would be the next error


def test_a_gpu_without_bfloat16(cuda):
    with pytest.raises(UserError, match="this cuda device has no bfloat16: float16 on CUDA"):
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


def test_a_run_in_bfloat16_resumes_to_the_last_bit(toy_folder, monkeypatch):
    run(output="float32")
    run(BF16, output="whole")
    with monkeypatch.context() as patch, pytest.raises(Crash):
        after_calls(patch, toy("ToyModel"), "forward", 10, crash)
        run(BF16)
    run(BF16, resume=True)
    assert_same_run(toy_folder / "output", toy_folder / "whole")
    whole, float32 = (curve(toy_folder / name)[0]["loss"] for name in ("whole", "float32"))
    assert float(whole) == pytest.approx(float(float32), rel=0.02)
    assert whole != float32
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


def test_the_log_says_it(toy_folder, capsys):
    run(BF16, "train.max_iter=1")
    said = capsys.readouterr().out
    assert "on cpu; mixed precision bfloat16; float32 matrix products torch's own" in said

import pytest
import torch
from torch import nn

from dropkey_core.engine import memory
from dropkey_core.engine.memory import bytes_free, bytes_kept

CPU = torch.device("cpu")


def test_what_a_forward_keeps():
    """Of x W^T the input x and, where that has a gradient, W, which is there anyway."""
    model = nn.Linear(8, 16, bias=False)
    x = torch.randn(4, 8)
    assert bytes_kept(model, lambda: model(x)) == 4 * 8 * 4
    assert bytes_kept(model, lambda: model(x).square().sum()) == 4 * 8 * 4 + 4 * 16 * 4
    assert bytes_kept(model, lambda: model(x) + model(x)) == 4 * 8 * 4  # once
    layers = nn.Sequential(model, nn.Linear(16, 2))
    assert bytes_kept(layers, lambda: layers(x)) == 4 * 8 * 4 + 4 * 16 * 4
    with torch.no_grad():
        assert bytes_kept(model, lambda: model(x)) == 0


def test_buffers_stay_as_they_are():
    model = nn.BatchNorm1d(3)
    before = {name: value.clone() for name, value in model.named_buffers()}
    bytes_kept(model, lambda: model(torch.randn(4, 3)))
    torch.testing.assert_close(dict(model.named_buffers()), before, rtol=0, atol=0)


@pytest.mark.skipif(not memory.Path("/proc/meminfo").exists(), reason="needs Linux")
def test_free_memory_is_some():
    assert 2**20 < bytes_free(CPU) < 2**50


def test_a_container_has_less(tmp_path, monkeypatch):
    """Pages of files that are not in use can be had."""
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    of_machine = bytes_free(CPU)
    for name, text in {
        "max": "9000",
        "current": "5000",
        "stat": "file 7\ninactive_file 600",
    }.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert bytes_free(CPU) == 4600
    (tmp_path / "memory.max").write_text("max\n")
    assert bytes_free(CPU) == pytest.approx(of_machine, rel=0.5)

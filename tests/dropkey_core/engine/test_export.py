"""Export of a small module: what is written, what is checked, and that nothing random is in it."""

import dataclasses
import sys

import pytest
import torch
from torch import nn

from dropkey_core.attention import MultiheadAttention
from dropkey_core.engine import UserError
from dropkey_core.engine.export import Exportable, export, random_pixels

AXES = {"images": {0: "batch", 2: "height", 3: "width"}}


class Attending(nn.Module):
    """Attention with DropKey among the rows of an image."""

    def __init__(self, error=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.attention = MultiheadAttention(6, 2, batch_first=True, drop_ratio=0.5)
        self.project = nn.Linear(3, 6)
        self.error = error

    def forward(self, images):
        x = self.project(images.float().mean(3).transpose(1, 2) / 255)  # (B, H, 6)
        error = self.error if torch.compiler.is_compiling() else 0.0
        return self.attention(x, x, x, need_weights=False)[0] + error, x.mean(1)


def exportable(any_size=True, **settings):
    module = Attending(**settings).eval()
    axes = AXES if any_size else {"images": {0: "batch"}}
    return Exportable(module, ("attended", "average"), axes, random_pixels, (64, 56), any_size)


@pytest.fixture(params=["torch", pytest.param("onnx", marks=pytest.mark.slow)])
def kind(request):
    if request.param == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason="of the extra export")
    return request.param


def test_checked_on_other_sizes_and_written(kind, tmp_path):
    file = tmp_path / "model"
    differences = export(exportable(), file, kind)
    assert list(differences) == ["attended", "average"]
    assert all(difference < 1e-5 for difference in differences.values())
    assert file.stat().st_size > 1000 and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("size", [None, (20, 30)])
def test_a_file_runs_by_itself(size, tmp_path):
    export(exportable(), tmp_path / "model.pt2", "torch", size)
    program = torch.export.load(tmp_path / "model.pt2").module()
    images = random_pixels(4, *(size or (33, 70)))
    torch.testing.assert_close(program(**images), exportable().module(**images))
    if size is not None:
        with pytest.raises(AssertionError, match=r"size"):
            program(**random_pixels(4, 33, 70))


def test_nothing_random_is_in_it(tmp_path):
    export(exportable(), tmp_path / "model.pt2", "torch")
    graph = torch.export.load(tmp_path / "model.pt2").graph
    called = {str(node.target) for node in graph.nodes if node.op == "call_function"}
    assert any("scaled_dot_product_attention" in name for name in called)
    assert [name for name in called if "rand" in name or "drop" in name or "seed" in name] == []


def test_other_numbers_are_an_error_and_nothing_is_written(kind, tmp_path):
    with pytest.raises(UserError, match=r"images 1x3x64x56 the exported attended differs by"):
        export(exportable(error=1.0), tmp_path / "model", kind)
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_one_size_takes_no_other(kind, tmp_path):
    model = exportable(any_size=False)
    with pytest.raises(UserError, match=r"takes 64 x 56 pixels alone"):
        export(model, tmp_path / "model", kind, (20, 30))
    export(model, tmp_path / "model", kind, (64, 56))


def test_on_a_canvas_no_smaller_images_go(tmp_path):
    model = dataclasses.replace(exportable(), canvas=50)
    with pytest.raises(UserError, match=r"padded to 50 pixels or more on both sides, got 49 x 60"):
        export(model, tmp_path / "model", "torch", (49, 60))
    model = dataclasses.replace(model, size=(64, 90))
    export(model, tmp_path / "model.pt2", "torch")
    program = torch.export.load(tmp_path / "model.pt2").module()
    program(**random_pixels(1, 50, 50))
    with pytest.raises(AssertionError):
        program(**random_pixels(1, 49, 50))


def test_a_missing_package_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"ONNX needs onnx.*pip install -e '.\[train,export\]'"):
        export(exportable(), tmp_path / "model.onnx", "onnx")

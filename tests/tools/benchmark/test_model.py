import json
from functools import partial

import pytest
import torch
from model import detect, main, train

CONFIG = "projects/detr/dropkey.yaml"
SMALL = [
    "model.backbone=resnet10",
    "model.embed_dim=16",
    "model.num_heads=2",
    "model.num_encoder_layers=1",
    "model.num_decoder_layers=2",
    "model.ffn_dim=16",
    "model.num_queries=8",
]
TINY_BATCH = ["--batch", "2", "32", "64", "--repeats", "2"]


@pytest.mark.slow
def test_mixed_precision_and_compiled_code_beside(capsys, monkeypatch):
    """torch.compile itself takes a minute: that it is asked for is enough."""
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: compiled.append(how))
    options = ["--config", CONFIG, *SMALL, *TINY_BATCH, "--autocast", "bfloat16", "--compile"]
    assert main(options) == 0
    rows = [row.split(" | ") for row in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["| training step"] * 4 + ["| inference"] * 4
    plain = ["dropkey.yaml", "dropkey.yaml, compiled"]
    assert [row[1] for row in rows] == [*plain, *(f"{name}, bfloat16" for name in plain)] * 2
    assert [row[-1] for row in rows[::4]] == ["1.00x |"] * 2
    assert compiled == [{"dynamic": True}]


def test_steps_run_in_the_precision_asked_for():
    """A linear layer in place of the model: its result tells what it was computed in."""
    seen = []

    class Model(torch.nn.Linear):
        def forward(self, samples):
            out = super().forward(samples)
            seen.append(out.dtype)
            return {"loss": out.sum()}

    model, under = Model(2, 2), partial(torch.autocast, "cpu", torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = model.weight.clone()
    train(model, optimizer, torch.ones(1, 2), under)
    detect(model, torch.ones(1, 2), under)
    detect(model, torch.ones(1, 2))
    assert seen == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert not torch.equal(model.weight, before)


def test_another_folder_is_one_line_and_exit_2(capsys):
    assert main(["--config", CONFIG, *SMALL, *TINY_BATCH, "--reference", "/nowhere"]) == 2
    said = "error: /nowhere is no checkout of facebookresearch/detr: no models/detr.py\n"
    assert capsys.readouterr().err == said


def test_loader(tmp_path, capsys, monkeypatch):
    cv2 = pytest.importorskip("cv2")
    import numpy as np

    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((40, 60, 3), np.uint8))
    document = {
        "categories": [{"id": 1, "name": "ship"}],
        "images": [{"id": 1, "file_name": "a.jpg", "height": 40, "width": 60}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 6, 20, 10]}],
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    data = [
        f"dataset.{part}.{key}={tmp_path / name}"
        for part in ("train", "test")
        for key, name in (("images", ""), ("annotations", "a.json"))
    ]
    sizes = ["dataloader.train.mapper.min_sizes=[64]"]
    assert main(["--config", CONFIG, *data, *sizes, "--loader", "--repeats", "1"]) == 0
    assert "| loader | dropkey.yaml |" in capsys.readouterr().out

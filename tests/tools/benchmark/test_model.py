import json

import pytest
from model import main

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


def test_two_variants_side_by_side(capsys):
    options = ["--config", CONFIG, *SMALL, *TINY_BATCH, "--compare", "model.drop_unit=weight"]
    assert main(options) == 0
    rows = [row.split(" | ") for row in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["| training step"] * 2 + ["| inference"] * 2
    assert [row[1] for row in rows] == ["dropkey.yaml", "model.drop_unit=weight"] * 2
    assert [row[-1] for row in rows[::2]] == ["1.00x |"] * 2


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

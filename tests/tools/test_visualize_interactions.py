import json

import cv2
import numpy as np
import pytest
import torch

from projects.qpic.build import build_model

MODEL = {"embed_dim": 16, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1}
MODEL |= {"ffn_dim": 16, "num_queries": 3, "backbone": "resnet10"}
MAPPER = "{_target_: projects.qpic.QpicMapper, training: false, min_sizes: [64]}"
CONFIG = f"""
dataset: {{classes: set/classes.json}}
model: {{_target_: projects.qpic.build_model, {", ".join(f"{k}: {v}" for k, v in MODEL.items())}}}
optimizer: {{_target_: torch.optim.SGD, params: {{_target_: dropkey_core.engine.param_groups,
  base_lr: 0.1}}, lr: 0.1}}
lr_multiplier: {{_target_: dropkey_core.engine.CosineMultiplier}}
dataloader:
  train: {{_target_: builtins.list}}
  test:
    _target_: dropkey_core.engine.build_test_loader
    dataset: {{_target_: projects.qpic.load_hico_det, images: set, annotations: set/val.json,
      classes: set/classes.json}}
    mapper: {MAPPER}
    batch_size: 1
train: {{output_dir: run, max_iter: 1, device: cpu}}
"""


def write_set(folder, num_images=4):
    """Grey images with one pair each; in the first also somebody who waves at nothing."""
    folder.mkdir()
    entries = []
    for number in range(num_images):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((40, 60, 3), 90, np.uint8))
        hois = [{"subject_id": 0, "object_id": 1, "category_id": 1}]
        if number == 0:
            hois.append({"subject_id": 0, "object_id": -1, "category_id": 2})
        boxes = [[5, 5, 25, 35], [30, 10, 50, 30]]
        annotations = [{"bbox": b, "category_id": c} for b, c in zip(boxes, (1, 3), strict=True)]
        entry = {"file_name": f"{number}.png", "height": 40, "width": 60}
        entries.append({**entry, "annotations": annotations, "hoi_annotation": hois})
    (folder / "val.json").write_text(json.dumps(entries))
    classes = {
        "objects": [{"id": 1, "name": "person"}, {"id": 3, "name": "ball"}],
        "verbs": [{"id": 1, "name": "hold"}, {"id": 2, "name": "wave"}],
        "triplets": [[1, 0]],
        "rare_triplets": [],
    }
    (folder / "classes.json").write_text(json.dumps(classes))


def write_weights(path, num_objects=2, num_verbs=2):
    torch.manual_seed(0)
    model = build_model(
        num_object_classes=num_objects,
        num_verb_classes=num_verbs,
        pretrained_backbone=False,
        **MODEL,
    )
    torch.save({"model": model.state_dict()}, path)


@pytest.fixture
def main(load_script):
    return load_script("tools/visualize_interactions").main


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A working folder with a set and the folder of a run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DROPKEY_DATASETS", str(tmp_path))
    write_set(tmp_path / "set")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(CONFIG)
    write_weights(tmp_path / "run" / "last.pth")
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_pictures_of_the_test_set_and_a_page(main, workplace, capsys):
    arguments = ["--run", "run", "--num-images", "2", "--score-threshold", "0", "--attention"]
    assert main(arguments) == 0
    assert names(workplace / "run" / "pictures") == [
        "0_attention.png",
        "0_interactions.png",
        "2_attention.png",
        "2_interactions.png",
        "validation.png",
    ]
    lines = capsys.readouterr().out.splitlines()
    assert "2 of 4 images, verbs with a score of 0 or more" in lines
    assert lines[-1] == str(workplace / "run" / "pictures" / "validation.png")
    assert cv2.imread(str(workplace / "run/pictures/0_interactions.png")).shape == (533, 800, 3)


def test_nothing_found_is_a_picture_all_the_same(main, workplace):
    assert main(["--run", "run", "--score-threshold", "1", "--attention", "--num-images", "1"]) == 0
    assert names(workplace / "run" / "pictures") == ["0_interactions.png", "validation.png"]


def test_any_images_without_the_dataset(main, workplace, monkeypatch):
    """Classes of the checkpoint without names of their own; output where it is told to."""
    monkeypatch.setenv("DROPKEY_DATASETS", str(workplace / "elsewhere"))
    write_weights(workplace / "w.pth", num_objects=5, num_verbs=7)
    arguments = ["--config", "run/config.yaml", "--weights", "w.pth", "--output", "out"]
    assert main([*arguments, "--score-threshold", "0", "--images", "set/0.png", "set"]) == 0
    assert names(workplace / "out") == [
        "0_2_interactions.png",
        "0_interactions.png",
        "1_interactions.png",
        "2_interactions.png",
        "3_interactions.png",
        "interactions.png",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "run", "--score-threshold", "2"], r"--score-threshold must be in [0, 1], got 2"),
        (["--run", "run", "--images", "none"], "--images: no file or folder none"),
        (["--run", "run", "--weights", "detr.pth"], "detr.pth is no checkpoint of QPIC"),
    ],
)
def test_errors_in_one_line(main, workplace, capsys, arguments, message):
    torch.save({"model": {"class_embed.weight": torch.zeros(3, 4)}}, workplace / "detr.pth")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error

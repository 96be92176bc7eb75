"""Every YAML of every project: plain enough for both engines, and two steps through the tool."""

import re

import pytest
import yaml

from dropkey_core.engine.paths import PROJECT_ROOT

CONFIGS = sorted(PROJECT_ROOT.glob("projects/*/*.yaml"))
DETR = [path for path in CONFIGS if path.parent.name == "detr"]
SMALL = [  # real size, small pictures
    "dataset.train.images=shapes/train",
    "dataset.train.annotations=shapes/annotations/instances_train.json",
    "dataset.test.images=shapes/val",
    "dataset.test.annotations=shapes/annotations/instances_val.json",
    "dataloader.train.mapper.min_sizes=[64]",
    "dataloader.train.mapper.crop_probability=0",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.mapper.min_sizes=[64]",
    "dataloader.test.num_workers=0",
    "model.pretrained_backbone=false",
    "train.device=cpu",
    "train.max_iter=2",
]


@pytest.fixture(scope="module")
def dataset_root(tmp_path_factory, load_script):
    root = tmp_path_factory.mktemp("datasets")
    settings = ["--num-train", "6", "--num-val", "3", "--image-size", "96"]
    make_shapes = load_script("datasets/make_shapes")
    assert make_shapes.main(["--output", str(root / "shapes"), *settings]) == 0
    return root


@pytest.fixture
def train_net(load_script, dataset_root, tmp_path, monkeypatch):
    monkeypatch.setenv("DROPKEY_DATASETS", str(dataset_root))
    monkeypatch.chdir(tmp_path)
    return load_script("tools/train_net").main


@pytest.mark.parametrize("path", DETR, ids=lambda path: path.stem)
def test_two_steps(path, train_net, tmp_path, capsys):
    config = f"projects/detr/{path.name}"
    start = []
    if path.stem == "finetune":  # its first stage comes first
        assert train_net(["--config", "projects/detr/dropkey.yaml", *SMALL]) == 0
        start = ["--weights", "output/detr/dropkey/best.pth"]
    assert train_net(["--config", config, *start, *SMALL, "train.output_dir=run"]) == 0
    said = capsys.readouterr().out
    assert "Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ]" in said
    for name in ("config.yaml", "last.pth", "best.pth", "metrics.csv", "tensorboard"):
        assert (tmp_path / "run" / name).exists()
        assert f"run/{name}" in said


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_plain_enough_for_detectron2(path):
    text = path.read_text()
    for word in ("_partial_", "_convert_", "_recursive_", "defaults:", "!!"):
        assert word not in text
    # YAML 1.1 reads 1e-4 as text, 1.0e-4 as a number.
    assert not re.search(r"[:\[ ]\d+e-?\d", re.sub(r"#.*", "", text))
    assert set(yaml.safe_load(text)) == {
        "dataset", "model", "optimizer", "lr_multiplier", "dataloader", "train"
    }  # fmt: skip


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_headed_by_its_command(path):
    header = path.read_text().split("\n\n")[0]
    assert f"tools/train_net.py --config projects/{path.parent.name}/{path.name}" in header
    assert "Hardware:" in header


def test_r101_is_one_override(train_net):
    overrides = [*SMALL, "model.backbone=resnet101", "train.max_iter=1"]
    assert train_net(["--config", "projects/detr/dropkey.yaml", *overrides]) == 0

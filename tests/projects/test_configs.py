"""Every YAML of every project: plain enough for both engines, and two steps through the tool."""

import re

import pytest
import yaml

from dropkey_core.engine.paths import PROJECT_ROOT
from tests.projects.small_runs import small_overrides

CONFIGS = sorted(PROJECT_ROOT.glob("projects/*/*.yaml"))
SAID = {  # by project: the head of its table of results
    "detr": "Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ]",
    "qpic": "Known Object",
    "metro": "PA-MPJPE",
    "classification": "cls/top1",
}


@pytest.fixture
def train_net(load_script, small_sets):
    return load_script("tools/train_net").main


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_two_steps(path, train_net, tmp_path, capsys):
    project = path.parent.name
    small = small_overrides(path)
    start = []
    if path.stem == "finetune":  # its first stage comes first
        assert train_net(["--config", f"projects/{project}/dropkey.yaml", *small]) == 0
        start = [f"train.init_checkpoint=output/{project}/dropkey/best.pth"]
    config = f"projects/{project}/{path.name}"
    assert train_net(["--config", config, *small, *start, "train.output_dir=run"]) == 0
    said = capsys.readouterr().out
    assert SAID[project] in said
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


@pytest.mark.parametrize(
    ("project", "backbone"), [("detr", "resnet101"), ("qpic", "resnet50"), ("metro", "resnet18")]
)
def test_the_other_backbone_is_one_override(project, backbone, train_net):
    path = PROJECT_ROOT / f"projects/{project}/dropkey.yaml"
    overrides = [*small_overrides(path), f"model.backbone={backbone}", "train.max_iter=1"]
    assert train_net(["--config", str(path), *overrides]) == 0

"""Every YAML of every project: plain enough for both engines, and two steps through the tool."""

import re

import pytest
import yaml

from dropkey_core.engine.paths import PROJECT_ROOT
from projects.classification import cifar
from projects.metro.mannequin import make_mannequin
from tests.projects.classification.image_files import (
    write_cifar10,
    write_image_folder,
    write_packed,
)

CONFIGS = sorted(PROJECT_ROOT.glob("projects/*/*.yaml"))
DATA = {  # by project: small sets that are made here
    "detr": [
        "dataset.train.images=shapes/train",
        "dataset.train.annotations=shapes/annotations/instances_train.json",
        "dataset.test.images=shapes/val",
        "dataset.test.annotations=shapes/annotations/instances_val.json",
    ],
    "qpic": [
        "dataset.classes=interactions/annotations/classes.json",
        "dataset.train.images=interactions/train",
        "dataset.train.annotations=interactions/annotations/train.json",
        "dataset.test.images=interactions/val",
        "dataset.test.annotations=interactions/annotations/val.json",
    ],
    "metro": [
        "dataset.body=bodies/body.npz",
        "dataset.index=bodies/index.npz",
        "dataset.train.subjects=bodies/train_subjects.txt",
        "dataset.test.subjects=bodies/test_subjects.txt",
    ],
    "classification": [],  # by config, below
}
DATA_OF_CLASSIFIERS = {  # by config
    "cifar10_small": ["dataset.file=packed.npz", "dataset.train.per_class=1"],
}
SAID = {  # by project: the head of its table of results
    "detr": "Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ]",
    "qpic": "Known Object",
    "metro": "PA-MPJPE",
    "classification": "cls/top1",
}
SMALL_PICTURES = [  # at real size
    "dataloader.train.mapper.min_sizes=[64]",
    "dataloader.train.mapper.crop_probability=0",
    "dataloader.test.mapper.min_sizes=[64]",
]
SMALL_METRO = [  # HRNet-W64 alone takes half a minute to build
    "model.backbone=resnet10t",
    "model.image_size=64",
    "model.embed_dims=[16,8]",
    "model.token_dims=[8]",
    "model.ffn_dim=16",
    "dataloader.train.mapper.image_size=64",
    "dataloader.test.mapper.image_size=64",
]
SMALLER = {  # by project
    "detr": SMALL_PICTURES,
    "qpic": SMALL_PICTURES,
    "metro": SMALL_METRO,
    "classification": ["train.amp.enabled=false"],  # which needs a GPU
}
SMALL_CLASSIFIERS = {  # by config, at real size
    "t2t": ["model.architecture=t2t_vit_7", "model.image_size=32", "model.num_classes=2"],
    "volo": ["model.image_size=32", "model.num_classes=2"],
    "deit": [
        "model.architecture=deit_tiny_patch16_224",
        "model.image_size=32",
        "model.num_classes=2",
    ],
    "cifar": ["model.architecture=t2t_vit_7", "model.image_size=32"],
}
SMALL = [
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "model.pretrained_backbone=false",
    "train.device=cpu",
    "train.max_iter=2",
    "train.init_checkpoint=''",
]


@pytest.fixture(scope="module")
def dataset_root(tmp_path_factory, load_script):
    root = tmp_path_factory.mktemp("datasets")
    settings = ["--num-train", "6", "--num-val", "3", "--image-size", "96"]
    for made in ("shapes", "interactions"):
        script = load_script(f"datasets/make_{made}")
        assert script.main(["--output", str(root / made), *settings]) == 0
    script = load_script("datasets/make_bodies")
    few = script.Settings(num_train=1, num_val=1, num_frames=2, num_cameras=2, image_size=64)
    script.make_bodies(root / "bodies", few, make_mannequin((1200, 400, 120), 0.01, 1))
    write_image_folder(root / "imagenet", count=2)
    write_packed(root / "packed.npz", count=1)
    return root


@pytest.fixture(scope="module")
def small_cifar10(dataset_root):
    return write_cifar10(dataset_root / "cifar", count=1)


@pytest.fixture
def train_net(load_script, dataset_root, small_cifar10, tmp_path, monkeypatch):
    monkeypatch.setenv("DROPKEY_DATASETS", str(dataset_root))
    monkeypatch.setitem(cifar.SETS, "cifar10", small_cifar10)
    monkeypatch.chdir(tmp_path)
    return load_script("tools/train_net").main


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_two_steps(path, train_net, tmp_path, capsys):
    project = path.parent.name
    small = [*SMALL, *SMALLER[project], *DATA[project]]
    if project == "classification":
        small += [*SMALL_CLASSIFIERS.get(path.stem, []), *DATA_OF_CLASSIFIERS.get(path.stem, [])]
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
    overrides = [
        *SMALL,
        *SMALLER[project],
        *DATA[project],
        f"model.backbone={backbone}",
        "train.max_iter=1",
    ]
    assert train_net(["--config", f"projects/{project}/dropkey.yaml", *overrides]) == 0

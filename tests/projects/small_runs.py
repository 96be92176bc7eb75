"""What makes a run of any config small: tiny sets (see ``conftest.py``), networks and few steps.

Also each project's recipe, and the rows of the paper's tables as overrides of it.
"""

from pathlib import Path

from dropkey_core.engine.paths import PROJECT_ROOT

RECIPES = {  # by project; of classification one of several
    "detr": PROJECT_ROOT / "projects/detr/dropkey.yaml",
    "qpic": PROJECT_ROOT / "projects/qpic/dropkey.yaml",
    "metro": PROJECT_ROOT / "projects/metro/dropkey.yaml",
    "classification": PROJECT_ROOT / "projects/classification/cifar_scratch.yaml",
}
FEW_PARAMETERS = [  # DETR's body, whose checkpoints take long to write
    "model.backbone=resnet10",
    "model.num_encoder_layers=2",
    "model.num_decoder_layers=2",
    "model.embed_dim=32",
    "model.ffn_dim=32",
]
ROWS = {
    "nothing": ["model.drop_ratio=0"],
    "dropout": ["model.drop_unit=weight"],
    "published": ["model.drop_unit=weight", "model.drop_ratio=0.1", "model.drop_schedule=constant"],
}
CONSTANT_RATE = {  # by project
    "detr": ["lr_multiplier.gamma=1"],
    "qpic": ["lr_multiplier.gamma=1"],
    "metro": ["lr_multiplier.gamma=1"],
    "classification": ["lr_multiplier.final=1", "lr_multiplier.warmup=0"],
}
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
    "classification": ["train.amp.enabled=false"],  # the same on all CPUs
}
SMALL_CLASSIFIERS = {  # by config, at real size
    "t2t": ["model.architecture=t2t_vit_7", "model.image_size=32", "model.num_classes=2"],
    "volo": ["model.image_size=32", "model.num_classes=2"],
    "deit": [
        "model.architecture=deit_tiny_patch16_224",
        "model.image_size=32",
        "model.num_classes=2",
    ],
    "cifar_scratch": ["model.architecture=t2t_vit_7", "model.image_size=32"],
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


def small_overrides(path: Path) -> list[str]:
    """What makes the config at ``path`` small."""
    project, name = path.parent.name, path.stem
    small = [*SMALL, *SMALLER[project], *DATA[project]]
    if project == "classification":
        small += [*SMALL_CLASSIFIERS.get(name, []), *DATA_OF_CLASSIFIERS.get(name, [])]
    return small


def small_recipe(project: str) -> list[str]:
    """What makes the recipe of a project smaller still, for runs of many rows."""
    fewer = FEW_PARAMETERS if project in ("detr", "qpic") else []
    return [*small_overrides(RECIPES[project]), *fewer]


def second_stage(project: str) -> list[str]:
    """The paper's second stage: without DropKey, at a constant rate; its weights go before."""
    return ["model.drop_ratio=0", "optimizer.lr=1.0e-5", *CONSTANT_RATE[project]]

"""The official QPICs by name; pages and numbers from their repository."""

from dropkey_core.engine.published import PublishedWeights

RELEASE = "https://github.com/hitachi-rd-cv/qpic/releases"
CONFIG = "projects/qpic/dropkey.yaml"
SOURCE = "README of github.com/hitachi-rd-cv/qpic; arXiv 2103.05399"

# The README names the page of the release and, of its files, this one alone.
PUBLISHED = {
    "qpic-r50": PublishedWeights(
        url=f"{RELEASE}/download/v1.0/qpic_resnet50_hico.pth",
        config=CONFIG,
        overrides=("model.backbone=resnet50",),
        licence="Apache-2.0",
        metric="mAP full 29.07, rare 21.85, non-rare 31.23 on HICO-DET's test set, Default",
        source=SOURCE,
        notes=f"the page of the release is {RELEASE}/tag/v1.0",
    ),
    "qpic-r101": PublishedWeights(
        url="",
        config=CONFIG,
        overrides=("model.backbone=resnet101",),
        licence="Apache-2.0",
        metric="mAP full 29.90, rare 23.92, non-rare 31.69 on HICO-DET's test set, Default",
        source=SOURCE,
        notes=f"get QPIC's ResNet-101 for HICO-DET from {RELEASE}/tag/v1.0 and give the file "
        f"itself, with {CONFIG} and model.backbone=resnet101; no conversion is needed",
    ),
}

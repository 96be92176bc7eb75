"""The official T2T-ViTs and VOLOs by name; addresses and numbers from their repositories."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dropkey_core.engine.published import PublishedWeights
from projects.classification.convert import classifier_weights

T2T = "https://github.com/yitu-opensource/T2T-ViT/releases/download/main"
VOLO = "https://github.com/sail-sg/volo/releases/download/volo_1"
# Name: file, top-1 accuracy, image size. Not here: T2T-ViT-24 taught by token labels, by the code
# of another repository.
T2T_FILES = {
    "t2t-vit-7": ("71.7_T2T_ViT_7", "71.7", 224),
    "t2t-vit-10": ("75.2_T2T_ViT_10", "75.2", 224),
    "t2t-vit-12": ("76.5_T2T_ViT_12", "76.5", 224),
    "t2t-vit-14": ("81.5_T2T_ViT_14", "81.5", 224),
    "t2t-vit-19": ("81.9_T2T_ViT_19", "81.9", 224),
    "t2t-vit-24": ("82.3_T2T_ViT_24", "82.3", 224),
    "t2t-vit-14-384": ("83.3_T2T_ViT_14", "83.3", 384),
    "t2t-vit-t-14": ("81.7_T2T_ViTt_14", "81.7", 224),
    "t2t-vit-t-19": ("82.4_T2T_ViTt_19", "82.4", 224),
    "t2t-vit-t-24": ("82.6_T2T_ViTt_24", "82.6", 224),
}
VOLO_FILES = {
    "volo-d1": ("d1_224_84.2", "84.2", 224),
    "volo-d2": ("d2_224_85.2", "85.2", 224),
    "volo-d3": ("d3_224_85.4", "85.4", 224),
    "volo-d4": ("d4_224_85.7", "85.7", 224),
    "volo-d5": ("d5_224_86.10", "86.1", 224),
    "volo-d1-384": ("d1_384_85.2", "85.2", 384),
    "volo-d2-384": ("d2_384_86.0", "86.0", 384),
    "volo-d3-448": ("d3_448_86.3", "86.3", 448),
    "volo-d4-448": ("d4_448_86.79", "86.8", 448),
    "volo-d5-448": ("d5_448_87.0", "87.0", 448),
    "volo-d5-512": ("d5_512_87.07", "87.1", 512),
}


def convert(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """From what the official code has saved to the weights of ``ClassificationModel``."""
    return classifier_weights(content)[0]


def settings(name: str, image_size: int) -> tuple[str, ...]:
    """The overrides that make the model of a name, and its evaluation as its authors'."""
    architecture = name.removesuffix(f"-{image_size}").replace("-", "_")
    overrides = [f"model.architecture={architecture}", f"model.image_size={image_size}"]
    if architecture in ("volo_d4", "volo_d5"):  # the official default: with a frame of black
        overrides.append("dataloader.test.mapper.crop_pct=1.15")
    return tuple(overrides)


def official(
    files: Mapping[str, tuple[str, str, int]], folder: str, config: str, licence: str, source: str
) -> dict[str, PublishedWeights]:
    """What is published of each of the files in a folder, by name."""
    return {
        name: PublishedWeights(
            url=f"{folder}/{file}.pth.tar",
            config=f"projects/classification/{config}",
            overrides=settings(name, image_size),
            licence=licence,
            metric=f"top-1 {accuracy} on ImageNet's validation set",
            source=f"README of {source}",
            convert=convert,
        )
        for name, (file, accuracy, image_size) in files.items()
    }


PUBLISHED = {
    **official(
        T2T_FILES, T2T, "t2t.yaml", "Clear BSD",
        "github.com/yitu-opensource/T2T-ViT; arXiv 2101.11986",
    ),
    **official(
        VOLO_FILES, VOLO, "volo.yaml", "Apache-2.0", "github.com/sail-sg/volo; arXiv 2106.13112"
    ),
}  # fmt: skip

import pytest
import torch

from projects.qpic.build import build_model


@pytest.fixture
def small_qpic():
    """Builds a QPIC of two layers and five queries with settled random weights."""

    def build(**changes):
        sizes = {"embed_dim": 32, "num_heads": 4, "num_encoder_layers": 2, "num_decoder_layers": 2}
        heads = {"num_object_classes": 3, "num_verb_classes": 4, "num_queries": 5, "ffn_dim": 48}
        backbone = {"backbone": "resnet10", "pretrained_backbone": False}
        torch.manual_seed(0)
        return build_model(**{**sizes, **heads, **backbone, **changes})

    return build


@pytest.fixture
def small_samples():
    """Two images of different sizes: one pair; a pair of two verbs and one without object."""
    generator = torch.Generator().manual_seed(1)

    def sample(height, width, **targets):
        pixels = torch.randint(0, 256, (3, height, width), generator=generator)
        return {
            "image": pixels.to(torch.uint8),
            "height": 2 * height,
            "width": 3 * width,
            **{name: torch.tensor(values) for name, values in targets.items()},
        }

    return [
        sample(
            64,
            96,
            sub_boxes_cxcywh=[[0.5, 0.5, 0.2, 0.6]],
            obj_boxes_cxcywh=[[0.7, 0.5, 0.1, 0.1]],
            obj_labels=[2],
            verb_labels=[[0.0, 1.0, 0.0, 0.0]],
        ),
        sample(
            96,
            64,
            sub_boxes_cxcywh=[[0.3, 0.3, 0.2, 0.2], [0.6, 0.7, 0.3, 0.1]],
            obj_boxes_cxcywh=[[0.4, 0.3, 0.2, 0.1], [0.0, 0.0, 0.0, 0.0]],
            obj_labels=[0, 3],
            verb_labels=[[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]],
        ),
    ]

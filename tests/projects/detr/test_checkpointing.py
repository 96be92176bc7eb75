import pytest
import torch

import projects.detr
import projects.qpic
from dropkey_core.engine.accumulation import bytes_kept
from tests.projects.detr.conftest import SMALL_BODY

SIZES = {**SMALL_BODY, "num_encoder_layers": 3, "dropout": 0.1, "drop_ratio": 0.3}
BOXES = {"query_boxes": True, "focal": True}


def gradients(model, images):
    torch.manual_seed(1)
    outputs = model.predict_batch(images)
    sum(output.sum() for output in outputs.values()).backward()
    return [p.grad for p in model.parameters() if p.grad is not None], outputs


@pytest.mark.parametrize("options", [{}, {"pre_norm": True}, BOXES])
def test_the_same_numbers_with_less_memory(options):
    """Dropped keys and dropouts are drawn alike when a layer is computed again."""
    models = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        settings = {**SIZES, **options, "checkpoint_layers": checkpointed}
        models.append(projects.detr.build_model(num_classes=3, **settings))
    images = torch.randn(2, 3, 64, 64)
    (expected, outputs), (found, again) = (gradients(model, images) for model in models)
    torch.testing.assert_close(again, outputs, rtol=0, atol=0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    kept = [bytes_kept(model, lambda model=model: model.predict_batch(images)) for model in models]
    assert kept[1] < kept[0]
    assert models[1].state_dict().keys() == models[0].state_dict().keys()


def test_qpic_takes_it_too():
    model = projects.qpic.build_model(
        num_object_classes=3, num_verb_classes=4, checkpoint_layers=True, **SIZES
    )
    layers = [*model.transformer.encoder.layers, *model.transformer.decoder.layers]
    assert all(layer.checkpointed for layer in layers)

"""In mixed precision losses, matching, boxes and meshes stay float32, in every project."""

import pytest
import torch

from tests.projects.metro.conftest import toy_body, toy_body_file  # noqa: F401, fixtures
from tests.projects.test_distributed import build, samples

PREDICTING = ("detr", "detr_small", "qpic", "metro")
PLACES = ("pred_boxes", "pred_sub_boxes", "pred_obj_boxes", "mesh_joints", "joint_tokens", "camera")


@pytest.fixture
def bfloat16():
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.fixture
def outputs_of(toy_body_file):  # noqa: F811
    """Model, batch, and what the model predicts: with its heads, without losses."""

    def predict(project):
        model, batch = build(project, toy_body_file), samples(project, toy_body_file)
        images = model.batch(batch)
        model.eval()  # nothing is drawn
        return model, batch, model.predict_batch(*(images if type(images) is tuple else [images]))

    return predict


@pytest.mark.parametrize("project", ["detr", "qpic", "metro"])
def test_judging_is_the_same_to_the_last_bit(project, outputs_of, bfloat16, monkeypatch):
    """Of the same predictions: matching costs and losses hold matrix products, too."""
    model, batch, predicted = outputs_of(project)
    monkeypatch.setattr(model, "predict_batch", lambda *_: predicted)
    plain = model.train()(batch)
    with bfloat16:
        mixed = model(batch)
    torch.testing.assert_close(mixed, plain, rtol=0, atol=0)


@pytest.mark.parametrize("project", PREDICTING)
def test_places_have_more_than_eight_bits(project, outputs_of, bfloat16):
    with bfloat16:
        _, _, predicted = outputs_of(project)
    found = {name: predicted[name] for name in PLACES if name in predicted}
    found |= {f"mesh {number}": mesh for number, mesh in enumerate(predicted.get("meshes", ()))}
    assert found
    for name, places in found.items():
        assert places.dtype is torch.float32, name
        exact = (places == places.bfloat16().float()).float().mean()
        assert exact < 0.9, (name, exact)  # in bfloat16 all are


@pytest.mark.parametrize("project", [*PREDICTING, "classification"])
def test_losses_and_weights_are_float32(project, toy_body_file, bfloat16):  # noqa: F811
    model, batch = build(project, toy_body_file), samples(project, toy_body_file)
    with bfloat16:
        losses = model(batch)
    sum(losses.values()).backward()
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    assert all(gradient.isfinite().all() for gradient in gradients)

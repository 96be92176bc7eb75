import pytest
import torch
from torch.testing import assert_close

from dropkey_core.analysis.occlusion import (
    PatchOrder,
    occluded_forward,
    with_empty_patches,
    without_patches,
)
from dropkey_core.equip import apply_dropkey
from dropkey_core.variants import apply_token_pooling
from tests.dropkey_core.analysis.patch_classifier import Classifier, data


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Classifier()
    apply_dropkey(model, 0.0)
    return model


def test_patches_leave_the_sequence_and_the_class_token_stays(model):
    batches = data(3)
    model.seen.clear()
    occluded_forward(model, batches[0], 0.3, PatchOrder(0))
    (seen,) = model.seen
    assert seen.shape == (3, 8, 8)
    assert_close(seen[:, :1], model.cls_token.expand(3, 1, 8))
    for kept, sample in zip(seen[:, 1:], batches[0], strict=True):
        places = [(sample["image"] == patch).all(dim=1).nonzero().item() for patch in kept]
        assert places == sorted(set(places))  # seven different ones, in their order


def test_pooled_patches_stay_on_their_grid():
    model = Classifier(norm_first=True)
    apply_dropkey(model, 0.0)
    apply_token_pooling(model, 2, grid=(2, 5), num_prefix_tokens=1)
    batch = data(3)[0]
    occluded_forward(model, batch, 0.3, PatchOrder(0))
    (seen,) = model.seen
    assert_close(seen[:, :1], model.cls_token.expand(3, 1, 8))
    for kept, sample in zip(seen[:, 1:], batch, strict=True):
        gone = (kept == 0).all(-1)
        assert gone.sum() == 3
        assert_close(kept[~gone], sample["image"][~gone])


def test_a_model_that_needs_all_its_tokens_says_so():
    """As DETR, whose positions have the length of the whole sequence."""

    class Positioned(Classifier):
        def forward(self, samples):
            x = torch.stack([sample["image"] for sample in samples])
            return self.blocks[0](x) + torch.ones(10, 8)

    model = Positioned()
    apply_dropkey(model, 0.0)
    with pytest.raises(ValueError, match="Positioned cannot do without a part of its tokens"):
        occluded_forward(model, data(3)[0], 0.3, PatchOrder(0))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_each_image_and_run_loses_others_and_less_is_part_of_more(model):
    order = PatchOrder(0)
    first = order(4, 10)
    assert torch.equal(order(4, 10), first)
    assert len({tuple(row.tolist()) for row in first}) == 4
    order.forget()
    assert not torch.equal(order(4, 10), first)
    assert not torch.equal(PatchOrder(1)(4, 10), first)


def test_hooks_are_taken_away_again(model):
    before = sum(len(module._forward_pre_hooks) for module in model.modules())
    occluded_forward(model, data(3)[0], 0.5, PatchOrder(0))
    assert sum(len(module._forward_pre_hooks) for module in model.modules()) == before


def test_without_patches():
    tokens = torch.arange(5.0).view(1, 5, 1)
    order = torch.tensor([[2, 0, 3, 1]])
    assert without_patches(tokens, 1, 0.5, order).flatten().tolist() == [0, 2, 4]
    assert without_patches(tokens, 1, 0.99, order).flatten().tolist() == [0, 2]  # one is left


def test_a_grid_stays_complete():
    tokens = torch.ones(1, 2, 3, 2)
    empty = with_empty_patches(tokens, 1 / 3, torch.tensor([[5, 0, 1, 2, 3, 4]]))
    assert empty[..., 0].tolist() == [[[0, 1, 1], [1, 1, 0]]]

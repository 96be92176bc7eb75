from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close
from torchvision.transforms.functional import crop, hflip, pad

from dropkey_core.engine import UserError
from projects.paper.regimes import Trainer
from projects.paper.regimes.judging import Images
from projects.paper.regimes.plan import Augmentation
from projects.paper.regimes.training import Batches, augmented, draw_batches, draw_subset


class Watched(Trainer):
    """Keeps the first weights and everything that the network sees while training."""

    def build(self, run):
        model = super().build(run)
        self.start = [parameter.detach().clone() for parameter in model.parameters()]
        self.seen = []
        model.network.register_forward_pre_hook(
            lambda network, images: self.seen.append(images[0]) if network.training else None
        )
        return model


@pytest.fixture
def watched(plan):
    return Watched(plan)


@pytest.mark.parametrize("method", ["none", "dropout"])
def test_methods_share_first_weights_and_pixels(watched, run, method):
    with_keys = watched(run)
    start, seen = watched.start, watched.seen
    other = watched(replace(run, method=method, ratio=0.5 if method != "none" else 0.0))
    assert_close(watched.start, start, rtol=0, atol=0)
    assert len(seen) == 3
    assert_close(watched.seen, seen, rtol=0, atol=0)
    assert other["train_loss"] != with_keys["train_loss"]  # the masks differ


def test_another_seed_shares_nothing(watched, run):
    watched(run)
    start, seen = watched.start, watched.seen
    watched(replace(run, seed=1))
    assert not torch.equal(watched.start[0], start[0])
    assert not torch.equal(watched.seen[0], seen[0])


def test_a_run_depends_on_nothing_before_it(plan, run):
    trainer = Trainer(plan)
    first = trainer(run)
    trainer(replace(run, seed=1))
    again = trainer(run)
    assert {**again, "seconds": 0.0} == {**first, "seconds": 0.0}


def test_threads_are_what_they_were(plan, run):
    before = torch.get_num_threads()
    Trainer(plan)(run)
    assert torch.get_num_threads() == before
    assert torch.tensor(1e-40) * 0.5 != 0  # tiny numbers count again


def test_settings_tell_what_changed(content, plan, run):
    there = Trainer(plan).settings(run)
    assert Trainer(plan).settings(replace(run, seed=3, steps=9)) == there
    assert Trainer(plan).settings(replace(run, method="dropout")) != there
    plan.batch_size = 4
    assert Trainer(plan).settings(run) != there


def test_fits_its_images(plan, run):
    outcome = Trainer(plan)(replace(run, augmentation="weak", steps=150, ratio=0.1))
    assert outcome["train_top1"] == 100.0
    assert outcome["train_loss"] < 1.0 < outcome["test_loss"]


def test_augments_as_padding_cropping_and_flipping():
    padded = torch.rand(3, 3, 8, 8)
    batch = Batches(*map(torch.tensor, ([2, 0], [1, 4], [3, 0], [True, False])))
    cut = augmented(padded, 4, batch)
    assert_close(cut[0], hflip(crop(padded[2], 1, 3, 4, 4)))
    assert_close(cut[1], crop(padded[0], 4, 0, 4, 4))
    middle = Batches(*map(torch.tensor, ([0], [2], [2], [False])))
    image = torch.rand(1, 3, 4, 4)
    assert_close(augmented(pad(image, [2] * 4), 4, middle), image)


def test_every_image_once_before_one_twice():
    batches = draw_batches(6, 5, 4, Augmentation(2, 0.5), torch.Generator().manual_seed(0))
    rows = batches.rows.flatten()
    assert rows[:6].sort().values.tolist() == rows[6:12].sort().values.tolist() == [*range(6)]
    assert batches.down.unique().tolist() == batches.right.unique().tolist() == [*range(5)]
    assert batches.flipped.any() and not batches.flipped.all()


def test_no_augmentation_leaves_images_alone():
    batches = draw_batches(6, 5, 4, Augmentation(), torch.Generator().manual_seed(0))
    assert not batches.down.any() and not batches.right.any() and not batches.flipped.any()


def test_subset_has_so_many_of_each_class():
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    images = Images(torch.arange(6)[:, None], labels)
    subset = draw_subset(images, 2, torch.Generator().manual_seed(0))
    assert subset.labels.tolist() == [0, 0, 1, 1]
    assert labels[subset.pixels[:, 0]].tolist() == [0, 0, 1, 1]
    with pytest.raises(UserError, match="per_class must be at most 3, got 4"):
        draw_subset(images, 4, torch.Generator())

import pytest
import torch

from dropkey_core.engine import UserError
from dropkey_core.engine.data import seed_step
from projects.classification.mixing import build_mixing, mix


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(4, 3, 8, 8), torch.arange(4)


def test_mixup_blends_with_the_reversed_batch(batch):
    images, labels = batch
    seed_step(0, 0, 0)
    mixed, targets = mix(build_mixing(1.0, 0.0, 0.0, 5), images.clone(), labels)
    share = targets[0, 0]
    assert 0.05 < share < 0.95
    torch.testing.assert_close(mixed, share * images + (1 - share) * images.flip(0))
    expected = share * torch.eye(5)[labels] + (1 - share) * torch.eye(5)[labels.flip(0)]
    torch.testing.assert_close(targets, expected)


def test_cutmix_pastes_a_box_and_counts_its_area(batch):
    images, labels = batch
    seed_step(3, 0, 0)
    mixed, targets = mix(build_mixing(0.0, 1.0, 0.0, 4), images.clone(), labels)
    pasted = (mixed == images.flip(0)).all(1)  # (B, 8, 8)
    kept = (mixed == images).all(1)
    assert (pasted ^ kept).all()
    assert 0 < pasted[0].sum() < 64
    torch.testing.assert_close(targets[0, 3], pasted[0].float().mean())


def test_targets_are_smoothed(batch):
    _, targets = mix(build_mixing(0.3, 0.3, 0.1, 5), *batch)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    torch.testing.assert_close(targets.min(), torch.tensor(0.02))


def test_the_step_decides_what_is_drawn(batch):
    """Whatever ran before: a run that goes on mixes as it would have."""
    images, labels = batch
    mixing = build_mixing(0.8, 1.0, 0.1, 4)

    def mixed(step):
        seed_step(7, step, rank=0)
        return mix(mixing, images.clone(), labels)[1]

    first = mixed(5)
    assert not torch.equal(mixed(6), first)
    torch.testing.assert_close(mixed(5), first, rtol=0, atol=0)


def test_only_training_mixes(tiny, samples):
    """And the mixed targets are smoothed once."""
    settings = {"label_smoothing": 0.1, "drop_ratio": 0.0, "drop_path": 0.0}
    model = tiny({"token_dropout": 0.0}, mixup=1.0, **settings)
    torch.nn.init.normal_(model.network.head.weight)
    images = torch.stack([sample["image"] for sample in samples])
    seed_step(0, 0, 0)
    logits = model.eval()(samples)
    torch.testing.assert_close(torch.stack([x["logits"] for x in logits]), model.network(images))
    loss = model.train()(samples)["loss_cls"]
    seed_step(0, 0, 0)
    mixed, targets = mix(model.mixing, images.clone(), torch.tensor([0, 1, 1, 3]))
    expected = -(targets * model.network(mixed).log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(loss, expected)


def test_without_an_alpha_there_is_none():
    assert build_mixing(0.0, 0.0, 0.1, 4) is None


def test_an_odd_batch_is_refused(tiny, samples):
    with pytest.raises(UserError, match=r"mix pairs, got a batch of 3: make dataloader.train"):
        tiny(mixup=0.2)(samples[:3])

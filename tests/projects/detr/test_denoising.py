import pytest
import torch

from projects.detr import denoising
from projects.detr.denoising import apart, moved, noisy_queries, with_other_labels

LABELS = [torch.tensor([2]), torch.zeros(0, dtype=torch.int64), torch.tensor([0, 1])]
BOXES = [
    torch.tensor([[0.5, 0.5, 0.2, 0.6]]),
    torch.zeros(0, 4),
    torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.6, 0.7, 0.3, 0.1]]),
]


def test_every_object_is_there_once_in_each_group(monkeypatch):
    """Without noise a query is the object that its pair names; the other places are blank."""
    monkeypatch.setattr(denoising, "BOX_NOISE", 0.0)
    monkeypatch.setattr(denoising, "LABEL_NOISE", 0.0)
    noisy = noisy_queries(LABELS, BOXES, num_groups=3, num_classes=4)
    assert noisy.labels.tolist() == [[2, 4] * 3, [4, 4] * 3, [0, 1] * 3]
    assert torch.equal(noisy.exists, noisy.labels < 4)
    images, queries, objects = noisy.pairs
    assert sorted(objects.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert torch.equal(noisy.labels[images, queries], torch.cat(LABELS)[objects])
    assert torch.equal(noisy.boxes[images, queries], torch.cat(BOXES)[objects])


def test_noise_stays_within_its_bounds_and_fills_them():
    """lambda = 0.4: centres by up to a fifth of a side, sides by up to two fifths."""
    torch.manual_seed(0)
    box = torch.tensor([0.5, 0.5, 0.2, 0.4])
    shift = (moved(box.expand(4000, 4)) - box) / box[2:].repeat(2)
    most = torch.tensor([0.2, 0.2, 0.4, 0.4])
    assert (shift.abs() <= most + 1e-6).all()
    assert (shift.amax(0) > 0.99 * most).all() and (shift.amin(0) < -0.99 * most).all()


def test_a_share_of_labels_is_drawn_anew():
    """A fifth, of which one in four is drawn as it was."""
    torch.manual_seed(0)
    labels = with_other_labels(torch.full((40_000,), 3), num_classes=4)
    assert (labels != 3).float().mean().item() == pytest.approx(0.2 * 3 / 4, abs=0.01)
    assert labels.unique().tolist() == [0, 1, 2, 3]


def test_a_batch_without_objects_has_no_noisy_query():
    noisy = noisy_queries(LABELS[1:2] * 2, BOXES[1:2] * 2, num_groups=3, num_classes=4)
    assert noisy.boxes.shape == (2, 0, 4)
    assert [len(index) for index in noisy.pairs] == [0, 0, 0]


def test_groups_do_not_see_each_other():
    mask = apart([1, 2], torch.device("cpu"))
    assert mask.tolist() == [[False, True, True], [True, False, False], [True, False, False]]
    assert apart([5], torch.device("cpu")) is None

import pytest
import torch

from dropkey_core.engine import UserError, load_weights
from projects.detr.build import build_model as build_detr
from projects.qpic.convert import qpic_from_detr
from tests.projects.detr.conftest import SMALL_BODY


@pytest.fixture
def detr_state():
    """Weights of a small DETR of so many classes, every number another."""

    def state(num_classes=91):
        torch.manual_seed(0)
        return build_detr(num_classes=num_classes, **SMALL_BODY).state_dict()

    return state


def test_becomes_a_complete_qpic(detr_state, small_qpic, tmp_path):
    converted, _ = qpic_from_detr(detr_state(), num_object_classes=80, num_verb_classes=117)
    torch.save({"model": converted}, tmp_path / "start.pth")
    model = small_qpic(num_object_classes=80, num_verb_classes=117)
    said = load_weights(model, tmp_path / "start.pth")
    assert said.startswith(f"loaded {len(converted)} of {len(converted)} tensors from ")


def test_the_body_stays_and_the_box_head_doubles(detr_state):
    state = detr_state()
    converted, said = qpic_from_detr(state, 80, 117)
    heads = ("class_embed.", "bbox_embed.")
    for name, value in state.items():
        if not name.startswith(heads):
            assert torch.equal(converted[name], value), name
        elif name.startswith("bbox_embed."):
            assert torch.equal(converted[f"sub_{name}"], value), name
            assert torch.equal(converted[f"obj_{name}"], value), name
    assert not [name for name in converted if name.startswith(heads)]
    assert said[0] == f"kept: {len(state) - 8} tensors, 5 queries"


def test_coco_classes_move_to_hico_dets_places(detr_state):
    """By category id: person 1, stop sign 13 (12 was never used), toothbrush 90, no object 91."""
    state = detr_state(91)
    converted, said = qpic_from_detr(state, 80, 117)
    for kind in ("weight", "bias"):
        head = converted[f"obj_class_embed.{kind}"]
        assert len(head) == 81
        for row, category in ((0, 1), (10, 11), (11, 13), (79, 90), (80, 91)):
            assert torch.equal(head[row], state[f"class_embed.{kind}"][category])
    assert "object head: 80 of the 91 classes of DETR, and its 'no object'" in said


def test_as_many_classes_are_the_same_ones_and_others_start_afresh(detr_state):
    state = detr_state(4)
    converted, said = qpic_from_detr(state, 4, 6)
    assert torch.equal(converted["obj_class_embed.weight"], state["class_embed.weight"])
    assert "object head: 4 of the 4 classes of DETR (taken to be the same ones)" in said[2]
    converted, said = qpic_from_detr(detr_state(5), 4, 6)
    assert converted["obj_class_embed.weight"].shape == (5, 32)
    assert "initialised anew, for the 5 classes of this DETR are others" in said[2]


def test_fresh_heads_follow_from_the_seed_alone(detr_state):
    state = detr_state(5)
    before = torch.get_rng_state()
    first, second, other = (
        qpic_from_detr(state, 4, 600, seed)[0]["verb_class_embed.weight"] for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    bound = 32**-0.5  # as nn.Linear draws them
    assert first.abs().max() < bound
    assert first.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_other_weights_are_refused(detr_state, small_qpic):
    state = detr_state()
    del state["class_embed.weight"]
    with pytest.raises(UserError, match=r"not the weights of a DETR: there is no class_embed\.w"):
        qpic_from_detr(state, 80, 117)
    with pytest.raises(UserError, match="they are QPIC's already"):
        qpic_from_detr(small_qpic().state_dict(), 80, 117)

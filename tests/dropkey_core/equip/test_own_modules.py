"""``DropKey`` modules inside attention that is written out, under ``apply_dropkey`` and its kin."""

import pytest
import torch
from torch import nn

from dropkey_core import (
    DropKey,
    Expected,
    MultiheadAttention,
    apply_dropkey,
    check_dropkey,
    remove_dropkey,
    set_drop_ratio,
    set_inference,
)
from dropkey_core.equip.recognition import find_attention


class WrittenOutAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.drop_key = DropKey(0.5)

    def forward(self, x):
        query, key, value = self.qkv(x).chunk(3, -1)
        return self.drop_key(query @ key.mT).softmax(-1) @ value


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(WrittenOutAttention(), WrittenOutAttention())

    def forward(self, x):
        return self.blocks(x)


def ratios(model):
    return [block.drop_key.drop_ratio for block in model.blocks]


def test_it_is_found_in_place_of_the_attention_around_it(recwarn):
    found, left_out = find_attention(Model())
    assert list(found) == ["blocks.0.drop_key", "blocks.1.drop_key"] and not left_out
    report = apply_dropkey(Model(), 0.4)
    assert [site.name for site in report.equipped] == list(found) and not recwarn.list


def test_ratios_are_spread_and_come_back():
    model = Model()
    set_drop_ratio(model, 0.6)  # without apply_dropkey, too
    assert ratios(model) == [0.6, 0.3]
    apply_dropkey(model, 0.4)
    assert ratios(model) == [0.4, 0.2]
    set_drop_ratio(model, 0.3, "constant")
    assert ratios(model) == [0.3, 0.3]
    remove_dropkey(model)
    assert ratios(model) == [0.6, 0.3]


def test_what_it_cannot_do_is_refused_before_anything_changes():
    model = Model()
    with pytest.raises(ValueError, match="before the softmax"):
        apply_dropkey(model, 0.3, unit="weight")
    with pytest.raises(ValueError, match=r"blocks\.0\.drop_key and 1 more"):
        set_inference(model, Expected())
    set_inference(model, None)
    assert ratios(model) == [0.5, 0.5] and "inference" not in vars(model.blocks[0].drop_key)


def test_check_tells_the_share_of_lost_keys():
    torch.manual_seed(0)
    check = check_dropkey(Model(), torch.randn(2, 60, 16))
    assert [site.num_calls for site in check.sites] == [1, 1]
    assert [site.lost for site in check.sites] == pytest.approx([0.5, 0.5], abs=0.02)
    assert not check.uncovered and check.evaluation_difference == 0.0


def test_check_sees_a_second_softmax_that_it_does_not_cover():
    class WithPooling(Model):
        def forward(self, x):
            x = self.blocks(x)
            return (x @ x.mT).softmax(-1) @ x

    check = check_dropkey(WithPooling(), torch.randn(2, 6, 16))
    assert [(x.name, x.shape) for x in check.uncovered] == [("", (2, 6, 6))]


def test_attention_with_dropout_of_weights_keeps_it():
    model = nn.Sequential(*(MultiheadAttention(16, 2, dropout=p) for p in (0.1, 0.0, 0.0)))
    set_drop_ratio(model, 0.2)
    assert [module.drop_ratio for module in model] == [0.0, 0.2, 0.1]
    with pytest.raises(ValueError, match="all its attention has dropout"):
        set_drop_ratio(model[:1], 0.2)

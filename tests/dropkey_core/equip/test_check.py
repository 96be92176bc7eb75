"""``check_dropkey`` on models with faults that it has to see, and on sound ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dropkey_core import Expected, apply_dropkey, check_dropkey, set_inference
from dropkey_core.equip.check import UncoveredAttention
from dropkey_core.equip.equipped import EquippedAttention

WIDTH = 8


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.softmax = nn.Softmax(-1)

    def forward(self, x, mask=0.0):
        q, k, v = self.qkv(x).unflatten(-1, (2, -1)).transpose(-3, -2).chunk(3, -1)
        weights = self.softmax(q @ k.mT + mask)
        return F.dropout(weights, 0.3, self.training).matmul(v).transpose(-3, -2).flatten(-2)


def fused(attention, x):
    return F.scaled_dot_product_attention(*attention.qkv(x).chunk(3, -1))


class Model(nn.Module):
    """Attention that runs in another order than it was registered in, one of it twice."""

    def __init__(self):
        super().__init__()
        self.second, self.first, self.idle = (SelfAttention() for _ in range(3))
        self.norm = nn.BatchNorm1d(WIDTH)
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x, mask=0.0):
        x = x + self.first(x, mask)
        x = x + self.second(self.second(x, mask), mask)
        x = self.norm(x.mT).mT + torch.rand(())
        return {"tokens": [x], "classes": self.head(x[:, 0]).softmax(-1)}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


def inputs(tokens=40):
    torch.manual_seed(1)
    return torch.randn(4, tokens, WIDTH)


def by_name(check):
    return {site.name: site for site in check.sites}


def test_sites_come_in_order_of_execution_with_the_share_of_lost_keys(model):
    """Masked keys do not count, nor the dropout that is there without DropKey, nor a reweigh."""
    apply_dropkey(model, lambda name: {"first": 0.4, "second": 0.1, "idle": 0.2}[name])
    mask = torch.zeros(40, 40).masked_fill(torch.arange(40) >= 30, -torch.inf)
    model.first.reweigh = lambda weights: weights + 0.1  # so that none is 0
    check = check_dropkey(model, inputs(), mask=mask)
    assert [(site.name, site.num_calls) for site in check.sites] == [
        ("first", 1),
        ("second", 2),
        ("idle", 0),
    ]
    first, second, idle = check.sites
    assert first.lost == pytest.approx(0.4, abs=0.03)  # of 6,700 keys: 5 standard deviations
    assert second.lost == pytest.approx(0.1, abs=0.015)  # of 13,400
    assert idle.lost is None
    assert check.uncovered == ()


def test_no_trace_is_left(model):
    apply_dropkey(model, 0.4)
    state = {name: x.clone() for name, x in model.state_dict().items()}
    attributes = [dict(vars(module)) for module in model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    torch.manual_seed(3)
    check_dropkey(model.train(), inputs())
    torch.manual_seed(3)
    assert model.training
    assert all(torch.equal(x, state[name]) for name, x in model.state_dict().items())
    assert [vars(m).keys() for m in model.modules()] == [x.keys() for x in attributes]
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert [vars(m).get("drop_ratio") for m in model.modules()] == [
        x.get("drop_ratio") for x in attributes
    ]


@pytest.mark.filterwarnings("error")
def test_the_first_training_forward_is_still_watched_for_afterwards(model):
    apply_dropkey(model, 0.4)
    check_dropkey(model, inputs())
    with pytest.warns(UserWarning, match="reached no attention in idle"):
        model.train()(inputs())


def test_attention_that_trains_in_another_kernel_is_an_error_after_a_check_too():
    """As on a GPU, where a module may call flash-attn; here it does so in float64."""

    class KernelAttention(SelfAttention):
        def forward(self, x, mask=0.0):
            has_kernel = x.dtype == torch.float64
            return 2 * self.qkv(x) if has_kernel else super().forward(x, mask)

    model = nn.Sequential(KernelAttention(), nn.Identity())
    apply_dropkey(model, 0.4)
    check = check_dropkey(model, inputs(5))
    assert by_name(check)["0"].lost > 0.0
    model.double()
    with pytest.raises(RuntimeError, match="flash-attn"):
        model(inputs(5).double())


def test_attention_that_no_site_covers_is_told_with_its_module():
    """What select refused, what a function computes, and what an instance's forward hides."""
    model = nn.Sequential(SelfAttention(), SelfAttention(), SelfAttention())
    apply_dropkey(model, 0.4, select=lambda name, _: name != "0")
    attention = model[1]
    attention.forward = lambda x: fused(attention, x)
    check = check_dropkey(model, inputs(5))
    assert check.uncovered == (
        UncoveredAttention("0.softmax", "Softmax", "softmax", (4, 2, 5, 5), 1),
        UncoveredAttention("1", "SelfAttention", "scaled_dot_product_attention", (4, 5, 5), 1),
    )
    assert {name: site.num_calls for name, site in by_name(check).items()} == {"1": 1, "2": 1}
    assert by_name(check)["1"].lost is None
    assert by_name(check)["2"].lost > 0.0


def test_torchs_own_attention_and_softmaxes_over_other_axes_are_told():
    class Unlike(nn.Module):
        def forward(self, x):
            return x + x.softmax(1) + x[0, :5, :5].softmax(-1).sum() + x[0, 0].softmax(-1)

    model = nn.TransformerDecoderLayer(WIDTH, 2, 8, batch_first=True)
    model.norm3 = Unlike()
    apply_dropkey(model, 0.4, select=lambda name, _: name == "self_attn")
    found = check_dropkey(model, inputs(6), inputs(7)).uncovered
    assert [(x.name, x.function, x.shape) for x in found] == [
        ("multihead_attn", "multi_head_attention_forward", (4, 2, 6, 7)),
        ("norm3", "softmax over axis 1", (4, 6, WIDTH)),
        ("norm3", "softmax", (5, 5)),
    ]


def test_evaluation_that_differs_is_told(model, monkeypatch):
    apply_dropkey(model, 0.4)
    set_inference(model, Expected())
    assert 0.0 < check_dropkey(model, inputs()).evaluation_difference < 1.0
    set_inference(model, None)
    forward = EquippedAttention.forward
    monkeypatch.setattr(
        EquippedAttention, "forward", lambda self, *args: forward(self, *args) + 0.5
    )
    assert check_dropkey(model, inputs()).evaluation_difference > 0.1


def test_the_table():
    torch.manual_seed(0)
    model = Model()
    apply_dropkey(model, 0.4, select=lambda name, _: name != "second")
    lines = str(check_dropkey(model, inputs())).splitlines()
    first = lines.pop(2)
    assert first.split()[:4] == ["first", "SelfAttention", "1", "0.4000"]
    assert 0.3 < float(first.split()[4]) < 0.5
    assert lines == [
        "DropKey: 1 of 2 attention modules called",
        "  attention  class          calls  drop_ratio  lost keys",
        "  idle       SelfAttention  0      0.2000      not called",
        "Evaluation: equal to the model without DropKey, to the last bit",
        "Attention that drops no keys: 1",
        "  second.softmax  Softmax  softmax  (4, 2, 40, 40)  2x",
    ]

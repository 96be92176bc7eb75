"""The class of equipped modules beside what else is done to a module, its class and its weights."""

import copy
import types
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from dropkey_core.attention import MultiheadAttention
from dropkey_core.equip.apply import apply_dropkey, remove_dropkey, set_inference
from dropkey_core.equip.equipped import EquippedAttention
from tests.dropkey_core.toys import (
    WIDTH,
    ExplicitAttention,
    FusedAttention,
    SelfAttention,
    drops,
    each_copy,
    seeded,
)

X = torch.randn(2, 5, WIDTH)


def doubled(self, x):
    return 2 * SelfAttention.forward(self, x)


# --- forward on the instance ---


def test_forward_of_the_instance_drops_and_comes_back():
    attention = SelfAttention()
    attention.forward = own = types.MethodType(doubled, attention)
    expected = attention(X)
    apply_dropkey(attention, 0.5)
    assert drops(attention, X)
    plain = SelfAttention()
    plain.load_state_dict(attention.state_dict())
    apply_dropkey(plain, 0.5)
    assert torch.equal(seeded(attention, X), 2 * seeded(plain, X))
    assert torch.equal(attention.eval()(X), expected)
    remove_dropkey(attention)
    assert vars(attention)["forward"] == own
    assert torch.equal(attention.train()(X), expected)


@each_copy
def test_copies_have_a_forward_of_their_own(duplicate):
    attention = SelfAttention()
    attention.forward = types.MethodType(doubled, attention)
    apply_dropkey(attention, 0.5)
    twin = duplicate(attention)
    nn.init.zeros_(attention.qkv.weight)
    assert drops(twin, X)
    remove_dropkey(twin)
    assert twin.forward.__self__ is twin and twin.forward.__func__ is doubled


@pytest.mark.parametrize("need_weights", [True, False])
def test_forward_of_the_instance_of_torchs_attention(need_weights):
    """It calls ``multi_head_attention_forward``, whose softmax and dropout are torch's."""
    attention = nn.MultiheadAttention(WIDTH, 2, dropout=0.9, batch_first=True)
    twin = copy.deepcopy(attention)
    attention.forward = types.MethodType(nn.MultiheadAttention.forward, attention)
    outputs = []
    for module in (attention, twin):
        apply_dropkey(module, 0.5)
        outputs.append(seeded(lambda m=module: m(X, X, X, need_weights=need_weights)))
    torch.testing.assert_close(*(output[0] for output in outputs))
    if need_weights:
        torch.testing.assert_close(*(output[1] for output in outputs))


def test_compiled_forward_of_the_instance():
    attention = SelfAttention()
    attention.forward = torch.compile(attention.forward, backend="eager")
    attention(X)
    apply_dropkey(attention, 0.5)
    torch.manual_seed(0)
    assert not torch.allclose(attention(X), attention(X))
    torch._dynamo.reset()


def test_forward_of_the_class_that_is_put_back_does_not_hide_ours():
    """What accelerate does when it takes its hooks away, and who patches after equipping."""
    attention = SelfAttention()
    kept = attention.forward
    attention.forward = types.MethodType(doubled, attention)
    apply_dropkey(attention, 0.5)
    attention.forward = kept
    assert "forward" not in vars(attention) and drops(attention, X)


def test_a_forward_that_was_kept_outlives_removing():
    for attention, args in ((SelfAttention(), [X]), (nn.MultiheadAttention(WIDTH, 2), [X, X, X])):
        expected = attention(*args)
        apply_dropkey(attention, 0.5)
        kept = attention.forward
        remove_dropkey(attention)
        torch.testing.assert_close(kept(*args), expected)


# --- classes of other libraries on top ---


@pytest.mark.parametrize("make", [SelfAttention, lambda: nn.MultiheadAttention(WIDTH, 2)])
def test_a_parametrization_stays_when_dropkey_goes(make):
    attention = make()
    name = "in_proj_weight" if hasattr(attention, "in_proj_weight") else "qkv.weight"
    args = [X] if name == "qkv.weight" else [X, X, X]
    original = type(attention)
    owner = attention.qkv if name == "qkv.weight" else attention
    apply_dropkey(attention, 0.5)
    nn.utils.parametrizations.orthogonal(owner, name.rpartition(".")[2])
    expected = attention.eval()(*args)
    assert drops(lambda: attention.train()(*args)[0])
    remove_dropkey(attention)
    torch.testing.assert_close(attention.eval()(*args), expected)
    assert isinstance(attention, original) and not isinstance(attention, EquippedAttention)
    nn.utils.parametrize.remove_parametrizations(owner, name.rpartition(".")[2])
    assert type(attention) is original
    torch.testing.assert_close(attention(*args), expected)


def test_classes_that_share_one_derived_class_are_undone_one_by_one():
    first, second = SelfAttention(), SelfAttention()
    for attention in (first, second):
        apply_dropkey(attention, 0.5)
    derived = type("Sharded", (type(first),), {"mark": 1})
    first.__class__ = second.__class__ = derived
    remove_dropkey(first)
    assert first.mark == 1 and not isinstance(first, EquippedAttention)
    assert type(second) is derived and drops(second, X)
    assert copy.deepcopy(second).mark == 1


def test_torch_is_told_the_truth_about_its_projections_while_training():
    """Adapters of weights ask for it; in evaluation torch's encoder must not go round inference."""
    attention = nn.MultiheadAttention(WIDTH, 2)
    apply_dropkey(attention, 0.5)
    assert attention.train()._qkv_same_embed_dim and attention.eval()._qkv_same_embed_dim
    set_inference(attention, lambda logits, ratio: logits.softmax(-1))
    assert not attention._qkv_same_embed_dim


# --- recomputation ---


class CheckpointedAttention(SelfAttention):
    def forward(self, x, use_reentrant):
        return checkpoint(super().forward, x, use_reentrant=use_reentrant)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_inside_the_forward_is_refused(use_reentrant):
    attention, x = CheckpointedAttention(), X.clone().requires_grad_()
    apply_dropkey(attention, 0.5)
    with pytest.raises(
        RuntimeError, match=r"CheckpointedAttention checkpoints inside its own forward.*the whole"
    ):
        attention(x, use_reentrant)
    attention.eval()(x, use_reentrant).sum().backward()


# --- nothing to attend to ---


class CrossAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.kv = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, x, context=None, project_first=False):
        q = self.q(x) if project_first else None
        if context is None:
            return (x if q is None else x + 0 * q), None
        return F.scaled_dot_product_attention(self.q(x), *self.kv(context).chunk(2, -1)), None


def test_no_context_in_this_batch():
    attention = CrossAttention()
    apply_dropkey(attention, 0.5)
    assert attention(X)[0] is X
    with pytest.raises(RuntimeError, match="computed neither"):
        attention(X, project_first=True)
    attention(X, X)
    attention(X, project_first=True)  # it has shown that it attends


# --- tracers ---


def test_tracers_are_refused_while_training_with_what_to_do():
    for attention, args in ((SelfAttention(), (X,)), (nn.MultiheadAttention(WIDTH, 2), (X, X, X))):
        apply_dropkey(attention, 0.5)
        for trace in (torch.jit.trace, lambda module, _: torch.jit.script(module)):
            with pytest.raises(RuntimeError, match=r"call remove_dropkey\(model\) first"):
                trace(attention, args)
    model = nn.Sequential(SelfAttention())
    apply_dropkey(model, 0.5)
    with pytest.raises(RuntimeError, match=r"call remove_dropkey\(model\) first"):
        torch.fx.symbolic_trace(model)
    assert torch.equal(torch.fx.symbolic_trace(model.eval())(X), model(X))


# --- softmaxes beside attention ---


class AttentionWithPooling(nn.Module):
    """Attention over keys, after its tokens were pooled by a gate over another axis."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        x = self.layer(x)
        x = x.unflatten(1, (-1, 2))
        x = (x * x.softmax(2)).sum(2)
        return (x @ x.mT).softmax(-1) @ x


def test_a_softmax_over_another_axis_beside_attention_is_told_once():
    torch.manual_seed(0)
    attention = AttentionWithPooling()
    apply_dropkey(attention, 0.5)
    x = torch.randn(2, 8, 4)
    with pytest.warns(UserWarning, match="AttentionWithPooling drops keys, and besides takes a"):
        torch.manual_seed(1)
        first = attention(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.manual_seed(2)
        assert not torch.allclose(attention(x), first)


# --- other weights between softmax and values ---


class Halve(nn.Module):
    """Gives key 0 half of what every other key has; a parameter says how much."""

    def __init__(self):
        super().__init__()
        self.share = nn.Parameter(torch.tensor(0.5))

    def forward(self, weights):
        others = weights * self.share
        return torch.cat(((1 - self.share) + others[..., :1], others[..., 1:]), -1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [FusedAttention, ExplicitAttention])
def test_other_weights_average_the_values(kind, training):
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    attention = kind().train(training)
    apply_dropkey(attention, 0.0)
    attention.reweigh = Halve().double()
    plain = (x @ x.mT / 2).softmax(-1) @ x
    torch.testing.assert_close(attention(x), 0.5 * plain + 0.5 * x[..., :1, :])


@pytest.mark.parametrize("make", [MultiheadAttention, nn.MultiheadAttention])
def test_other_weights_in_multi_head_attention(make):
    torch.manual_seed(0)
    attention = make(8, 2, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        attention.in_proj_bias.normal_()
        attention.out_proj.weight.copy_(torch.eye(8))
    plain, before = attention(x, x, x, need_weights=True, average_attn_weights=False)
    apply_dropkey(attention, 0.0)
    attention.reweigh = Halve()
    output, none = attention(x, x, x, need_weights=False)
    first_value = F.linear(x[:, :1], attention.in_proj_weight[16:], attention.in_proj_bias[16:])
    assert none is None
    torch.testing.assert_close(output, 0.5 * plain + 0.5 * first_value)
    weights = attention(x, x, x, average_attn_weights=False)[1]
    torch.testing.assert_close(weights, Halve()(before))


def test_parameters_of_reweigh_are_part_of_the_model():
    attention = FusedAttention()
    apply_dropkey(attention, 0.2)
    attention.reweigh = Halve()
    assert list(attention.state_dict()) == ["reweigh.share"]
    attention(torch.randn(1, 2, 5, 4)).sum().backward()
    assert attention.reweigh.share.grad.abs() > 0
    twin = copy.deepcopy(attention)
    assert twin.reweigh is not attention.reweigh
    apply_dropkey(attention, 0.4)  # another ratio leaves it alone
    assert attention.drop_ratio == 0.4 and isinstance(attention.reweigh, Halve)
    remove_dropkey(attention)
    assert list(attention.state_dict()) == [] and type(attention) is FusedAttention


def test_vanilla_dropout_stays_where_no_key_is_dropped():
    attention, seen = SelfAttention(dropout=0.5), []
    apply_dropkey(attention, 0.0)
    attention.reweigh = lambda weights: seen.append(weights) or weights
    attention(X)
    assert (seen[0] == 0).any()
    attention.eval()(X)
    assert not (seen[1] == 0).any()

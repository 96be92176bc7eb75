"""The warning about attention that the first training forward does not reach."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dropkey_core.equip.apply import apply_dropkey, remove_dropkey, set_drop_ratio
from tests.dropkey_core.toys import WIDTH, compiles_whole, each_copy


class PartedAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.proj(F.scaled_dot_product_attention(*self.qkv(x).chunk(3, -1)))


class Stack(nn.Module):
    """Calls the attention of its blocks, or uses its parts as some blocks of diffusion models."""

    def __init__(self, depth=2):
        super().__init__()
        self.blocks = nn.ModuleList(PartedAttention() for _ in range(depth))
        self.bypassed = ()

    @staticmethod
    def bypass(block, x):
        return block.proj(block.qkv(x).chunk(3, -1)[2])

    def forward(self, x):
        for number, block in enumerate(self.blocks):
            used = self.bypass if number in self.bypassed else PartedAttention.__call__
            x = used(block, x)
        return x


def equipped(bypassed=(), **settings):
    model = Stack(**settings)
    model.bypassed = bypassed
    apply_dropkey(model, 0.5, "constant")
    return model


X = torch.randn(2, 5, WIDTH)


@pytest.fixture
def silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_attention_that_is_not_reached_is_told_once_by_name():
    model = equipped(bypassed=(1,))
    with pytest.warns(UserWarning, match=r"forward of Stack reached no attention in blocks\.1, so"):
        model(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(X)
    assert not model._forward_hooks


def test_many_names_are_counted():
    model = equipped(bypassed=range(10), depth=10)
    with pytest.warns(UserWarning, match=r"blocks\.7 and 2 more, so"):
        model(X)


@each_copy
def test_copies_tell_of_their_own(duplicate):
    model = equipped(bypassed=(0,))
    twin = duplicate(model)
    twin.bypassed = (1,)
    for each, name in ((twin, 1), (model, 0)):
        with pytest.warns(UserWarning, match=rf"in blocks\.{name}, so"):
            each(X)
        assert not each._forward_hooks


def test_attention_that_is_reached_is_not_told(silent):
    model = equipped()
    model(X)
    assert not model._forward_hooks


def test_evaluation_and_forwards_without_gradients_do_not_count(silent):
    model = equipped(bypassed=(0,))
    model.eval()(X)
    with torch.no_grad():
        model.train()(X)
    assert model._forward_hooks


def test_a_stack_that_does_not_run_is_not_told(silent):
    model = nn.ModuleDict({"a": Stack(), "b": Stack()})
    model.forward = lambda x: model["a"](x)
    apply_dropkey(model, 0.5)
    model(X)


def test_a_ramp_that_begins_at_0_is_waited_for():
    model = equipped(bypassed=(1,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_drop_ratio(model, 0.0)
        model(X)
    set_drop_ratio(model, 0.1)
    with pytest.warns(UserWarning, match=r"reached no attention in blocks\.1"):
        model(X)


def test_attention_without_a_ratio_is_not_told(silent):
    model = equipped(bypassed=(0,))
    model.blocks[0].drop_ratio = 0.0
    model(X)


def test_parts_that_run_compiled_are_not_told(silent):
    model = equipped()
    model.blocks[0].compile(backend="eager")
    model(X)
    torch._dynamo.reset()


def test_nothing_is_left_by_removing_or_equipping_anew(silent):
    model = equipped(bypassed=(0,))
    apply_dropkey(model, 0.5, select=lambda name, _: name == "blocks.1")
    assert len(model._forward_hooks) == 1
    remove_dropkey(model)
    assert not model._forward_hooks
    model(X)


@pytest.mark.slow
@compiles_whole
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_whole(silent, dynamic):
    model = equipped()
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=dynamic)
    assert not torch.equal(compiled(X), compiled(X))
    torch._dynamo.reset()

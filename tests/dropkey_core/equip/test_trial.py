"""Trial runs leave no trace."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from dropkey_core.equip.trial import trial


def seed():
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002 - the state that old code shares


def numbers():
    return torch.rand(()).item(), random.random(), np.random.rand()  # noqa: NPY002


class Restless(nn.Module):
    """Changes everything that a run may change."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("cache", torch.zeros(2))
        self.register_buffer("none", None)

    def forward(self, x):
        self.cache = self.norm(x)[0].detach()  # another tensor in its place
        self.none = torch.ones(1)
        self.register_buffer("new", torch.ones(1))
        return x + sum(numbers())


@pytest.mark.parametrize("training", [True, False])
def test_buffers_modes_and_random_states_are_put_back(training):
    model = Restless()
    model.norm.eval()
    buffers = {name: x.clone() for name, x in model.named_buffers()}
    tensors = dict(model.named_buffers())
    seed()
    expected = numbers()
    seed()
    with trial(model, training):
        assert model.training is model.norm.training is training
        assert not model(torch.randn(5, 2, requires_grad=True)).requires_grad
    assert model.training and not model.norm.training
    assert numbers() == expected
    assert {name: id(x) for name, x in model.named_buffers()} == {
        name: id(x) for name, x in tensors.items()
    }
    assert all(torch.equal(x, buffers[name]) for name, x in model.named_buffers())
    assert model.none is None


def test_a_run_that_fails_is_undone_too():
    model = Restless()
    with pytest.raises(RuntimeError), trial(model, training=False):
        model(torch.ones(2, 3))
    assert model.training

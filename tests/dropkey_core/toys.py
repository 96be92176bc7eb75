"""Small attention modules, and what is often asked of them."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

WIDTH, HEADS = 8, 2


class FusedAttention(nn.Module):
    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x)


class ExplicitAttention(nn.Module):
    def forward(self, x):
        return (x @ x.mT * x.shape[-1] ** -0.5).softmax(-1) @ x


class SelfAttention(nn.Module):
    """Attention as people write it, fused or explicit, with dropout of weights and outputs."""

    def __init__(self, fused=True, dropout=0.0, output_dropout=0.0):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.attn_drop = nn.Dropout(dropout)
        self.proj_drop = nn.Dropout(output_dropout)
        self.fused = fused

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        if self.fused:
            dropout = self.attn_drop.p if self.training else 0.0
            x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        else:
            weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1)
            x = self.attn_drop(weights) @ v
        return self.proj_drop(x.transpose(1, 2).flatten(2))


def pickled(module):
    return pickle.loads(pickle.dumps(module))


def saved(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


compiles_whole = pytest.mark.skipif(
    torch.__version__ < (2, 10), reason="torch 2.7 cannot, 2.10 was seen to"
)
each_copy = pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled, saved])


def seeded(run, *args, seed=3):
    torch.manual_seed(seed)
    return run(*args)


def output_and_gradients(output, inputs):
    """Return the output, and the gradients of random multiples of its entries."""
    factors = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).to(output)
    return [output, *torch.autograd.grad(output, inputs, factors)]


def drops(run, *args):
    """Return whether equal seeds give equal outputs, and other seeds others."""
    first, again, other = (seeded(run, *args, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    return not torch.equal(first, other)

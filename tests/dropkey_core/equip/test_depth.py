"""Stacks and layers of attention, as ``depth`` tells them apart."""

import pytest
from torch import nn

from dropkey_core.equip.depth import block_around, layers_of_stacks


class Branch(nn.Module):
    """A module with the given children and no order among them."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def attention():
    return nn.Identity()


def block(*names):
    return Branch(**{name: attention() for name in names or ("attn",)})


def blocks(number, *names):
    return nn.ModuleList(block(*names) for _ in range(number))


MODELS = {
    "one list": (
        Branch(blocks=blocks(2)),
        {"": [["blocks.0.attn"], ["blocks.1.attn"]]},
    ),
    "stages of blocks, then other blocks": (
        Branch(stages=nn.Sequential(nn.Identity(), blocks(1), blocks(2)), post=blocks(1)),
        {"": [["stages.1.0.attn"], ["stages.2.0.attn"], ["stages.2.1.attn"], ["post.0.attn"]]},
    ),
    "encoder and decoder": (
        Branch(encoder=Branch(layers=blocks(2)), decoder=Branch(layers=blocks(1, "own", "cross"))),
        {
            "encoder": [["encoder.layers.0.attn"], ["encoder.layers.1.attn"]],
            "decoder": [["decoder.layers.0.own", "decoder.layers.0.cross"]],
        },
    ),
    "deep inside a layer": (
        Branch(layer=nn.ModuleDict({"first": Branch(a=Branch(b=attention()))})),
        {"": [["layer.first.a.b"]]},
    ),
    "pooling after the blocks": (
        Branch(vit=Branch(blocks=blocks(1), pool=Branch(attn=attention()))),
        {"vit": [["vit.blocks.0.attn"], ["vit.pool.attn"]]},
    ),
    "no container": (
        Branch(first=block(), second=block()),
        {"": [["first.attn"], ["second.attn"]]},
    ),
    "the model is a container": (
        nn.Sequential(block(), block()),
        {"": [["0.attn"], ["1.attn"]]},
    ),
    "the model is attention": (attention(), {"": [[""]]}),
}


@pytest.mark.parametrize("model", MODELS)
def test_stacks_and_layers(model):
    model, expected = MODELS[model]
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Identity) and n != "stages.0"]
    assert layers_of_stacks(model, names) == expected


def test_only_the_names_given_are_layers():
    model = Branch(blocks=blocks(3))
    names = ["blocks.0.attn", "blocks.2.attn"]
    assert layers_of_stacks(model, names) == {"": [[name] for name in names]}


def test_block_around_attention():
    block = nn.ModuleDict({"attn": nn.Identity()})
    wrapped = nn.Module()
    wrapped.attn = nn.Identity()
    model = nn.Module()
    model.stem = wrapped
    model.stages = nn.ModuleList([nn.Sequential(wrapped)])
    model.named = block
    assert block_around(model, "stages.0.0.attn") == "stages.0.0"
    assert block_around(model, "named.attn") == "named.attn"
    assert block_around(model, "stem.attn") is None

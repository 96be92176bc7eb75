"""Stacks and layers of attention, as ``depth`` tells them apart."""

import pytest
import torch
from torch import nn

from dropkey_core.equip.depth import block_around, first_calls, layers_of_stacks


class Branch(nn.Module):
    """A module with the given children and no order among them."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def attention():
    return nn.Identity()


def feed_forward():
    return nn.Linear(2, 2)


def parts(*children):
    """A layer that is a list of its parts, each with a norm before it."""
    return nn.ModuleList(Branch(norm=nn.LayerNorm(2), part=child) for child in children)


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
    "layers that are lists": (
        Branch(
            layers=nn.ModuleList(parts(attention(), attention(), feed_forward()) for _ in range(2))
        ),
        {"": [[f"layers.{i}.{j}.part" for j in range(2)] for i in range(2)]},
    ),
    "layers that hold a list": (
        Branch(
            block=nn.ModuleList(
                Branch(layer=nn.ModuleList([attention(), attention(), feed_forward()]))
                for _ in range(2)
            )
        ),
        {"": [[f"block.{i}.layer.{j}" for j in range(2)] for i in range(2)]},
    ),
    "blocks with weights of their own in stages": (
        nn.ModuleList(
            nn.Sequential(
                feed_forward(), *(Branch(a=attention(), mlp=feed_forward()) for _ in "ab")
            )
            for _ in range(2)
        ),
        {"": [[f"{i}.{j}.a"] for i in range(2) for j in (1, 2)]},
    ),
    "a dictionary of an encoder and a decoder": (
        Branch(parts=nn.ModuleDict({"encoder": blocks(2), "decoder": Branch(layers=blocks(1))})),
        {
            "parts.encoder": [["parts.encoder.0.attn"], ["parts.encoder.1.attn"]],
            "parts.decoder": [["parts.decoder.layers.0.attn"]],
        },
    ),
    "the middle of a U-Net": (
        Branch(down=blocks(1), mid=Branch(attentions=blocks(1)), up=blocks(1)),
        {"": [["down.0.attn"], ["mid.attentions.0.attn"], ["up.0.attn"]]},
    ),
    "a stack before that of the module around it": (
        Branch(resampler=Branch(blocks=blocks(1)), layers=blocks(1)),
        {"resampler": [["resampler.blocks.0.attn"]], "": [["layers.0.attn"]]},
    ),
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


class Alternating(nn.Module):
    """Two lists that run by turns, the second first; batch statistics and random numbers."""

    def __init__(self):
        super().__init__()
        self.own, self.cross, self.unused = blocks(2), blocks(2), block()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x, scale=1.0):
        self.counter = torch.rand(())
        for own, cross in zip(self.own, self.cross, strict=True):
            x = own.attn(cross.attn(self.norm(x))) * scale
        return own.attn(x)


RUN = ["cross.0.attn", "own.0.attn", "cross.1.attn", "own.1.attn"]


@pytest.mark.parametrize(
    "inputs", [torch.ones(3, 2), (torch.ones(3, 2), 2.0), {"x": torch.ones(3, 2), "scale": 2.0}]
)
def test_layers_run_in_the_order_of_their_first_calls(inputs):
    model = Alternating()
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Identity)]
    calls = first_calls(model, names, inputs)
    assert calls == RUN
    assert layers_of_stacks(model, calls) == {"": [[name] for name in RUN]}


def test_torchs_encoder_calls_its_attention_in_the_run():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2)
    names = [f"layers.{i}.self_attn" for i in range(2)]
    assert first_calls(encoder, names, torch.randn(1, 3, 4)) == names


def test_inputs_that_do_not_fit_are_an_error_with_the_models_own_words():
    with pytest.raises(ValueError, match=r"Alternating cannot be run .* TypeError: .* dictionary"):
        first_calls(Alternating(), RUN, {"y": torch.ones(3, 2)})


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

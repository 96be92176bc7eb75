"""Before or after ``apply_dropkey``: what people wrap around a model, in both orders.

Each test is a row of docs/before-or-after.md.
"""

import copy

import pytest
import timm
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dropkey_core import apply_dropkey, remove_dropkey
from dropkey_core.equip.equipped import EquippedAttention
from tests.dropkey_core.toys import pickled, saved

BOTH = pytest.mark.parametrize("equip_first", [True, False])


def vit():
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5)
    nn.init.normal_(model.head.weight)
    return model.train()


def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def outputs(run, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        return run(images())


def drops(run):
    """Return whether equal seeds give equal outputs, and other seeds others."""
    first, again, other = (outputs(run, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    return not torch.allclose(first, other)


def wrapped(wrap, equip_first):
    """Return ``wrap`` of an equipped model, or equip what it returns."""
    model = vit()
    if equip_first:
        apply_dropkey(model, 0.5)
    around = wrap(model)
    if not equip_first:
        apply_dropkey(around, 0.5)
    return around


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_weights_are_loaded_in_either_order_and_do_not_carry_it():
    plain, equipped, other = vit(), vit(), vit()
    apply_dropkey(equipped, 0.5)
    plain.load_state_dict(equipped.state_dict(), strict=True)
    equipped.load_state_dict(plain.state_dict(), strict=True)
    other.load_state_dict(equipped.state_dict(), strict=True)
    assert not drops(plain) and not drops(other) and drops(equipped)


def test_from_pretrained_makes_a_model_without_it(tmp_path):
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = BertModel(BertConfig(**sizes, intermediate_size=64, vocab_size=50)).eval()
    tokens = torch.tensor([[4, 5, 6, 7]])
    apply_dropkey(model, 0.5)
    model.save_pretrained(tmp_path)
    loaded = BertModel.from_pretrained(tmp_path).eval()
    assert not any(isinstance(module, EquippedAttention) for module in loaded.modules())
    assert torch.equal(model(tokens).last_hidden_state, loaded(tokens).last_hidden_state)
    assert len(apply_dropkey(loaded, 0.5).equipped) == 2


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("in_place", [True, False])
def test_compile(equip_first, in_place):
    def compiled(model):
        if not in_place:
            return torch.compile(model, backend="eager")
        model.compile(backend="eager")
        return model

    torch._dynamo.reset()
    assert drops(wrapped(compiled, equip_first))
    torch._dynamo.reset()


@pytest.mark.slow
def test_compiling_before_and_running_before():
    torch._dynamo.reset()
    model = vit()
    compiled = torch.compile(model, backend="eager")
    assert not drops(compiled)
    apply_dropkey(model, 0.5)
    assert drops(compiled)
    remove_dropkey(model)
    assert not drops(compiled)
    torch._dynamo.reset()


@BOTH
def test_averaged_weights(equip_first):
    def average(model):
        return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    averaged = wrapped(average, equip_first)
    trained = vit()
    averaged.update_parameters(trained)
    assert torch.equal(averaged.module.head.weight, trained.head.weight)
    assert drops(averaged.train())
    assert not drops(averaged.eval())


def sharded(model):
    for block in model.blocks:
        fully_shard(block.attn)  # swaps the class of the attention itself
    return fully_shard(model)


@BOTH
@pytest.mark.parametrize("wrap", [DistributedDataParallel, sharded])
def test_data_parallel(one_process, wrap, equip_first):
    model = wrapped(wrap, equip_first)
    assert drops(model)
    model(images()).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def prepared(model):
    return pytest.importorskip("accelerate").Accelerator(cpu=True).prepare(model)


@BOTH
@pytest.mark.parametrize("wrap", [copy.deepcopy, pickled, saved, prepared])
def test_copies_and_accelerate(wrap, equip_first):
    assert drops(wrapped(wrap, equip_first))


@BOTH
def test_accelerate_dispatches(equip_first):
    accelerate = pytest.importorskip("accelerate")

    def dispatch(model):
        # What from_pretrained(device_map=...) does on several devices: hooks around every forward.
        return accelerate.dispatch_model(model, {"": "cpu"}, main_device="cpu", force_hooks=True)

    model = wrapped(dispatch, equip_first)
    assert drops(model)
    accelerate.hooks.remove_hook_from_module(model, recurse=True)
    assert drops(model)


@BOTH
def test_low_rank_adapters(equip_first):
    peft = pytest.importorskip("peft")

    def adapt(model):
        config = peft.LoraConfig(r=2, target_modules=["qkv"], init_lora_weights=False)
        return peft.get_peft_model(model, config).train()

    model = wrapped(adapt, equip_first)
    assert drops(model)
    before = outputs(model.eval(), seed=0)
    merged = model.merge_and_unload()
    torch.testing.assert_close(outputs(merged, seed=0), before, atol=1e-4, rtol=1e-4)
    assert drops(merged.train())


def test_tracing_for_inference():
    model = vit().eval()
    apply_dropkey(model, 0.5)
    traced = torch.jit.trace(model, images())
    assert torch.equal(traced(images()), model(images()))


def test_scripting_comes_after_removing():
    model = vit().eval()
    apply_dropkey(model, 0.5)
    with pytest.raises(Exception, match="remove_dropkey"):
        torch.jit.script(model)
    remove_dropkey(model)
    assert torch.equal(torch.jit.script(model)(images()), model(images()))


def test_export_for_inference():
    model = vit().eval()
    apply_dropkey(model, 0.5)
    program = torch.export.export(model, (images(),), strict=False).module()
    torch.testing.assert_close(program(images()), model(images()))

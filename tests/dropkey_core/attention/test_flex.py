"""DropKey by FlexAttention against a dense evaluation of the same hash; the hash's statistics.

Compiled, its forward pass runs on CPU but takes ten seconds to build, and its backward pass needs
CUDA. Uncompiled, torch evaluates the same function of scores and positions, and its derivative,
densely: that is what most tests use.
"""

import math
import os
import subprocess
import sys
import warnings
from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from dropkey_core import drop_key_attention
from dropkey_core.attention import flex, functional
from dropkey_core.attention.flex import HashedKey, flex_drop_key_attention, flex_fits
from dropkey_core.attention.functional import drop_key_softmax
from dropkey_core.attention.masks import additive_mask, draw_seed
from dropkey_core.attention.patterns import Key, MaskDraw
from dropkey_core.attention.places import BeforeSoftmax
from tests.dropkey_core.toys import output_and_gradients

INF = torch.inf
SEED = 0x0123456789ABCDEF
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def hashed_key_mask(shape, drop_ratio, seed, device="cpu"):
    """The dense mask of the same hash."""
    draw = MaskDraw(shape, drop_ratio, seed, torch.device(device))
    return BeforeSoftmax(HashedKey()).mask(draw, torch.float32, None)


def bits_of(shape, seed=SEED):
    words = flex._key_hash(shape, flex._settings(seed, 0.5, torch.device("cpu")))
    return flex._bits(words.factors[..., None], words.offsets[..., None], words.columns)


def assert_equally_frequent(values, count):
    """A chi-square over values in [0, count), within 4.5 standard errors."""
    expected = values.numel() / count
    counts = torch.bincount(values.flatten(), minlength=count).double()
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert abs(chi_square - (count - 1)) < 4.5 * math.sqrt(2 * (count - 1))


# The hash; more of it in test_draw.


def test_threshold_has_no_bias():
    """Of the 2^32 values that the bits may take, that share lies below it."""
    for drop_ratio in (0.0, 0.001, 0.1, 1 / 3, 0.5, 0.999, 1 - 2**-40):
        threshold = flex._settings(SEED, drop_ratio, torch.device("cpu"))[1].item()
        assert abs((threshold + 2**31) / 2**32 - drop_ratio) <= 2**-32
        assert -(2**31) <= threshold < 2**31  # fits the kernel's int32


@pytest.mark.parametrize("seed", [0, 1, -1, SEED])
def test_bits_are_uniform(seed):
    """A chi-square over each pair of bytes: 65,536 bins, 64 entries expected in each."""
    bits = bits_of((2, 4, 512, 1024), seed)
    for shift in (0, 8, 16):
        assert_equally_frequent((bits >> shift) & 0xFFFF, 2**16)


@pytest.mark.parametrize("window", [(1, 12), (12, 1), (2, 6), (3, 4), (4, 3)])
def test_patterns_are_equally_frequent(window):
    """Each of the 4,096 ways to fill a window, at a ratio of a half: a chi-square."""
    rows, columns = window
    bits = (bits_of((2, 2, 1200, 1200)) < 0).long()
    tiles = bits.unfold(2, rows, rows).unfold(3, columns, columns).flatten(-2)
    assert_equally_frequent((tiles << torch.arange(12)).sum(-1), 4096)


@pytest.mark.parametrize("bit", range(64))
def test_each_bit_of_seed_and_position_changes_half_of_all_bits(bit):
    """32 bits and 76 tests: 5.5 standard errors happen once in 10,000 runs."""

    def assert_half(changed, independent):
        shares = ((changed.flatten()[:, None] >> torch.arange(32)) & 1).sum(0) / changed.numel()
        assert (shares - 0.5).abs().max() < 5.5 * 0.5 / math.sqrt(independent)

    shape = (2, 2, 64, 64)
    changed = bits_of(shape) ^ bits_of(shape, SEED ^ (-(2**63) if bit == 63 else 1 << bit))
    assert_half(changed, changed.numel())
    if bit < 12:
        bits = torch.cat((bits_of((1, 1, 64, 4096))[0, 0], bits_of((1, 1, 4096, 64))[0, 0].T))
        changed = bits ^ bits[:, torch.arange(4096) ^ (1 << bit)]
        assert_half(changed, changed.numel() / 2)  # each pair is counted twice


def test_words_wrap_around_on_purpose():
    """The same in Python's unlimited integers, so that no device may do it otherwise."""

    def mix(x):
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            x = (x ^ x >> shift) * factor % 2**32
        return x ^ x >> 16

    def word(position, stream):
        x = position ^ stream << 29
        for half in (SEED % 2**32, SEED >> 32):
            x = mix(mix(x) ^ half)
        return x

    bits = bits_of((2, 3, 4, 5))
    for b, h, q, k in ((0, 0, 0, 0), (1, 0, 3, 2), (1, 2, 3, 4)):
        row = (b * 3 + h) * 4 + q
        x = ((word(row, 1) | 1) * word(k, 3) + word(row, 2)) % 2**32
        assert bits[b, h, q, k].item() % 2**32 == (x ^ x >> 16) * 0x85EBCA6B % 2**32


# Attention.


@pytest.fixture
def uncompiled(monkeypatch):
    """Let torch evaluate flex_attention densely, on CPU, gradients too."""
    torch._dynamo.reset()
    monkeypatch.setattr(flex, "_compiled", lambda function: function)
    torch_flex = pytest.importorskip("torch.nn.attention.flex_attention")
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(torch_flex, "_warn_once", lambda *args, **kwargs: None, raising=False)
    # Tracing each kind of inputs costs more than all that is computed with them.
    monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True, raising=False)


def inputs(num_queries=9, num_keys=12, head_dim=16, value_dim=16, dtype=torch.float32, **where):
    generator = torch.Generator().manual_seed(0)
    shapes = [(num_queries, head_dim), (num_keys, head_dim), (num_keys, value_dim)]
    return [
        torch.randn(2, 3, *shape, generator=generator).to(dtype=dtype, **where).requires_grad_()
        for shape in shapes
    ]


def dense(
    query,
    key,
    value,
    drop_ratio,
    seed=SEED,
    *,
    scale=None,
    attn_mask=None,
    key_padding_mask=None,
    diagonal=None,
    pattern=HashedKey(),  # noqa: B008
):
    """The reference: explicit attention under the dense mask by the same hash."""
    shape = (*query.shape[:-1], key.shape[-2])
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    allowed = additive_mask(attn_mask, key_padding_mask, query.dtype)
    if diagonal is not None:
        late = torch.ones(shape[-2:], device=query.device).tril(diagonal) == 0
        allowed = (0 if allowed is None else allowed) + torch.where(late, -INF, 0.0).to(query)
    draw = MaskDraw(shape, drop_ratio, seed, query.device)
    mask = BeforeSoftmax(pattern).mask(draw, query.dtype, allowed)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return drop_key_softmax((query * scale) @ key.mT + mask, 0.0) @ value


def assert_same(ours, expected, **tolerance):
    for x, y in zip(ours, expected, strict=True):
        torch.testing.assert_close(x, y, **tolerance)


def assert_like_dense(tensors, drop_ratio, *, atol=5e-4, rtol=1e-5, **given):
    """Output and gradients are those of the dense mask in float64; returns them."""
    exact = [x.detach().double().requires_grad_() for x in tensors]
    ours = output_and_gradients(
        flex_drop_key_attention(*tensors, drop_ratio, SEED, **given), tensors
    )
    expected = output_and_gradients(dense(*exact, drop_ratio, **given), exact)
    assert ours[0].dtype == tensors[0].dtype
    assert_same([x.double() for x in ours], expected, atol=atol, rtol=rtol)
    return ours


def padding(*lengths, num_keys=12):
    return torch.arange(num_keys) >= torch.tensor(lengths)[:, None]


def masks_of(num_queries=9, num_keys=12):
    """What a caller may give, for sequences of which one is padded after 5 or 7 keys."""
    some = padding(num_keys, 5, num_keys=num_keys)
    shape = (num_queries, num_keys)
    causal = torch.arange(num_queries)[:, None] + 3 >= torch.arange(num_keys)

    def wave(*shape, ends=9):
        return torch.linspace(-ends, ends, math.prod(shape)).view(shape).sin()

    return {
        "nothing": {},
        "scale": {"scale": 0.7},
        "padding": {"key_padding_mask": some},
        "float padding": {"key_padding_mask": torch.where(some, -INF, 0.5)},
        "bool": {"attn_mask": causal},
        "bool per head": {"attn_mask": wave(1, 3, 1, num_keys, ends=3) > -0.8},
        "bias": {"attn_mask": wave(3, *shape)},
        "bias per query": {"attn_mask": wave(2, 1, num_queries, 1, ends=1)},
        "one number": {"attn_mask": torch.ones(1, 1, 1, 1)},
        "both": {
            "attn_mask": wave(2, 1, *shape),
            "key_padding_mask": padding(7, num_keys, num_keys=num_keys),
        },
        "causal": {"diagonal": 0},
        "causal, lower right": {"diagonal": num_keys - num_queries},
        "causal and padding": {"diagonal": 0, "key_padding_mask": some},
    }


MASKS = masks_of()


@pytest.mark.parametrize("drop_ratio", [0.0, 0.4])
@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
def test_values_and_gradients_are_those_of_the_dense_mask(uncompiled, masks, drop_ratio):
    """Sums of a few terms in float32, of logits up to 10: 5e-6 is some five roundings of those.

    The logits of a query that has lost all its few keys are rounded to 2^-13, its weights too.
    """
    tolerance = 5e-4 if drop_ratio > 0 and masks else 5e-6
    assert_like_dense(inputs(), drop_ratio, atol=tolerance, rtol=1e-5, **masks)


@pytest.mark.parametrize("num_heads", [1, 2, 6])
def test_fewer_heads_of_keys_serve_more_of_queries(uncompiled, num_heads):
    query, key, value = inputs()
    query = torch.cat((query, query + 1), 1).detach().requires_grad_()  # 6 heads
    key, value = (torch.cat((x, -x), 1)[:, :num_heads].detach() for x in (key, value))
    tensors = [query, key.requires_grad_(), value.requires_grad_()]
    assert_like_dense(tensors, 0.4, diagonal=0)


@pytest.mark.parametrize("lengths", [(12, 12), (9, 12)])
def test_keys_that_are_never_dropped(uncompiled, lengths):
    pattern = HashedKey(keep_self=True, num_prefix_tokens=2)
    assert_like_dense(inputs(*lengths), 0.6, pattern=pattern)
    draw = MaskDraw((2, 3, *lengths), 0.6, SEED, torch.device("cpu"))
    spared = torch.arange(12) < 2
    if lengths == (12, 12):
        spared = spared | torch.eye(12, dtype=torch.bool)
    assert torch.equal(pattern.dropped(draw), HashedKey().dropped(draw) & ~spared)


@pytest.mark.parametrize("lengths", [(1, 1), (1, 2), (2, 1), (5, 300), (130, 3), (64, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lengths_and_types(uncompiled, lengths, dtype):
    # 8 roundings of values around 1; in float32, 2^-13 in the logits of queries that lost all keys.
    tensors = inputs(*lengths, value_dim=8, dtype=dtype)
    assert_like_dense(tensors, 0.3, atol=max(8 * torch.finfo(dtype).eps, 5e-4), rtol=0.05)


@pytest.mark.parametrize("num_keys", [1, 2, 3])
def test_a_query_that_would_lose_every_key_keeps_them_all(uncompiled, num_keys):
    tensors = inputs(200, num_keys)
    draw = MaskDraw((2, 3, 200, num_keys), 0.9, SEED, torch.device("cpu"))
    lost_all = HashedKey().dropped(draw).all(-1)
    assert lost_all.double().mean() > 0.5
    out = assert_like_dense(tensors, 0.9, atol=4e-3)[0]  # gradients are sums over 200 queries
    plain = F.scaled_dot_product_attention(*tensors)
    torch.testing.assert_close(out[lost_all], plain[lost_all], atol=5e-4, rtol=0)


def test_it_keeps_only_what_it_may_attend_to(uncompiled):
    """Two keys of 300 are not padding. In a batch like this, a query often loses both."""
    tensors = inputs(50, 300)
    masks = {"key_padding_mask": padding(300, 2, num_keys=300)}
    ours = assert_like_dense(tensors, 0.8, atol=2e-3, rtol=1e-3, **masks)
    assert (ours[2][1, :, 2:] == 0).all()  # gradients of padded keys and values
    assert (ours[3][1, :, 2:] == 0).all()


@pytest.mark.parametrize("smallest", [-1e4, torch.finfo(torch.float32).min])
def test_a_large_negative_bias_forbids_like_minus_infinity(uncompiled, smallest):
    tensors = inputs(50, 20)
    forbidden = torch.arange(20) >= 2
    outputs = [
        flex_drop_key_attention(*tensors, 0.8, SEED, attn_mask=torch.where(forbidden, value, 0.0))
        for value in (smallest, -INF)
    ]
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("spread", [100.0, 1800.0])
def test_a_dropped_key_gets_nothing_however_large_its_logit(uncompiled, spread):
    """Key 0 stands out by that much: a query that loses it attends to key 1 alone."""
    query = torch.ones(1, 1, 400, 16)
    key = torch.tensor([spread, 0.0, -20.0]).view(1, 1, 3, 1).expand(1, 1, 3, 16)
    value = torch.eye(3).view(1, 1, 3, 3)
    weights = flex_drop_key_attention(query, key, value, 0.3, SEED, scale=1 / 16)[0, 0]
    mask = hashed_key_mask((1, 1, 400, 3), 0.3, SEED)[0, 0]
    best = F.one_hot(mask.argmax(-1), 3).float()
    torch.testing.assert_close(weights, best, atol=1e-6, rtol=0)
    assert (weights[:, 1] == 1).any()


def test_a_query_that_may_attend_to_nothing_gives_zeros(uncompiled):
    tensors = inputs()
    masks = {"key_padding_mask": padding(0, 1)}
    attend = partial(flex_drop_key_attention, drop_ratio=0.9, seed=SEED, **masks)
    for x in output_and_gradients(attend(*tensors), tensors):
        assert x.isfinite().all()
        assert (x[0] == 0).all()
    out = attend(*tensors)
    torch.testing.assert_close(out[1], tensors[2][1, :, :1].expand(3, 9, 16))


@pytest.mark.slow
def test_it_is_a_part_of_compiled_code():
    """There the seed comes from torch's generator, and each call has its own."""
    torch._dynamo.reset()
    attend = torch.compile(
        lambda x, ratio: flex_drop_key_attention(
            x, x, torch.eye(200).expand(2, 3, -1, -1), ratio, None
        ),
        backend="eager",
        fullgraph=True,
    )
    x = torch.zeros(2, 3, 200, 16)
    torch.manual_seed(1)
    first, second = attend(x, 0.4), attend(x, 0.4)
    torch.manual_seed(1)
    assert torch.equal(attend(x, 0.4), first)
    assert not torch.equal(first, second)
    for ratio in (0.1, 0.4, 0.7):
        share = (attend(x, ratio) == 0).double().mean().item()
        assert abs(share - ratio) < 4.5 * math.sqrt(ratio * (1 - ratio) / (2 * 3 * 200 * 200))


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__ < (2, 10), reason="torch 2.7 dies of it, 2.15 does not")
def test_compiled_forward_on_cpu():
    """The real thing, as far as a CPU can go: types, masks, seeds and ratios."""
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        pytest.skip("torch compiles FlexAttention for x86 with AVX2 only")
    try:
        torch.compile(torch.sin)(torch.ones(3))
    except Exception as error:
        pytest.skip(f"torch.compile does not work here: {type(error).__name__}")
    torch._dynamo.reset()
    for name, dtype, tolerance in (
        ("nothing", torch.float32, 1e-6),
        ("nothing", torch.bfloat16, 0.02),
        ("bool", torch.float32, 5e-4),  # 2^-13 in the logits, as above
        ("both", torch.float32, 5e-4),
        ("causal, lower right", torch.float32, 5e-4),
    ):
        tensors = [x.detach() for x in inputs(dtype=dtype)]
        for seed, drop_ratio in ((SEED, 0.4), (-5, 0.2)):
            ours = flex_drop_key_attention(*tensors, drop_ratio, seed, **MASKS[name])
            expected = dense(*(x.float() for x in tensors), drop_ratio, seed, **MASKS[name])
            torch.testing.assert_close(ours.float(), expected, atol=tolerance, rtol=1e-3)


@pytest.fixture
def fake_gpu(monkeypatch):
    """Make tensors of a GPU of compute capability 9.0, or as given, that nothing computes with."""

    class Properties:
        major = 9

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(flex, "_HAS_TRITON", True)
    monkeypatch.setattr(flex, "_IS_CHOSEN", True)
    with FakeTensorMode():
        yield Properties


def on_gpu(num_queries=1000, num_keys=1000, head_dim=32, value_dim=32, dtype=torch.bfloat16):
    widths = ((num_queries, head_dim), (num_keys, head_dim), (num_keys, value_dim))
    return [torch.empty(2, 3, *shape, dtype=dtype, device="cuda") for shape in widths]


@pytest.mark.skipif(torch.__version__ < (2, 10), reason="torch 2.7 slices no fake GPU tensor")
def test_where_it_fits(fake_gpu, monkeypatch):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert flex_fits(*on_gpu(dtype=dtype))
    mask = torch.zeros(1000, 1000, device="cuda")
    padding = torch.zeros(2, 1000, device="cuda")
    assert flex_fits(*on_gpu(), attn_mask=mask, key_padding_mask=padding)
    assert not flex_fits(*on_gpu(), attn_mask=mask.requires_grad_())
    for unfit in (
        {"num_queries": 127},
        {"num_keys": 511},
        {"head_dim": 8},
        {"head_dim": 512},
        {"value_dim": 512},
        {"dtype": torch.float64},
    ):
        assert not flex_fits(*on_gpu(**unfit))
    query, key, value = on_gpu()
    assert not flex_fits(*(x.to("cpu") for x in (query, key, value)))
    assert flex_fits(query, key[:, :1], value[:, :1])
    assert not flex_fits(query, key[:, :2], value[:, :2])
    assert not flex_fits(query, key[:1], value[:1])
    assert not flex_fits(query, key, value.half())
    fake_gpu.major = 7
    assert not flex_fits(*on_gpu())
    fake_gpu.major = 9
    monkeypatch.setattr(flex, "_HAS_TRITON", False)
    assert not flex_fits(*on_gpu())


def test_it_is_taken_only_where_it_was_asked_for(fake_gpu, monkeypatch):
    assert flex_fits(*on_gpu())
    monkeypatch.setattr(flex, "_IS_CHOSEN", False)
    assert not flex_fits(*on_gpu())
    assert [flex.is_chosen(value) for value in (None, "", "flex")] == [False, False, True]
    with pytest.raises(
        ValueError, match=r"DROPKEY_BACKEND must be \"flex\" or not set, got 'Flex'"
    ):
        flex.is_chosen("Flex")


@pytest.mark.slow
def test_the_environment_chooses():
    look = "from dropkey_core.attention import flex; print(flex._IS_CHOSEN)"
    environment = os.environ | {flex.BACKEND_VARIABLE: "flex"}
    command = [sys.executable, "-c", look]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.stdout.strip() == "True", ran.stderr


@pytest.fixture
def eager(monkeypatch):
    """Compile the graph, with its guards and their limit, but no kernel; forward on CPU only."""
    torch._dynamo.reset()
    compiled = cache(partial(torch.compile, fullgraph=True, backend="eager", dynamic=False))
    monkeypatch.setattr(flex, "_compiled", compiled)
    monkeypatch.setattr(functional, "flex_fits", lambda *tensors, **masks: True)
    functional._warn_of_dense_masks.cache_clear()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
def test_more_shapes_than_kernels_take_a_dense_mask_of_the_same_keys(eager):
    """One warning, and no error; what has its kernel goes on with it."""

    def attend(length):
        torch.manual_seed(length)
        tensors = [x.detach() for x in inputs(length, length)]
        out = drop_key_attention(*tensors, 0.3)
        torch.manual_seed(length)
        torch.testing.assert_close(out, dense(*tensors, 0.3, draw_seed()), atol=1e-5, rtol=1e-4)

    with torch._dynamo.config.patch(recompile_limit=2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for length in (20, 30):
                attend(length)
        with pytest.warns(UserWarning, match="recompile_limit = 64") as caught:
            for length in (40, 50, 30, 60):
                attend(length)
    assert len([one for one in caught if "dense mask" in str(one.message)]) == 1


def test_a_second_scale_compiles_nothing(eager):
    """A number would have to be the same in every call of a kernel."""
    tensors = [x.detach() for x in inputs(20, 20)]
    attend = partial(flex_drop_key_attention, *tensors, 0.3, SEED)
    attend(scale=0.1)
    with torch.compiler.set_stance("fail_on_recompile"):
        for scale in (0.2, 0.7, None):
            torch.testing.assert_close(
                attend(scale=scale), dense(*tensors, 0.3, scale=scale), atol=1e-5, rtol=1e-4
            )


def test_one_seed_one_mask_with_weights_or_without(uncompiled, monkeypatch):
    """What drop_key_attention does where flex fits: the same numbers, and so the same mask."""
    monkeypatch.setattr(functional, "flex_fits", lambda *tensors, **masks: True)
    tensors, masks = inputs(30, 40), {"key_padding_mask": padding(40, 25, num_keys=40)}
    outputs = []
    for seed, attend in (
        (1, partial(drop_key_attention, drop_ratio=0.3)),
        (1, lambda *x, **masks: drop_key_attention(*x, 0.3, need_weights=True, **masks)[0]),
        (1, lambda *x, **masks: flex_drop_key_attention(*x, 0.3, draw_seed(), **masks)),
        (2, partial(drop_key_attention, drop_ratio=0.3)),
    ):
        torch.manual_seed(seed)
        outputs.append(output_and_gradients(attend(*tensors, **masks), tensors))
    assert_same(outputs[0], outputs[2])
    assert_same(outputs[1], outputs[2], atol=1e-6, rtol=1e-5)
    assert not torch.equal(outputs[0][0], outputs[3][0])
    plain = drop_key_attention(*tensors, 0.3, training=False, **masks)
    torch.testing.assert_close(plain, dense(*tensors, 0.0, **masks))
    for unit in ("weight", "element", Key(shared_over=("heads",))):  # none of its business
        torch.manual_seed(1)
        assert not torch.allclose(
            drop_key_attention(*tensors, 0.3, unit=unit, **masks), outputs[0][0]
        )


def test_masks_of_the_wrong_type_are_refused(uncompiled):
    with pytest.raises(ValueError, match=r"attn_mask must be bool or floating, got torch\.int64"):
        flex_drop_key_attention(*inputs(), 0.3, SEED, attn_mask=torch.ones(9, 12).long())


# On a GPU.


@pytest.fixture
def cuda_inputs(monkeypatch):
    pytest.importorskip("triton")
    torch._dynamo.reset()  # one test has fewer kinds of inputs than torch compiles, all have more
    monkeypatch.setattr(flex, "_IS_CHOSEN", True)
    return partial(inputs, device="cuda")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cuda_values_and_gradients(cuda_inputs, masks, dtype):
    """Against the dense mask in float64; TF32 off, as it is by default."""
    given = masks_of(300, 700)[masks]
    given = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in given.items()}
    tensors, atol = cuda_inputs(300, 700, dtype=dtype), max(16 * torch.finfo(dtype).eps, 2e-3)
    assert_like_dense(tensors, 0.4, atol=atol, rtol=0.05, **given)


@pytest.mark.gpu
@needs_cuda
def test_cuda_hashes_as_the_cpu_does():
    for seed in (SEED, -1):
        here, there = (
            hashed_key_mask((2, 3, 50, 70), 0.4, seed, device=device) for device in ("cpu", "cuda")
        )
        assert torch.equal(here, there.cpu())


@pytest.mark.gpu
@needs_cuda
def test_cuda_where_chosen_stores_no_mask(monkeypatch):
    """A mask of (1, 8, 16384, 16384) in bfloat16 has 4.3 GB; what is stored grows with N only."""

    monkeypatch.setattr(flex, "_IS_CHOSEN", True)

    def peak(length):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        shape = (1, 8, length, 64)
        tensors = [
            torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True)
            for _ in range(3)
        ]
        drop_key_attention(*tensors, 0.3).sum().backward()
        return torch.cuda.max_memory_allocated() - before

    peak(1024)  # compiles
    small, large = peak(8192), peak(16384)
    assert large < 2**29
    assert large < 2.2 * small


@pytest.mark.gpu
@needs_cuda
def test_cuda_seeds_and_checkpointing(cuda_inputs):
    tensors = cuda_inputs(256, 1024)

    def attend(q, k, v):
        return drop_key_attention(q, k, v, 0.4).sin()

    def run(function):
        torch.manual_seed(1)
        return output_and_gradients(function(*tensors), tensors)

    plain = run(attend)
    assert_same(run(partial(checkpoint, attend, use_reentrant=False)), plain)
    assert not torch.equal(attend(*tensors), attend(*tensors))


@pytest.mark.gpu
@needs_cuda
def test_cuda_a_new_seed_ratio_or_third_length_compiles_nothing(cuda_inputs):
    attend = drop_key_attention
    for length in (600, 700):
        attend(*cuda_inputs(length, length), 0.3)
    with torch.compiler.set_stance("fail_on_recompile"):
        for length, drop_ratio in ((600, 0.3), (700, 0.2), (800, 0.1)):
            attend(*cuda_inputs(length, length), drop_ratio)

"""Time and memory of attention that is regularised, beside attention that is not.

The floor is torch's fused attention without any dropping. Contenders get the same queries, keys and
values, laid out as a projection leaves them, and take turns. A second group is whole modules, which
project inputs and outputs as well: ``torch.nn.MultiheadAttention`` and the one of this library, the
same weights, both asked for no attention weights (torch's default, ``need_weights=True``, would be
slower), with a floor of their own.

Shapes: (B, H, N, D) = batch, heads, tokens, head_dim.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropkey_core.attention import MultiheadAttention, drop_key_attention
from dropkey_core.engine.benchmark import MEBIBYTE, Measurement, checked_device, measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

T = TypeVar("T")
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
Steps = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class AttentionShape:
    """Self-attention of one layer.

    Args:
        model: whose it is.
        batch: number of sequences B.
        heads: number of heads H.
        tokens: number of tokens N, queries and keys alike.
        head_dim: width D of a head.
    """

    model: str
    batch: int
    heads: int
    tokens: int
    head_dim: int

    def __str__(self) -> str:
        return f"{self.model}: B{self.batch} H{self.heads} N{self.tokens} D{self.head_dim}"


SHAPES = {
    # Encoder on an image of 800 x 1088 pixels (25 x 34 positions), and on the largest, 1333 x 1333.
    "detr": AttentionShape("DETR", 2, 8, 850, 32),
    "detr-large": AttentionShape("DETR, large image", 2, 8, 1764, 32),
    # First of its three blocks: hidden size 1024; the others have 256 and 128.
    "metro": AttentionShape("METRO", 4, 4, 445, 256),
    "vit": AttentionShape("ViT-S", 8, 6, 197, 64),
    "long": AttentionShape("long", 1, 8, 4096, 32),
}
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}

# A step on a GPU is so short that starting it shows; there one turn is many of them.
CALLS_PER_TURN = {"cpu": 1, "cuda": 20}

# Beyond, a module's projections take next to no time, and the explicit ones are slow to measure.
MOST_TOKENS_OF_MODULES = 2048

# Long shapes get three turns instead of more.
ENOUGH_SECONDS = 10.0

FLOOR = "fused, nothing dropped"
OURS = "DropKey, this library"
MODULE_FLOOR = "nn.MultiheadAttention, nothing dropped"
_COLOURS = ("0.6", "#0072b2", "#e69f00", "#cc3311", "#882255")


@dataclass(frozen=True)
class Result:
    """What the contenders of one group needed at one shape.

    Args:
        shape: the shape.
        forward: measurements of a forward pass that a backward pass could follow.
        training: of a forward and a backward pass. In both, the first contender is the floor.
    """

    shape: AttentionShape
    forward: dict[str, Measurement]
    training: dict[str, Measurement]


def algorithm_1(query: Tensor, key: Tensor, value: Tensor, drop_ratio: float) -> Tensor:
    """DropKey attention as the paper prints it (arXiv 2208.02646, Algorithm 1).

    Args:
        query: (B, H, N, D).
        key: (B, H, N, D).
        value: (B, H, N, D).
        drop_ratio: probability that a query loses a key.
    """
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    ratios = torch.ones_like(logits) * drop_ratio
    # A number that half precision has no room for is its smallest one there.
    logits = logits + torch.bernoulli(ratios) * max(-1e12, torch.finfo(logits.dtype).min)
    return logits.softmax(-1) @ value


def explicit_dropout(query: Tensor, key: Tensor, value: Tensor, drop_ratio: float) -> Tensor:
    """Attention with vanilla dropout of the weights, written out; arguments as ``algorithm_1``."""
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    return F.dropout(logits.softmax(-1), drop_ratio) @ value


def contenders(drop_ratio: float) -> dict[str, Attend]:
    """Return the ways to attend, by name; the first one is the floor."""
    return {
        FLOOR: F.scaled_dot_product_attention,
        OURS: partial(drop_key_attention, drop_ratio=drop_ratio),
        "DropKey, Algorithm 1": partial(algorithm_1, drop_ratio=drop_ratio),
        "dropout, explicit": partial(explicit_dropout, drop_ratio=drop_ratio),
        "dropout, scaled_dot_product_attention": partial(
            F.scaled_dot_product_attention, dropout_p=drop_ratio
        ),
    }


def modules(shape: AttentionShape, drop_ratio: float) -> dict[str, nn.MultiheadAttention]:
    """Return the modules, by name, all with the same weights; the first one is the floor."""
    size = shape.heads * shape.head_dim, shape.heads
    made = {
        MODULE_FLOOR: nn.MultiheadAttention(*size, batch_first=True),
        "MultiheadAttention with DropKey, this library": MultiheadAttention(
            *size, batch_first=True, drop_ratio=drop_ratio
        ),
        "nn.MultiheadAttention, dropout": nn.MultiheadAttention(
            *size, dropout=drop_ratio, batch_first=True
        ),
    }
    for module in made.values():
        module.load_state_dict(made[MODULE_FLOOR].state_dict())
    return made


def benchmark_attention(
    shapes: Sequence[str] | None = None,
    drop_ratio: float = 0.3,
    repeats: int = 5,
    device: str = "cpu",
    dtype: str | None = None,
) -> list[Result]:
    """Measure all contenders, then all modules, at each shape.

    Args:
        shapes: names in ``SHAPES``. None: all of them.
        drop_ratio: probability in (0, 1) that a key, or a weight, is dropped.
        repeats: turns of each contender; three are enough where they take ``ENOUGH_SECONDS``.
        device: ``cpu`` or ``cuda``.
        dtype: name in ``DTYPES``, the floating type of inputs and parameters. None: float32, or
            bfloat16 on a GPU, where flash attention knows no other width.

    Returns:
        one result per shape, and a second one for modules

    Raises:
        UserError: neither cpu nor cuda, or no GPU.
        ValueError: an unknown shape or type, no turns, a ratio outside (0, 1).
    """
    where = checked_device(device)
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    chosen = [_find("shape", name, SHAPES) for name in (SHAPES if shapes is None else shapes)]
    floating_type = _find("dtype", dtype, DTYPES)
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    if not 0.0 < drop_ratio < 1.0:
        raise ValueError(f"drop_ratio must be in (0, 1), got {drop_ratio}")
    results = []
    for shape in chosen:
        groups = [_attention_passes]
        if shape.tokens <= MOST_TOKENS_OF_MODULES:
            groups.append(_module_passes)
        for passes in groups:
            steps = passes(shape, drop_ratio, where, floating_type)
            results.append(_measure(shape, steps, repeats, where))
    return results


def _find(kind: str, name: str, known: Mapping[str, T]) -> T:
    if name not in known:
        raise ValueError(f"{kind} must be one of {', '.join(known)}, got {name!r}")
    return known[name]


def _measure(
    shape: AttentionShape, passes: tuple[Steps, Steps], repeats: int, device: torch.device
) -> Result:
    calls = CALLS_PER_TURN[device.type]
    forward, training = (
        measure(
            {name: _repeat(step, calls) for name, step in steps.items()},
            calls,
            repeats,
            device,
            enough=ENOUGH_SECONDS,
        )
        for steps in passes
    )
    return Result(shape, forward, training)


def _attention_passes(
    shape: AttentionShape, drop_ratio: float, device: torch.device, dtype: torch.dtype
) -> tuple[Steps, Steps]:
    """Forward, and forward and backward, by contender."""
    torch.manual_seed(0)
    size = shape.batch, shape.tokens, shape.heads, shape.head_dim
    qkv = [torch.randn(size, device=device, dtype=dtype).transpose(1, 2) for _ in range(3)]
    gradient = torch.randn(size, device=device, dtype=dtype).transpose(1, 2)
    for x in qkv:
        x.requires_grad_()

    def forward(attend: Attend) -> Callable[[], Any]:
        return lambda: attend(*qkv)

    def training(attend: Attend) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(attend(*qkv), qkv, gradient)

    ways = contenders(drop_ratio)
    return (
        {name: forward(attend) for name, attend in ways.items()},
        {name: training(attend) for name, attend in ways.items()},
    )


def _module_passes(
    shape: AttentionShape, drop_ratio: float, device: torch.device, dtype: torch.dtype
) -> tuple[Steps, Steps]:
    """Forward, and forward and backward, by module."""
    torch.manual_seed(0)
    size = shape.batch, shape.tokens, shape.heads * shape.head_dim
    tokens = torch.randn(size, device=device, dtype=dtype, requires_grad=True)
    gradient = torch.randn(size, device=device, dtype=dtype)

    def forward(module: nn.Module) -> Callable[[], Tensor]:
        return lambda: module(tokens, tokens, tokens, need_weights=False)[0]

    def training(module: nn.Module) -> Callable[[], Any]:
        attend, inputs = forward(module), [tokens, *module.parameters()]
        return lambda: torch.autograd.grad(attend(), inputs, gradient)

    made = {n: m.to(device, dtype).train() for n, m in modules(shape, drop_ratio).items()}
    return (
        {name: forward(module) for name, module in made.items()},
        {name: training(module) for name, module in made.items()},
    )


def _repeat(step: Callable[[], Any], times: int) -> Callable[[], None]:
    def steps() -> None:
        for _ in range(times):
            step()

    return steps


def markdown_table(results: Sequence[Result]) -> str:
    """One row per shape and contender: milliseconds, times the floor (training), peak memory."""
    rows = [
        "| shape | attention | forward, ms | forward + backward, ms | x floor | memory, MiB |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for result in results:
        for name, training in result.training.items():
            cells = (
                str(result.shape),
                name,
                f"{1000 * result.forward[name].seconds_per_item:.1f}",
                f"{1000 * training.seconds_per_item:.1f}",
                f"{_times_the_floor(result.training, name):.2f}",
                "" if training.peak_memory is None else f"{training.peak_memory / MEBIBYTE:.0f}",
            )
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def as_plain_values(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The table's rows with every single time, for a JSON file."""
    return [
        {
            "model": result.shape.model,
            "batch": result.shape.batch,
            "heads": result.shape.heads,
            "tokens": result.shape.tokens,
            "head_dim": result.shape.head_dim,
            "attention": name,
            "pass": part,
            "calls_per_turn": measurement.items,
            "seconds_per_turn": measurement.seconds,
            "seconds_per_call": measurement.seconds_per_item,
            "times_the_floor": _times_the_floor(measurements, name),
            "peak_memory_bytes": measurement.peak_memory,
        }
        for result in results
        for part, measurements in (("forward", result.forward), ("training", result.training))
        for name, measurement in measurements.items()
    ]


def _times_the_floor(measurements: dict[str, Measurement], name: str) -> float:
    floor = next(iter(measurements.values()))
    return floor.speed_over(measurements[name])


def plot(results: Sequence[Result], file: Path) -> None:
    """Draw time (times the floor) and memory of forward and backward, one group per shape.

    Args:
        results: from ``benchmark_attention``; modules are left out.
        file: where to; its suffix decides the format.
    """
    from matplotlib.figure import Figure

    chosen = [result for result in results if FLOOR in result.training]
    names = list(chosen[0].training)
    figure = Figure(figsize=(10, 1.3 + 1.05 * len(chosen)))
    times, memories = figure.subplots(1, 2, sharey=True)
    _draw_bars(
        times,
        [[_times_the_floor(r.training, name) for name in names] for r in chosen],
        lambda value: f"{value:.1f}" if value < 9.95 else f"{value:.0f}",
    )
    _draw_bars(
        memories,
        [[(r.training[name].peak_memory or 0) / MEBIBYTE for name in names] for r in chosen],
        lambda value: f"{value:.0f}",
    )
    times.set_xlabel("time of forward + backward, times the floor")
    memories.set_xlabel("peak memory of forward + backward, MiB")
    labels = [str(r.shape).replace(": ", "\n") for r in chosen]
    times.set_yticks(range(len(chosen)), labels)
    times.margins(x=0.08)
    memories.set(xscale="log", xlim=(1, 2.5 * max(10.0, memories.get_xlim()[1])))
    memories.xaxis.set_major_formatter("{x:g}")
    figure.legend(times.containers, names, loc="upper center", ncols=3, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.55 / figure.get_figheight()))
    figure.savefig(file, dpi=130)


def _draw_bars(panel: "Axes", values: list[list[float]], label: Callable[[float], str]) -> None:
    """Draw a group of bars per list, a colour per place in it, each with its value."""
    num_bars = len(values[0])
    height = 0.84 / num_bars
    for index in range(num_bars):
        bars = panel.barh(
            [group + (index - (num_bars - 1) / 2) * height for group in range(len(values))],
            [max(group[index], 1e-3) for group in values],
            height=0.9 * height,
            color=_COLOURS[index],
        )
        panel.bar_label(bars, [label(group[index]) for group in values], padding=2, fontsize=7)
    panel.set_ylim(len(values) - 0.5, -0.5)
    panel.grid(True, axis="x", color="0.92")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(axis="y", length=0)

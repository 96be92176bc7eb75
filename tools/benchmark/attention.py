#!/usr/bin/env python
"""Benchmark of attention: time and memory of DropKey, dropout and plain attention side by side.

tools/benchmark/attention.py --threads 2
tools/benchmark/attention.py --shapes detr vit --plot attention.svg
tools/benchmark/attention.py --shapes detr --threads 2 --busy 2
tools/benchmark/attention.py --device cuda --dtype bfloat16

The floor is torch's fused attention without any dropping. Contenders get the same queries, keys and
values, laid out as a projection leaves them. A second group is whole modules, which project inputs
and outputs as well, all with the same weights, asked for no attention weights (torch's default,
need_weights=True, would be slower), and with a floor of their own.

On a GPU FlexAttention takes part, whatever DROPKEY_BACKEND says. With --busy N the same is measured
again while N processes spin on each core.

Prints a Markdown table: times are medians, and "x floor" is the median of the ratios within a turn.
Memory is what forward and backward need at their worst moment beyond their inputs; on a GPU all
that is allocated.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads give way

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from report import argument_parser, device, markdown_table, picture, positive, run_benchmark, save
from timing import CPU, MEBIBYTE, Measurement, Results, Step, busy_cores, measure

from dropkey_core.attention import MultiheadAttention, drop_key_attention
from dropkey_core.attention.flex import flex_drop_key_attention
from dropkey_core.attention.masks import draw_seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
# By contender: what it computes, the tensors that get gradients, and the gradient of its output.
Calls = dict[str, tuple[Callable[[], Tensor], Sequence[Tensor], Tensor]]


@dataclass(frozen=True)
class AttentionShape:
    """Self-attention of one layer of a ``model``: B sequences, H heads, N tokens, D = head_dim."""

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
DTYPES = ("float32", "float16", "bfloat16", "float64")
DROP_RATIO = 0.3

# A step on a GPU is so short that starting it shows; there one turn is many of them.
CALLS_PER_TURN = {"cpu": 1, "cuda": 20}

# Beyond, a module's projections take next to no time, and the explicit ones are slow to measure.
MOST_TOKENS_OF_MODULES = 2048

FLOOR = "fused, nothing dropped"
OURS = "DropKey, this library"


def algorithm_1(query: Tensor, key: Tensor, value: Tensor, drop_ratio: float) -> Tensor:
    """DropKey attention as the paper prints it (arXiv 2208.02646, Algorithm 1).

    Queries, keys and values are (B, H, N, D); a query loses a key with probability ``drop_ratio``.
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


def flex(query: Tensor, key: Tensor, value: Tensor, drop_ratio: float) -> Tensor:
    """DropKey by FlexAttention, which compiles a kernel in the first call."""
    return flex_drop_key_attention(query, key, value, drop_ratio, draw_seed())


def contenders(drop_ratio: float, device: torch.device = CPU) -> dict[str, Attend]:
    """Return the ways to attend on ``device``, by name; the first one is the floor."""
    on_gpu = {"DropKey, FlexAttention": partial(flex, drop_ratio=drop_ratio)}
    return {
        FLOOR: F.scaled_dot_product_attention,
        OURS: partial(drop_key_attention, drop_ratio=drop_ratio),
        "DropKey, Algorithm 1": partial(algorithm_1, drop_ratio=drop_ratio),
        "dropout, explicit": partial(explicit_dropout, drop_ratio=drop_ratio),
        "dropout, scaled_dot_product_attention": partial(
            F.scaled_dot_product_attention, dropout_p=drop_ratio
        ),
        **(on_gpu if device.type == "cuda" else {}),
    }


def modules(shape: AttentionShape, drop_ratio: float) -> dict[str, nn.MultiheadAttention]:
    """Return the modules, by name, all with the same weights; the first one is the floor."""
    size = shape.heads * shape.head_dim, shape.heads
    floor = nn.MultiheadAttention(*size, batch_first=True)
    made = {
        "nn.MultiheadAttention, nothing dropped": floor,
        "MultiheadAttention with DropKey, this library": MultiheadAttention(
            *size, batch_first=True, drop_ratio=drop_ratio
        ),
        "nn.MultiheadAttention, dropout": nn.MultiheadAttention(
            *size, dropout=drop_ratio, batch_first=True
        ),
    }
    for module in made.values():
        module.load_state_dict(floor.state_dict())
    return made


def attention_calls(shape: AttentionShape, drop_ratio: float, like: Tensor) -> Calls:
    """All contenders on the same queries, keys and values, of the type and device of ``like``."""
    size = shape.batch, shape.tokens, shape.heads, shape.head_dim
    *qkv, gradient = (like.new_empty(size).normal_().transpose(1, 2) for _ in range(4))
    for x in qkv:
        x.requires_grad_()
    return {
        name: (partial(attend, *qkv), qkv, gradient)
        for name, attend in contenders(drop_ratio, like.device).items()
    }


def module_calls(shape: AttentionShape, drop_ratio: float, like: Tensor) -> Calls:
    """All modules on the same tokens, of the type and device of ``like``."""
    size = shape.batch, shape.tokens, shape.heads * shape.head_dim
    tokens, gradient = (like.new_empty(size).normal_() for _ in range(2))
    tokens.requires_grad_()

    def attend(module: nn.Module) -> Tensor:
        return module(tokens, tokens, tokens, need_weights=False)[0]

    made = modules(shape, drop_ratio)
    return {
        name: (partial(attend, module.to(like).train()), [tokens, *module.parameters()], gradient)
        for name, module in made.items()
    }


def gradients(
    call: Callable[[], Tensor], inputs: Sequence[Tensor], gradient: Tensor
) -> tuple[Tensor, ...]:
    """Forward and backward pass."""
    return torch.autograd.grad(call(), inputs, gradient)


def benchmark_attention(
    shapes: Mapping[str, AttentionShape], repeats: int = 5, like: Tensor | None = None
) -> tuple[Results, Results]:
    """Measure all contenders, then all modules, ``repeats`` times at each shape.

    The tensors have the type and the device of ``like`` (None: float32 on the CPU).

    Returns:
        forward passes that backward passes could follow, and forward and backward passes; by shape
    """
    like = torch.empty(0) if like is None else like
    forward, training = {}, {}
    for shape in shapes.values():
        torch.manual_seed(0)
        groups = {str(shape): attention_calls(shape, DROP_RATIO, like)}
        if shape.tokens <= MOST_TOKENS_OF_MODULES:
            groups[f"{shape}, modules"] = module_calls(shape, DROP_RATIO, like)
        for job, calls in groups.items():
            steps = {name: call for name, (call, *_) in calls.items()}
            forward[job] = _measure(steps, repeats, like)
            steps = {name: partial(gradients, *call) for name, call in calls.items()}
            training[job] = _measure(steps, repeats, like)
    return forward, training


def _measure(steps: Mapping[str, Step], repeats: int, like: Tensor) -> dict[str, Measurement]:
    calls = CALLS_PER_TURN[like.device.type]

    def turn(step: Step) -> None:
        for _ in range(calls):
            step()

    turns = {name: partial(turn, step) for name, step in steps.items()}
    return measure(turns, calls, repeats, like.device)


def table(forward: Results, training: Results) -> str:
    """One row per shape and contender: milliseconds, times the floor (training), peak memory."""
    head = ["shape", "attention", "forward, ms", "forward + backward, ms", "x floor", "memory, MiB"]
    rows = [
        (
            job,
            name,
            f"{1000 * forward[job][name].seconds_per_item:.1f}",
            f"{1000 * measured.seconds_per_item:.1f}",
            f"{next(iter(contenders.values())).speed_over(measured):.2f}",
            measured.memory_text,
        )
        for job, contenders in training.items()
        for name, measured in contenders.items()
    ]
    return markdown_table(head, rows, num_text_columns=2)


def plot(training: Results) -> "Figure":
    """Draw time (times the floor) and memory of forward and backward; modules are left out."""
    from matplotlib.figure import Figure

    jobs = {job: measured for job, measured in training.items() if FLOOR in measured}
    figure = Figure(figsize=(10, 1.3 + 1.05 * len(jobs)))
    times, memories = figure.subplots(1, 2, sharey=True)
    for place, name in enumerate(contenders(DROP_RATIO)):
        heights = [row + 0.17 * place for row in range(len(jobs))]
        slowness = [measured[FLOOR].speed_over(measured[name]) for measured in jobs.values()]
        memory = [(measured[name].peak_memory or 0) / MEBIBYTE for measured in jobs.values()]
        for panel, values, form in ((times, slowness, "{:.1f}"), (memories, memory, "{:.0f}")):
            bars = panel.barh(heights, values, height=0.15, label=name)
            panel.bar_label(bars, fmt=form, padding=2, fontsize=7)
    times.set_yticks([row + 0.34 for row in range(len(jobs))], jobs)
    times.invert_yaxis()
    times.set_xlabel("time of forward + backward, times the floor")
    memories.set(xlabel="peak memory of forward + backward, MiB", xscale="symlog")
    figure.legend(*times.get_legend_handles_labels(), loc="upper center", ncols=3)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.55 / figure.get_figheight()))
    return figure


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    default = "float32" if arguments.device == CPU else "bfloat16"
    like = torch.empty(0, device=arguments.device, dtype=getattr(torch, arguments.dtype or default))
    shapes = {name: SHAPES[name] for name in arguments.shapes}
    forward, training = benchmark_attention(shapes, arguments.repeats, like)
    print(table(forward, training))
    if arguments.busy:
        with busy_cores(arguments.busy) as count:
            busy = table(*benchmark_attention(shapes, arguments.repeats, like))
        print(f"\nThe same beside {count} spinning processes:\n\n{busy}")
    if arguments.plot:
        save(arguments.plot, plot(training))


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's error."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="default: all of them"
    )
    parser.add_argument("--device", type=device, default=CPU, metavar="cpu|cuda")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="default: float32, or bfloat16 on a GPU, whose flash attention knows no wider one",
    )
    parser.add_argument(
        "--busy", type=positive, metavar="N", help="again beside N spinning processes per core"
    )
    parser.add_argument("--plot", type=picture, metavar="FILE", help="draw time and memory there")
    return run_benchmark(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())

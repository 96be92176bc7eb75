#!/usr/bin/env python
"""Measure time and memory of DropKey, dropout and plain attention side by side.

tools/benchmark_attention.py --threads 2
tools/benchmark_attention.py --shapes detr vit --json output/attention.json --plot attention.svg
tools/benchmark_attention.py --device cuda --dtype bfloat16

Prints a Markdown table. Contenders take turns in one process: times are medians, and "x floor" is
the median of the ratios within a turn to the first contender of the group. Memory is what forward
and backward need at their worst moment beyond their inputs; on a GPU all that is allocated.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shapes",
        nargs="+",
        metavar="NAME",
        help="detr, detr-large, metro, vit, long; default: all of them",
    )
    parser.add_argument("--ratio", type=float, default=0.3, metavar="R", help="drop ratio")
    parser.add_argument("--threads", type=int, metavar="N", help="default: torch's")
    parser.add_argument("--device", default="cpu", metavar="cpu|cuda")
    parser.add_argument(
        "--dtype", metavar="TYPE", help="default: float32 on a CPU, bfloat16 on a GPU"
    )
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="turns of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single time there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw time and memory there")
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    import json

    import torch

    from dropkey_core.analysis import attention_benchmark as benchmark
    from dropkey_core.engine.errors import UserError
    from projects.paper.figures.outputs import check_outputs

    if arguments.threads is not None:
        if arguments.threads < 1:
            raise UserError(f"--threads must be at least 1, got {arguments.threads}")
        torch.set_num_threads(arguments.threads)
    try:
        check_outputs(*filter(None, (arguments.json, arguments.plot)))
        results = benchmark.benchmark_attention(
            arguments.shapes,
            arguments.ratio,
            arguments.repeats,
            arguments.device,
            arguments.dtype,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    if arguments.json:
        arguments.json.write_text(json.dumps(benchmark.as_plain_values(results), indent=1))
    if arguments.plot:
        benchmark.plot(results, arguments.plot)
    print(benchmark.markdown_table(results))


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's error."""
    arguments = parse_arguments(argv)
    from dropkey_core.engine.command import exit_code

    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())

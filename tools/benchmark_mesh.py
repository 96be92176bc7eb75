#!/usr/bin/env python
"""Measure how fast METRO's skeletons are aligned, and its meshes evaluated and drawn.

tools/benchmark_mesh.py
tools/benchmark_mesh.py --reference ../MeshTransformer --body body/smpl_neutral.npz

With --reference the alignment of METRO's own code takes turns with ours, and the largest difference
between aligned joints is printed. With --body meshes of that body model are evaluated, from the
first batch to the last number, and drawn.
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
        "--reference",
        metavar="FOLDER",
        help="measure the alignment of this checkout of METRO beside it, on the same joints",
    )
    parser.add_argument(
        "--body", metavar="FILE", help="evaluate and draw meshes of this body model, too"
    )
    parser.add_argument("--skeletons", type=int, default=10000, metavar="N")
    parser.add_argument("--batches", type=int, default=10, metavar="N", help="of 32 meshes each")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="turns of each")
    parser.add_argument("--json", metavar="FILE", help="write every single time there, too")
    arguments = parser.parse_args(argv)
    for name in ("skeletons", "batches", "repeats"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    import json

    import torch

    from dropkey_core.engine.benchmark import as_plain_values, markdown_table
    from projects.metro.mesh_benchmark import (
        benchmark_alignment,
        benchmark_drawing,
        benchmark_evaluator,
    )

    torch.set_num_threads(1)
    measured, difference = benchmark_alignment(
        arguments.skeletons, arguments.repeats, arguments.reference
    )
    results = {"alignment": measured}
    if arguments.body:
        results["evaluation"] = benchmark_evaluator(
            arguments.body, arguments.batches, arguments.repeats
        )
        results["drawing, 224 x 224"] = benchmark_drawing(arguments.body, arguments.repeats)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(as_plain_values(results), indent=1))
    print(markdown_table(results))
    if difference is not None:
        print(f"\nlargest difference: {difference:.1e} m")


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's error."""
    arguments = parse_arguments(argv)
    from dropkey_core.engine.command import exit_code

    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())

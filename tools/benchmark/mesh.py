#!/usr/bin/env python
"""Benchmark of meshes: how fast METRO's skeletons are aligned, its meshes evaluated and drawn.

tools/benchmark/mesh.py
tools/benchmark/mesh.py --reference ../MeshTransformer --body body/smpl_neutral.npz

With --reference the alignment of METRO's own code takes turns with ours, and the largest difference
between aligned joints is printed. With --body meshes of that body model are evaluated, from the
first batch to the last number, and drawn.
"""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads give way

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from checkout import file_of_checkout, load_file
from report import argument_parser, run_benchmark, speed_table
from timing import Measurement, measure

from projects.metro.body.model import read_body
from projects.metro.body.skeleton import JOINTS
from projects.metro.evaluation import MeshEvaluator
from projects.metro.metrics import procrustes_align
from projects.metro.pictures.rasteriser import render
from projects.metro.pictures.view import predicted_view

PICTURE_SIZE = 224  # METRO's crop
NUM_VIEWS = 8
NUM_SKELETONS = 10000
NUM_BATCHES, BATCH_SIZE = 10, 32
OURS, OFFICIAL = "procrustes_align", "METRO's loop"

# Double precision arrays (n, 14, 3) of predicted and true joints to the aligned ones.
Align = Callable[[np.ndarray, np.ndarray], np.ndarray]


def benchmark_alignment(repeats: int, reference: str | None = None) -> dict[str, Measurement]:
    """Measure Procrustes alignment; each ``result`` is the aligned joints (n, 14, 3) in metres.

    With ``reference``, a folder, METRO's loop over skeletons comes first; a UserError if it is no
    checkout.
    """
    contenders: dict[str, Align] = {OURS: aligned_by_ours}
    if reference is not None:
        file = file_of_checkout(
            reference, "microsoft/MeshTransformer", "metro/utils/metric_pampjpe.py"
        )
        contenders = {OFFICIAL: load_file(file).compute_similarity_transform_batch, **contenders}
    joints = generated_joints(NUM_SKELETONS)
    steps = {name: partial(align, *joints) for name, align in contenders.items()}
    return measure(steps, NUM_SKELETONS, repeats)


def aligned_by_ours(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Aligned joints (n, 14, 3)."""
    return procrustes_align(torch.from_numpy(pred), torch.from_numpy(true)).numpy()


def generated_joints(num_skeletons: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true joints (n, 14, 3) in metres: those moved by 5 cm, and turned at random."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 0.4, (num_skeletons, len(JOINTS), 3))
    turns = np.linalg.qr(rng.normal(size=(num_skeletons, 3, 3)))[0]  # every other one mirrors
    return (true + rng.normal(0, 0.05, true.shape)) @ turns, true


def benchmark_evaluator(body: str, repeats: int) -> dict[str, Measurement]:
    """Measure the evaluator on generated meshes of a body model's file."""
    evaluator = MeshEvaluator(body)
    generator = torch.Generator().manual_seed(0)
    shape = (2, BATCH_SIZE, evaluator.num_vertices, 3)
    true, pred = torch.randn(shape, generator=generator)
    joints = torch.randn(BATCH_SIZE, len(JOINTS), 4, generator=generator)
    outputs = [{"vertices": vertices} for vertices in pred]

    def samples(first: int) -> list[dict[str, Any]]:
        return [
            {
                **dict.fromkeys(("subject", "frame", "camera"), 0),
                "image_id": first + number,
                "file_name": "",
                "has_mesh": True,
                "vertices": true[number],
                "has_joints_3d": True,
                "joints_3d": joints[number],
            }
            for number in range(BATCH_SIZE)
        ]

    def step() -> None:
        evaluator.reset()
        for number in range(NUM_BATCHES):
            evaluator.process(samples(number * BATCH_SIZE), outputs)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its table
            evaluator.evaluate()

    return measure({"MeshEvaluator": step}, NUM_BATCHES * BATCH_SIZE, repeats)


def benchmark_drawing(body: str, repeats: int) -> dict[str, Measurement]:
    """Measure how long pictures of a body model's template take, seen from all around."""
    arrays = read_body(body)
    mesh = arrays.template_pose()
    mesh = mesh - (mesh.min(axis=0) + mesh.max(axis=0)) / 2
    camera = (1.8 / np.ptp(mesh[:, 1]), 0, 0)
    views = []
    for angle in 2 * np.pi * np.arange(NUM_VIEWS) / NUM_VIEWS:
        cos, sin = np.cos(angle), np.sin(angle)
        turned = mesh @ np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
        views.append(predicted_view(turned, camera, PICTURE_SIZE))

    def step() -> None:
        for view in views:
            render(view.points, arrays.faces, view.K, (PICTURE_SIZE, PICTURE_SIZE))

    return measure({"render": step}, NUM_VIEWS, repeats)


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    aligned = benchmark_alignment(arguments.repeats, arguments.reference)
    results = {"alignment": aligned}
    if arguments.body:
        results["evaluation"] = benchmark_evaluator(arguments.body, arguments.repeats)
        results["drawing, 224 x 224"] = benchmark_drawing(arguments.body, arguments.repeats)
    print(speed_table(results))
    if OFFICIAL in aligned:
        difference = np.abs(aligned[OURS].result - aligned[OFFICIAL].result).max()
        print(f"\nlargest difference: {difference:.1e} m")


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a user's error."""
    parser = argument_parser(__doc__)
    parser.set_defaults(threads=1)
    parser.add_argument("--reference", metavar="FOLDER", help="checkout of METRO")
    parser.add_argument("--body", metavar="FILE", help="body model to evaluate and draw, too")
    return run_benchmark(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())

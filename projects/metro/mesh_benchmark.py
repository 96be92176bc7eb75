"""What the benchmark of meshes measures: metrics, with METRO's own alignment, and pictures."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dropkey_core.engine.benchmark import Measurement, measure
from dropkey_core.engine.errors import UserError
from projects.metro.body.model import read_body
from projects.metro.body.skeleton import JOINTS
from projects.metro.evaluation import MeshEvaluator
from projects.metro.metrics import procrustes_align
from projects.metro.pictures.rasteriser import render
from projects.metro.pictures.view import predicted_view

PICTURE_SIZE = 224  # METRO's crop
OURS, OFFICIAL = "procrustes_align", "METRO's loop"

# Double precision arrays (n, 14, 3) of predicted and true joints to the aligned ones.
Align = Callable[[np.ndarray, np.ndarray], np.ndarray]


def benchmark_alignment(
    num_skeletons: int = 10000, repeats: int = 5, reference: str | None = None
) -> tuple[dict[str, Measurement], float | None]:
    """Measure Procrustes alignment on generated joints.

    Args:
        num_skeletons: aligned in a turn.
        repeats: turns of each.
        reference: folder of a checkout of METRO, whose loop over skeletons is measured too.

    Returns:
        measurements, METRO's first, and the largest difference between both in metres.

    Raises:
        UserError: if ``reference`` is no checkout of METRO.
    """
    contenders: dict[str, Align] = {OURS: aligned_by_ours}
    if reference is not None:
        contenders = {OFFICIAL: official_alignment(reference), **contenders}
    pred, true = generated_joints(num_skeletons)
    steps = {name: lambda align=align: align(pred, true) for name, align in contenders.items()}
    measured = measure(steps, num_skeletons, repeats, torch.device("cpu"))
    if reference is None:
        return measured, None
    return measured, float(np.abs(steps[OURS]() - steps[OFFICIAL]()).max())


def aligned_by_ours(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Aligned joints (n, 14, 3)."""
    return procrustes_align(torch.from_numpy(pred), torch.from_numpy(true)).numpy()


def official_alignment(checkout: str | os.PathLike[str]) -> Align:
    """METRO's alignment.

    Raises:
        UserError: if ``checkout`` is no checkout of METRO.
    """
    path = Path(checkout).expanduser().absolute() / "metro" / "utils" / "metric_pampjpe.py"
    if not path.is_file():
        raise UserError(
            f"{checkout} is no checkout of microsoft/MeshTransformer: no "
            "metro/utils/metric_pampjpe.py"
        )
    # By path, because importing its package asks for what the file itself does not need.
    spec = importlib.util.spec_from_file_location("metro_metric_pampjpe", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.compute_similarity_transform_batch


def generated_joints(num_skeletons: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true joints (n, 14, 3) in metres: those moved by 5 cm, and turned at random."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 0.4, (num_skeletons, len(JOINTS), 3))
    turns = np.linalg.qr(rng.normal(size=(num_skeletons, 3, 3)))[0]  # every other one mirrors
    return (true + rng.normal(0, 0.05, true.shape)) @ turns, true


def benchmark_evaluator(
    body: str, num_batches: int = 10, repeats: int = 5, batch_size: int = 32
) -> dict[str, Measurement]:
    """Measure the evaluator on generated meshes, from the first batch to the last number.

    Args:
        body: see ``MeshEvaluator``.
        num_batches: of the generated test set.
        repeats: turns.
        batch_size: images of a batch.
    """
    evaluator = MeshEvaluator(body)
    generator = torch.Generator().manual_seed(0)
    shape = (2, batch_size, evaluator.num_vertices, 3)
    true, pred = torch.randn(shape, generator=generator)
    joints = torch.randn(batch_size, len(JOINTS), 4, generator=generator)
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
            for number in range(batch_size)
        ]

    def step() -> None:
        evaluator.reset()
        for number in range(num_batches):
            evaluator.process(samples(number * batch_size), outputs)
        evaluator.image_errors()

    num_images = num_batches * batch_size
    return measure({"MeshEvaluator": step}, num_images, repeats, torch.device("cpu"))


def benchmark_drawing(body: str, repeats: int = 5, num_views: int = 8) -> dict[str, Measurement]:
    """Measure how long pictures of a mesh take, seen from all around.

    Args:
        body: see ``read_body``; its template fills most of the picture's height.
        repeats: turns.
        num_views: pictures of a turn.
    """
    arrays = read_body(body)
    mesh = arrays.template_pose()
    mesh = mesh - (mesh.min(axis=0) + mesh.max(axis=0)) / 2
    camera = (1.8 / np.ptp(mesh[:, 1]), 0, 0)
    views = []
    for angle in 2 * np.pi * np.arange(num_views) / num_views:
        cos, sin = np.cos(angle), np.sin(angle)
        turned = mesh @ np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
        views.append(predicted_view(turned, camera, PICTURE_SIZE))

    def step() -> None:
        for view in views:
            render(view.points, arrays.faces, view.K, (PICTURE_SIZE, PICTURE_SIZE))

    return measure({"render": step}, num_views, repeats, torch.device("cpu"))

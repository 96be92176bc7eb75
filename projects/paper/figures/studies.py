"""Entropy, similarity and occlusion of some trained models, each as a picture and a CSV file.

Models of equal label are repetitions (seeds): a figure shows their mean, and as spread the standard
deviation among them. Of a single model it shows the spread that the measurement itself has, which
the figure names. The CSV files have all the numbers of each model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dropkey_core.analysis.entropy import attention_entropy
from dropkey_core.analysis.similarity import layer_similarity
from dropkey_core.engine.errors import UserError
from projects.figure import save
from projects.paper.figures.curves import (
    Curve,
    CurvePanel,
    curve_of,
    draw_curves,
    draw_matrices,
    mean_and_std,
    pooled,
    write_rows,
)
from projects.paper.figures.occlusion import Occluded, occlusion_curve
from projects.paper.figures.trained import Source, measured


def study_entropy(
    sources: Sequence[Source], output: Path, num_images: int | None, query: str = "class"
) -> None:
    """Entropy of attention per layer: ``entropy.png``, ``entropy.csv``."""
    rows: list[dict[str, Any]] = []
    curves: list[tuple[str, Curve]] = []
    names: list[str] = []
    for source, layers in measured(
        sources,
        lambda trained: attention_entropy(trained.model, trained.batches(num_images), query),
    ):
        rows += [{**source.columns, "query": query, **asdict(layer)} for layer in layers]
        curves.append((source.label, curve_of(layers)))
        names = max(names, [layer.layer for layer in layers], key=len)
        greatest = layers[0].greatest
    write_rows(output / "entropy.csv", rows)
    whose = "the class token's attention" if query == "class" else "attention, all queries"
    figure = draw_curves(
        [CurvePanel("", pooled(curves), greatest, "the same on every token")],
        "layer",
        "entropy, nats",
        f"Entropy of {whose}; bands: {spread_of(sources, 'images and heads')}",
        names,
        (0, None),
    )
    save(figure, output / "entropy.png")


def study_similarity(sources: Sequence[Source], output: Path, num_images: int | None) -> None:
    """Similarity of attention between layers: ``similarity.png``, ``similarity.csv``."""
    rows: list[dict[str, Any]] = []
    matrices: dict[str, list[np.ndarray]] = {}
    names: tuple[str, ...] = ()
    for source, found in measured(
        sources, lambda trained: layer_similarity(trained.model, trained.batches(num_images))
    ):
        if names and found.layers != names:
            raise UserError(
                f"{source.label} has other layers than {sources[0].label}: draw them apart"
            )
        names = found.layers
        matrix = found.matrix.numpy()
        matrices.setdefault(source.label, []).append(matrix)
        rows += [
            {**source.columns, "first": first, "second": second, "similarity": value}
            for first, line in zip(found.names, matrix.tolist(), strict=True)
            for second, value in zip(found.names, line, strict=True)
        ]
    write_rows(output / "similarity.csv", rows)
    means = {label: np.mean(of_label, axis=0) for label, of_label in matrices.items()}
    titles = {
        f"{label}: next layer {np.nanmean(np.diagonal(matrix, 1)):.2f}": matrix
        for label, matrix in means.items()
    }
    figure = draw_matrices(titles, names, "How alike the attention of two layers is")
    save(figure, output / "similarity.png")


def study_occlusion(
    sources: Sequence[Source],
    output: Path,
    num_images: int | None,
    ratios: Sequence[float],
    num_runs: int,
    seed: int,
    metric: str | None = None,
) -> None:
    """A metric without part of the patches: ``occlusion.png``, ``occlusion.csv``.

    ``ratios``, ``num_runs`` and ``seed`` are those of ``occlusion_curve``. ``metric`` is drawn;
    None: the one by which the training chose its best weights.
    """
    rows: list[dict[str, Any]] = []
    curves: list[tuple[str, Curve]] = []
    for source, found in measured(
        sources,
        lambda trained: occlusion_curve(
            trained.model, trained.batches(num_images), trained.evaluator, ratios, num_runs, seed
        ),
    ):
        chosen = choose_metric(metric, source, found[0].metrics)
        rows += [
            {**source.columns, "ratio": of.ratio, "draw": of.run, **of.metrics} for of in found
        ]
        curves.append((source.label, occlusion_of(found, chosen)))
    write_rows(output / "occlusion.csv", rows)
    figure = draw_curves(
        [CurvePanel("", pooled(curves))],
        "part of the patches taken away, %",
        chosen,
        f"Occlusion; bands: {spread_of(sources, f'{num_runs} draws of the patches')}",
    )
    save(figure, output / "occlusion.png")


def occlusion_of(found: Sequence[Occluded], metric: str) -> Curve:
    """Mean and deviation of the draws for each ratio, which is given in percent."""
    ratios = list(dict.fromkeys(of.ratio for of in found))
    values = [mean_and_std([of.metrics[metric] for of in found if of.ratio == r]) for r in ratios]
    return Curve([100 * r for r in ratios], [mean for mean, _ in values], [s for _, s in values])


def spread_of(sources: Sequence[Source], within: str) -> str:
    """Say what the bands of a figure are."""
    labels = [source.label for source in sources]
    counts = sorted({labels.count(label) for label in labels})
    if counts == [1]:
        return f"deviation over {within}" if within else ""
    return f"deviation over {' or '.join(map(str, counts))} runs"


def choose_metric(name: str | None, source: Source, metrics: Mapping[str, float]) -> str:
    """The metric to draw: the one asked for, the training's own, or the first there is."""
    wanted = name or source.config.train.get("best_metric")
    if wanted in metrics:
        return str(wanted)
    if name is not None or not metrics:
        raise UserError(f"--metric must be one of {', '.join(metrics) or 'none'}, got {name}")
    return next(iter(metrics))

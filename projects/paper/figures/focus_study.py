"""Attention focus of some trained models on clean and corrupted images: pictures, a CSV file."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dropkey_core.analysis.focus import LayerFocus, attention_focus
from dropkey_core.engine.errors import UserError
from dropkey_core.engine.evaluation import flatten_results
from projects.figure import save
from projects.paper.figures.corruptions import corruption
from projects.paper.figures.curves import (
    Curve,
    CurvePanel,
    curve_of,
    draw_curves,
    pooled,
    write_rows,
)
from projects.paper.figures.studies import choose_metric, spread_of
from projects.paper.figures.trained import Source, Trained, measured

CLEAN = ("clean", 0)
Metrics = dict[str, float]
# corruption and severity -> the focus of each layer, and the metrics
Found = dict[tuple[str, int], tuple[list[LayerFocus], Metrics]]


@dataclass(frozen=True)
class FocusSettings:
    """What is measured.

    Attributes:
        top: how many tokens are the most attended ones.
        query: ``class`` or ``all``.
        corruptions: of ``STRENGTHS``, may be none.
        severities: 1 to 5.
        num_images: at most so many; None: all.
        layer: whose share is drawn over the severity; None: the last one.
    """

    top: int
    query: str
    corruptions: Sequence[str]
    severities: Sequence[int]
    num_images: int | None = None
    layer: str | None = None


def study_focus(sources: Sequence[Source], output: Path, settings: FocusSettings) -> None:
    """Share of the most attended tokens: ``focus.png``, ``focus.csv``.

    With corruptions also ``focus_corrupted.png``, the share over the severity, and
    ``focus_accuracy.png``, the metric by which the training chose its best weights.
    """
    results = []
    rows: list[dict[str, Any]] = []
    for source, found in measured(sources, lambda trained: measure(trained, settings)):
        results.append((source, found))
        rows += rows_of(source, found, settings)
    write_rows(output / "focus.csv", rows)
    within = spread_of(sources, "images")
    whose = "the class token's" if settings.query == "class" else "all queries'"
    share = f"share of the {settings.top} most attended tokens"
    heading = f"Focus of {whose} attention on clean images; bands: {within}"
    draw_layers(results, output / "focus.png", share, heading)
    if not settings.corruptions:
        return
    layers, metrics = results[-1][1][CLEAN]
    drawn = layer_of(layers, settings).layer
    heading = f"Focus of {whose} attention, layer {drawn}; bands: {within}"
    draw_severities(results, output / "focus_corrupted.png", settings, share_of, (share, heading))
    metric = choose_metric(None, sources[-1], metrics)
    bands = spread_of(sources, "")
    heading = f"{metric} on corrupted images" + (f"; bands: {bands}" if bands else "")
    draw_severities(results, output / "focus_accuracy.png", settings, metric_of, (metric, heading))


def measure(trained: Trained, settings: FocusSettings) -> Found:
    """Measure one model on clean and corrupted images.

    Raises:
        ValueError: an unknown corruption or severity.
        UserError: an unknown layer.
    """
    states = [(name, level) for name in settings.corruptions for level in settings.severities]
    changes = {state: corruption(*state) for state in states}
    found: Found = {}
    for state in (CLEAN, *states):
        evaluator = trained.evaluator
        evaluator.reset()
        layers = attention_focus(
            trained.model,
            trained.batches(settings.num_images, changes.get(state)),
            settings.top,
            settings.query,
            after_batch=evaluator.process,
        )
        found[state] = layers, flatten_results(evaluator.evaluate() or {})
        layer_of(layers, settings)  # refuses a wrong one before the long part
    return found


def layer_of(layers: Sequence[LayerFocus], settings: FocusSettings) -> LayerFocus:
    """The layer that is drawn over the severity.

    Raises:
        UserError: the model has no such layer.
    """
    by_name = {layer.layer: layer for layer in layers}
    chosen = settings.layer or layers[-1].layer
    if chosen not in by_name:
        raise UserError(f"--layer must be one of {', '.join(by_name)}, got {chosen}")
    return by_name[chosen]


def rows_of(source: Source, found: Found, settings: FocusSettings) -> Iterator[dict[str, Any]]:
    """A row for each corruption, severity and layer."""
    asked = {"query": settings.query, "top": settings.top}
    for (name, severity), (layers, metrics) in found.items():
        state = {"corruption": name, "severity": severity}
        for layer in layers:
            yield {**source.columns, **state, **asked, **asdict(layer), **metrics}


def draw_layers(
    results: Sequence[tuple[Source, Found]], path: Path, share: str, heading: str
) -> None:
    """Draw the share on clean images over the layers."""
    clean = [(source.label, found[CLEAN][0]) for source, found in results]
    longest = max((layers for _, layers in clean), key=len)
    curves = pooled((label, curve_of(layers)) for label, layers in clean)
    panel = CurvePanel("", curves, longest[0].even, "an even share")
    names = [layer.layer for layer in longest]
    save(draw_curves([panel], "layer", share, heading, names, (0, 1)), path)


def share_of(
    source: Source, layers: Sequence[LayerFocus], metrics: Metrics, settings: FocusSettings
) -> tuple[float, float]:
    """Mean and deviation of the share in the layer that is drawn."""
    layer = layer_of(layers, settings)
    return layer.mean, layer.std


def metric_of(
    source: Source, layers: Sequence[LayerFocus], metrics: Metrics, settings: FocusSettings
) -> tuple[float, float]:
    """The metric by which the training chose its best weights; its deviation is not known."""
    return metrics[choose_metric(None, source, metrics)], math.nan


def draw_severities(
    results: Sequence[tuple[Source, Found]],
    path: Path,
    settings: FocusSettings,
    value: Callable[..., tuple[float, float]],
    texts: tuple[str, str],
) -> None:
    """Draw a panel for each corruption: clean images, then those of growing severity.

    Args:
        results: what was measured of each model.
        path: the picture.
        settings: corruptions and severities.
        value: ``share_of`` or ``metric_of``.
        texts: of the y axis, and above all.
    """
    panels = []
    for name in settings.corruptions:
        states = [CLEAN, *((name, severity) for severity in settings.severities)]
        curves = []
        for source, found in results:
            values = [value(source, *found[state], settings) for state in states]
            means, deviations = map(list, zip(*values, strict=True))
            curves.append((source.label, Curve((0, *settings.severities), means, deviations)))
        panels.append(CurvePanel(name, pooled(curves)))
    save(draw_curves(panels, "severity (0: clean)", *texts), path)

"""Attention focus of some trained models on clean and corrupted images: pictures, a CSV file."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

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

CLEAN = "clean"
SEVERITY = "severity (0: clean)"
# corruption and severity -> the focus of each layer, and the metrics
Found = dict[tuple[str, int], tuple[list[LayerFocus], dict[str, float]]]


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

    @property
    def states(self) -> list[tuple[str, int]]:
        """Corruption and severity of each measurement, the clean one first."""
        corrupted = [(name, severity) for name in self.corruptions for severity in self.severities]
        return [(CLEAN, 0), *corrupted]


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
    draw_layers(results, output / "focus.png", settings)
    if settings.corruptions:
        draw_shares(results, output / "focus_corrupted.png", settings)
        draw_metrics(results, output / "focus_accuracy.png", settings)


def measure(trained: Trained, settings: FocusSettings) -> Found:
    """Measure one model on clean and corrupted images.

    Raises:
        ValueError: an unknown corruption or severity.
        UserError: an unknown layer.
    """
    changes = {(name, at): corruption(name, at) for name, at in settings.states[1:]}
    found: Found = {}
    for state in settings.states:
        evaluator = copy.deepcopy(trained.evaluator)
        evaluator.reset()
        layers = attention_focus(
            trained.model,
            trained.batches(settings.num_images, changes.get(state)),
            settings.top,
            settings.query,
            after_batch=evaluator.process,
        )
        found[state] = layers, flatten_results(evaluator.evaluate() or {})
        find_layer(found, settings)  # refuses a wrong one before the long part
    return found


def find_layer(found: Found, settings: FocusSettings) -> tuple[int, str]:
    """Position and name of the layer that is drawn over the severity.

    Raises:
        UserError: the model has no such layer.
    """
    names = [layer.layer for layer in found[CLEAN, 0][0]]
    chosen = settings.layer or names[-1]
    if chosen not in names:
        raise UserError(f"--layer must be one of {', '.join(names)}, got {chosen}")
    return names.index(chosen), chosen


def rows_of(source: Source, found: Found, settings: FocusSettings) -> Iterator[dict[str, Any]]:
    """A row for each corruption, severity and layer."""
    asked = {"query": settings.query, "top": settings.top}
    for (name, severity), (layers, metrics) in found.items():
        state = {"corruption": name, "severity": severity}
        for layer in layers:
            yield {**source.columns, **state, **asked, **asdict(layer), **metrics}


def draw_layers(
    results: Sequence[tuple[Source, Found]], path: Path, settings: FocusSettings
) -> None:
    """Draw the share on clean images over the layers."""
    clean = [(source.label, found[CLEAN, 0][0]) for source, found in results]
    longest = max((layers for _, layers in clean), key=len)
    curves = pooled((label, curve_of(layers)) for label, layers in clean)
    spread = spread_of([source for source, _ in results], "images")
    figure = draw_curves(
        [CurvePanel("", curves, longest[0].even, "an even share")],
        "layer",
        share_name(settings),
        f"Focus of {whose(settings)} attention on clean images; bands: {spread}",
        [layer.layer for layer in longest],
        (0, 1),
    )
    save(figure, path)


def draw_shares(
    results: Sequence[tuple[Source, Found]], path: Path, settings: FocusSettings
) -> None:
    """Draw the share in one layer over the severity, a panel for each corruption."""
    _, drawn = find_layer(results[-1][1], settings)

    def curve(source: Source, found: Found, states: Sequence[tuple[str, int]]) -> Curve:
        position, _ = find_layer(found, settings)
        return curve_of([found[state][0][position] for state in states], (0, *settings.severities))

    spread = spread_of([source for source, _ in results], "images")
    heading = f"Focus of {whose(settings)} attention, layer {drawn}; bands: {spread}"
    draw_severities(results, path, settings, curve, (share_name(settings), heading))


def draw_metrics(
    results: Sequence[tuple[Source, Found]], path: Path, settings: FocusSettings
) -> None:
    """Draw the metric over the severity, a panel for each corruption."""
    chosen = [choose_metric(None, source, found[CLEAN, 0][1]) for source, found in results][-1]

    def curve(source: Source, found: Found, states: Sequence[tuple[str, int]]) -> Curve:
        metric = choose_metric(None, source, found[CLEAN, 0][1])
        values = [found[state][1][metric] for state in states]
        return Curve((0, *settings.severities), values, [np.nan] * len(values))

    spread = spread_of([source for source, _ in results], "")
    heading = f"{chosen} on corrupted images" + (f"; bands: {spread}" if spread else "")
    draw_severities(results, path, settings, curve, (chosen, heading))


def draw_severities(
    results: Sequence[tuple[Source, Found]],
    path: Path,
    settings: FocusSettings,
    curve: Callable[[Source, Found, Sequence[tuple[str, int]]], Curve],
    texts: tuple[str, str],
) -> None:
    """Draw a panel for each corruption: clean images, then those of growing severity.

    Args:
        results: what was measured of each model.
        path: the picture.
        settings: corruptions and severities.
        curve: of a model, what was measured of it, and the states to draw.
        texts: of the y axis, and above all.
    """
    panels = []
    for name in settings.corruptions:
        states = [(CLEAN, 0), *((name, severity) for severity in settings.severities)]
        curves = [(source.label, curve(source, found, states)) for source, found in results]
        panels.append(CurvePanel(name, pooled(curves)))
    save(draw_curves(panels, SEVERITY, *texts), path)


def share_name(settings: FocusSettings) -> str:
    """What the y axis shows."""
    return f"share of the {settings.top} most attended tokens"


def whose(settings: FocusSettings) -> str:
    """Whose attention is looked at."""
    return "the class token's" if settings.query == "class" else "all queries'"

"""Models of equal label pooled into one curve, and what the studies of models share besides."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from dropkey_core.engine.errors import UserError
from projects.paper.figures.curves import Curve
from projects.paper.figures.trained import Source

T = TypeVar("T")


def attempt(measure: Callable[[], T]) -> T:
    """Call ``measure``; what it refuses is the user's to change."""
    try:
        return measure()
    except ValueError as error:
        raise UserError(str(error)) from error


def identity(source: Source) -> dict[str, str]:
    """The columns that say which model a row is about."""
    return {"label": source.label, "run": source.place}


def curve_of(layers: Sequence[Any], x: Sequence[float] | None = None) -> Curve:
    """Mean and deviation of each result, at 0, 1, ... if nothing else is said."""
    positions = range(len(layers)) if x is None else x
    return Curve(positions, [of.mean for of in layers], [of.std for of in layers])


def pooled(curves: Iterable[tuple[str, Curve]]) -> dict[str, Curve]:
    """One curve for each label: mean and deviation of its curves' means, or the only one's own.

    Raises:
        UserError: curves of one label that differ in length.
    """
    groups: dict[str, list[Curve]] = {}
    for label, curve in curves:
        groups.setdefault(label, []).append(curve)
    result = {}
    for label, group in groups.items():
        if len({len(curve.mean) for curve in group}) > 1:
            raise UserError(f"the models called {label} differ in depth: give them other --labels")
        means = np.array([curve.mean for curve in group])
        result[label] = (
            Curve(group[0].x, means.mean(axis=0).tolist(), means.std(axis=0, ddof=1).tolist())
            if len(group) > 1
            else group[0]
        )
    return result


def spread_of(sources: Sequence[Source], within: str) -> str:
    """Say what the bands of a figure are."""
    labels = [source.label for source in sources]
    counts = sorted({labels.count(label) for label in labels})
    if counts == [1]:
        return f"deviation over {within}" if within else ""
    numbers = " or ".join(map(str, counts))
    return f"deviation over {numbers} runs"


def choose_metric(name: str | None, source: Source, metrics: Mapping[str, float]) -> str:
    """The metric to draw: the one asked for, the training's own, or the first there is."""
    wanted = name or source.config.train.get("best_metric")
    if wanted in metrics:
        return str(wanted)
    if name is not None or not metrics:
        raise UserError(f"--metric must be one of {', '.join(metrics) or 'none'}, got {name}")
    return next(iter(metrics))

"""Charts of a detector's evaluation: precision over recall, and what was taken for what."""

import numpy as np
from matplotlib.figure import Figure

from projects.figure import escaped

MOST_NAMES = 20  # of classes that a chart has room for; the table beside it has them all


def precision_recall_chart(recalls: np.ndarray, curves: dict[str, np.ndarray]) -> Figure:
    """Draw precision over recall; the first curve stands out.

    Args:
        recalls: (R,) in [0, 1].
        curves: precision (R,) in [0, 1] by name, NaN where there is nothing to measure.
    """
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    first, *others = curves
    for name in others:
        look = {"label": escaped(name)} if len(others) <= MOST_NAMES else {"color": "lightgray"}
        axes.plot(recalls, curves[name], linewidth=1, **look)
    axes.plot(recalls, curves[first], color="black", linewidth=2, label=first)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(fontsize="small")
    return figure


def confusion_chart(counts: np.ndarray, names: list[str], title: str) -> Figure:
    """Draw a confusion matrix, each row as shares of its sum.

    Args:
        counts: (K, K), rows what an object is, columns what it was taken for.
        names: of the K rows, which are those of the columns.
        title: what is counted.
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    figure.colorbar(axes.imshow(shares, vmin=0, vmax=1, cmap="Blues"), label="share of the row")
    axes.set(xlabel="detected as", ylabel="is")
    axes.set_title(title, fontsize="small")
    if len(names) <= MOST_NAMES + 1:
        ticks = range(len(names))
        labels = [escaped(name) for name in names]
        axes.set_xticks(ticks, labels, rotation=90, fontsize="small")
        axes.set_yticks(ticks, labels, fontsize="small")
        for row, column in np.argwhere(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, int(counts[row, column]), ha="center", va="center", color=color)
    return figure

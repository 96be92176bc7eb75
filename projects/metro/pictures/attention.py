"""Attention from a joint to the vertices, drawn (arXiv 2208.02646, Figure 6).

Shapes: B images, J = 14 joints, V vertices of the full mesh, V2 of the coarsest one, S the crop's
side in pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from scipy.spatial import cKDTree
from torch import Tensor

from dropkey_core.analysis.capture import captured_attention
from projects.metro.body.model import Body
from projects.metro.body.skeleton import JOINTS
from projects.metro.metro import Metro
from projects.metro.pictures.view import SIDE, View, draw_mesh

MOST = 3.0  # even shares of the attention, from where on the colour is the darkest
# Light for none, dark for the most, in every kind of colour vision; lines of another colour. Both
# are of Okabe and Ito's palette.
COLOURS = LinearSegmentedColormap.from_list(
    "attention", [(0, "#E4E4E4"), (1 / MOST, "#56B4E9"), (1, "#0072B2")]
)
LINE = "#D55E00"
FADED = 0.35  # how much of the image is left behind the mesh
NUM_NEAREST = 3  # vertices of the coarsest mesh that one of the full mesh gets its colour from
NUM_LINES = 40  # drawn to the vertices with the greatest weights


@torch.no_grad()
def recover_with_attention(
    model: Metro, samples: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Tensor]], Tensor]:
    """Recover meshes and keep how the last layer's joints attend to vertices.

    Args:
        model: in eval mode.
        samples: see ``Metro.forward``.

    Returns:
        what the model returns, and the attention (B, J, V2), the mean of the heads of the last
        block's last layer. A joint's weights sum to less than 1: the rest goes to joints.
    """
    with captured_attention(model.blocks[-1].layers[-1].self_attn) as maps:
        outputs = model(samples)
    return outputs, maps[""][0].mean(1)[:, : len(JOINTS), len(JOINTS) :]


def attended_vertices(weights: np.ndarray) -> float:
    """Over how many vertices a joint's weights (V2,) are spread: e to the power of their entropy.

    It is 1 if one vertex gets all, and V2 if all get the same.
    """
    shares = weights / weights.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def on_full_mesh(body: Body, values: np.ndarray) -> np.ndarray:
    """Values (V2,) of the coarsest mesh's vertices for all those of the full mesh, (V,).

    Each is a mean of the values nearest to it on the template, weighted by one over the squared
    distance; where a vertex of the coarsest mesh is, it is that one's.
    """
    coarse = cKDTree(body.template[body.coarse_vertices[-1]])
    distances, nearest = coarse.query(body.template, k=NUM_NEAREST)  # (V, 3) each
    closeness = 1 / np.maximum(distances**2, 1e-12)
    return (closeness * values[nearest]).sum(axis=1) / closeness.sum(axis=1)


def draw_attention(
    axes: Axes,
    view: View | None,
    body: Body,
    joint: np.ndarray,
    weights: np.ndarray,
    crop: np.ndarray,
) -> None:
    """Draw a mesh coloured by the attention it gets, and lines to where most of it goes.

    Args:
        axes: of SIDE x SIDE pixels.
        view: the mesh before the camera, on a crop of S pixels; None draws only the crop.
        body: what the mesh is of.
        joint: (3,) where the attention comes from, on the view's axes.
        weights: (V2,) what each vertex of the coarsest mesh gets. Colours say how much that is
            compared to their mean, so that pictures of several models can be compared.
        crop: (S, S, 3) uint8 RGB; it is drawn in grey.
    """
    grey = np.repeat(crop.mean(axis=2, keepdims=True), 3, axis=2)
    faded = np.rint(255 - FADED * (255 - grey)).astype(np.uint8)
    shares = np.minimum(weights / weights.mean() / MOST, 1)
    colours = 255 * COLOURS(on_full_mesh(body, shares))[:, :3]
    picture = draw_mesh(view, body.faces, len(crop), faded, colours)
    axes.imshow(picture, interpolation="nearest")
    if view is not None:
        view = view.enlarged(len(crop), SIDE)
        ends = view.shown(view.points[body.coarse_vertices[-1]])
        axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # of the picture, whatever follows
        add_lines(axes, view.shown(joint), ends, shares)


def add_lines(axes: Axes, start: np.ndarray, ends: np.ndarray, shares: np.ndarray) -> None:
    """Draw lines from a point (2,) to the first of others (n, 2) by shares (n,)."""
    drawn = np.argsort(shares)[-NUM_LINES:]  # the strongest last, over the others
    lines = np.stack([np.broadcast_to(start, (len(drawn), 2)), ends[drawn]], axis=1)
    axes.add_collection(LineCollection(lines, colors=LINE, linewidths=0.8, alpha=shares[drawn]))
    axes.scatter(*ends[drawn].T, s=6, color=LINE, alpha=shares[drawn], linewidths=0, zorder=3)
    axes.plot(*start, "o", markersize=7, color=LINE, markeredgecolor="white", markeredgewidth=1)

"""Attention from a joint to the vertices, drawn (arXiv 2208.02646, Figure 6).

Shapes: J = 14 joints, V vertices of the full mesh, V2 of the coarsest one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from PIL import Image, ImageDraw
from scipy.spatial import cKDTree
from torch import Tensor

from dropkey_core.analysis.capture import captured_attention
from dropkey_core.engine import UserError
from projects.drawing import as_array, dot
from projects.metro.body.model import Body
from projects.metro.body.skeleton import JOINTS
from projects.metro.metro import Metro
from projects.metro.pictures.rows import draw_mesh, float64, name_of, views
from projects.metro.pictures.view import COLOURS as MESH_COLOURS
from projects.metro.pictures.view import SIDE, View, resized
from projects.metro.predictor import BodyEstimator
from projects.page import Panel

USUAL_JOINT = "L_Elbow"
MOST = 3.0  # even shares of the attention, from where on the colour is the darkest
# Light for none, dark for the most, in every kind of colour vision; lines of another colour. Both
# are of Okabe and Ito's palette.
COLOURS = LinearSegmentedColormap.from_list(
    "attention", [(0, "#E4E4E4"), (1 / MOST, "#56B4E9"), (1, "#0072B2")]
)
LINE = MESH_COLOURS[-1]
FINER = 4  # lines are drawn so many times as large, and then made smaller
FADED = 0.35  # how much of the image is left behind the mesh
NUM_NEAREST = 3  # vertices of the coarsest mesh that one of the full mesh gets its colour from
NUM_LINES = 40  # drawn to the vertices with the greatest weights
HEADING = (
    "Attention from a joint to the vertices in the last layer, mean of its heads",
    f"grey: none; light blue: an even share; dark blue: {MOST:g} times that and more; lines: the "
    f"{NUM_LINES} that get most",
    "above each picture: over how many vertices it is spread",
)


def attention_panels(
    estimator: BodyEstimator, record: dict[str, Any], words: Sequence[str]
) -> list[Panel]:
    """Draw an image, and its mesh coloured by the attention that each vertex gets from a joint.

    Args:
        estimator: the model.
        record: see ``BodyEstimator.sample``.
        words: names of ``JOINTS``; none: the left elbow.

    Raises:
        UserError: another word, or an image that cannot be read.
    """
    joints = words or [USUAL_JOINT]
    for joint in joints:
        if joint not in JOINTS:
            raise UserError(f"--attention takes one of {', '.join(JOINTS)}, got {joint}")
    sample = estimator.sample(record)
    outputs, attention = recover_with_attention(estimator.model, sample)
    view, crop = views(sample, outputs)["recovered"], resized(as_array(sample["image"]), SIDE)
    panels = [Panel(name_of(sample), crop)]
    for joint in joints:
        weights = attention[JOINTS.index(joint)]
        drawn = draw_attention(view, estimator.body, JOINTS.index(joint), weights, crop)
        caption = f"{joint}: over {attended_vertices(weights):.0f} of {len(weights)} vertices"
        panels.append(Panel(caption, drawn))
    return panels


@torch.no_grad()
def recover_with_attention(
    model: Metro, sample: dict[str, Any]
) -> tuple[dict[str, Tensor], np.ndarray]:
    """Recover a mesh and keep how the last layer's joints attend to vertices.

    Args:
        model: in eval mode.
        sample: see ``Metro.forward``.

    Returns:
        what the model returns, and the attention (J, V2), the mean of the heads of the last
        block's last layer. A joint's weights sum to less than 1: the rest goes to joints.
    """
    with captured_attention(model.blocks[-1].layers[-1].self_attn) as maps:
        (outputs,) = model([sample])
    return outputs, float64(maps[""][0][0].mean(0)[: len(JOINTS), len(JOINTS) :])


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
    view: View | None, body: Body, joint: int, weights: np.ndarray, crop: np.ndarray
) -> np.ndarray:
    """Draw a mesh coloured by the attention it gets, and lines to where most of it goes.

    Args:
        view: the mesh before the camera; None draws only the crop.
        body: what the mesh is of.
        joint: where the attention comes from, a place in ``JOINTS``.
        weights: (V2,) what each vertex of the coarsest mesh gets. Colours say how much that is
            compared to their mean, so that pictures of several models can be compared.
        crop: (SIDE, SIDE, 3) uint8 RGB; it is drawn in grey.
    """
    grey = np.repeat(crop.mean(axis=2, keepdims=True), 3, axis=2)
    faded = np.rint(255 - FADED * (255 - grey)).astype(np.uint8)
    shares = np.minimum(weights / weights.mean() / MOST, 1)
    colours = 255 * COLOURS(on_full_mesh(body, shares))[:, :3]
    picture = draw_mesh(view, body.faces, faded, colours)
    if view is None:
        return picture
    ends = view.shown(view.points[body.coarse_vertices[-1]])
    start = view.shown(body.joints(view.points)[joint])
    picture = with_lines(picture, start, ends, shares)
    dot(picture, start, 5, LINE)
    return picture


def with_lines(
    picture: np.ndarray, start: np.ndarray, ends: np.ndarray, shares: np.ndarray
) -> np.ndarray:
    """Draw lines from a point (2,) to the first of others (n, 2) by shares (n,), as opaque."""
    height, width = picture.shape[:2]
    layer = Image.new("RGBA", (FINER * width, FINER * height), (*LINE, 0))
    canvas = ImageDraw.Draw(layer)
    for n in np.argsort(shares)[-NUM_LINES:]:  # the strongest last, over the others
        colour = (*LINE, round(255 * shares[n]))
        first, last = (tuple(FINER * (end + 0.5)) for end in (start, ends[n]))
        canvas.line((first, last), colour, round(1.4 * FINER))
        canvas.circle(last, 2.2 * FINER, colour)
    image, layer = Image.fromarray(picture), layer.reduce(FINER)
    image.paste(layer, mask=layer)
    return np.array(image)

"""Validation pictures for the logs: pairs found and true pairs on a few test images.

Shapes: Q queries, V verbs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from projects.detr.picture import Picture, draw_pictures
from projects.detr.sheet import unresized
from projects.figure import as_image
from projects.qpic.picture import Pair, distinct_pairs, legend, markings_of

LEAST_SCORE = 0.3


def draw_sheet(
    samples: Sequence[dict[str, Any]],
    outputs: Sequence[dict[str, Tensor]],
    true: Sequence[Sequence[Pair]],
    object_names: Sequence[str | int],
    verb_names: Sequence[str | int],
) -> np.ndarray:
    """Draw images with verbs of a score of 0.3 or more.

    Args:
        samples: of a test set's mapper.
        outputs: what the model made of each, see ``projects.qpic.qpic.interactions``.
        true: what is on each, in pixels of the image before resizing.
        object_names: by class index.
        verb_names: likewise.

    Returns:
        (H, W, 3) uint8.
    """
    pictures = []
    for sample, output, pairs in zip(samples, outputs, true, strict=True):
        drawn = markings_of(found_pairs(output, object_names, verb_names), pairs)
        pictures.append(Picture(Path(sample["file_name"]).name, unresized(sample), drawn))
    heading = f"verbs with a score of {LEAST_SCORE:g} or more"
    return np.asarray(as_image(draw_pictures(pictures, heading, legend(pictures))))


def found_pairs(
    output: dict[str, Tensor], object_names: Sequence[str | int], verb_names: Sequence[str | int]
) -> list[Pair]:
    """The pairs of Q queries that have a verb of V sure enough, none twice in the same place."""
    pairs = []
    for query, scores in enumerate(output["verb_scores"].tolist()):
        sure = sorted(((s, v) for v, s in enumerate(scores) if s >= LEAST_SCORE), reverse=True)
        if sure:
            human, thing = (
                tuple(output[key][query].tolist()) for key in ("sub_boxes", "obj_boxes")
            )
            name = str(object_names[int(output["obj_labels"][query])])
            verbs = {str(verb_names[verb]): score for score, verb in sure}
            pairs.append(Pair(human, thing, name, verbs, query))
    return distinct_pairs(pairs)

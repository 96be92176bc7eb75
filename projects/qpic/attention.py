"""Attention maps of QPIC's decoder for the pairs that it finds (arXiv 2103.05399, Figure 5)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dropkey_core.engine import UserError
from projects.detr.attention import on_image, run_with_attention
from projects.detr.picture import unresized
from projects.drawing import Picture, as_array, panel_of
from projects.page import Panel
from projects.qpic.predictor import InteractionDetector, Interactions

HEADING = ["Cross-attention of the last decoder layer from each pair's query, mean of its heads"]
NUM_PAIRS = 4  # the surest


def attention_panels(
    detector: InteractionDetector,
    record: dict[str, Any],
    words: Sequence[str],
    score_threshold: float = InteractionDetector.score_threshold,
) -> list[Panel]:
    """Draw an image, and where the query of each of the surest pairs looks, with the pair over it.

    Args:
        detector: the model.
        record: see ``QpicMapper``.
        words: none; of others there is a UserError.
        score_threshold: of verbs, the least.
    """
    if words:
        raise UserError(f"--attention takes no words for QPIC, it has pairs; got {words[0]}")
    sample = detector.mapper(record)
    layer = detector.model.transformer.decoder.layers[-1].multihead_attn
    outputs, attention = run_with_attention(detector.model, layer, sample)
    whole = unresized(sample)
    found = Interactions.of(
        whole, outputs, score_threshold, detector.object_names, detector.verb_names
    )
    image, size = as_array(whole.image), sample["image"].shape[-2:]
    pictures = [Picture(Path(whole.file_name).name, image)]
    for pair in found.pairs[:NUM_PAIRS]:
        weights = on_image(attention[pair.query], size)
        boxes = replace(pair.marking(), label="")
        pictures.append(Picture(pair.label, image, [boxes], weights))
    return [panel_of(picture) for picture in pictures]

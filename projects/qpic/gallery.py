"""Pictures of the interactions QPIC finds and of where it looks, of a test set or any images."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from dropkey_core.engine.files.atomic_write import make_folder
from dropkey_core.engine.files.images import unique_stems
from dropkey_core.engine.inference import choose_records
from projects.detr.attention import on_image, run_with_attention
from projects.detr.gallery import read_as_array
from projects.detr.picture import Picture, draw_picture, draw_pictures
from projects.figure import save
from projects.qpic.interaction_file import NO_OBJECT
from projects.qpic.picture import Pair, distinct_pairs, legend, markings_of
from projects.qpic.predictor import InteractionDetector

NUM_MAPS = 4  # queries whose attention is drawn
ATTENTION = "Cross-attention of the last decoder layer from each pair's query, mean of its heads"


def draw_gallery(
    config: DictConfig,
    weights: str,
    output: Path,
    images: Sequence[str] | None = None,
    num_images: int = 16,
    score_threshold: float = 0.3,
    attention: bool = False,
) -> None:
    """Find interactions on images and write a picture of each, and a page of all of them.

    Args:
        config: a loaded config; its model, its test set and the test set's mapper are used.
        weights: path of a checkpoint, ours or an official one.
        output: folder to write to.
        images: files and folders of images; None takes the config's test set, with true pairs.
        num_images: draw at most so many, spread evenly.
        score_threshold: draw verbs of this score or more.
        attention: draw also where the decoder looks for the surest pairs.

    Raises:
        UserError: nothing to show, a bad image or checkpoint, or a folder that cannot be written.
    """
    detector = InteractionDetector.load(config, weights)
    last_layer = detector.model.transformer.decoder.layers[-1]
    records, heading = choose_records(config, images, num_images)
    heading += f", verbs with a score of {score_threshold:g} or more"
    print(heading)
    make_folder(output)
    pictures = []
    stems = unique_stems([record["file_name"] for record in records])
    for stem, record in zip(stems, records, strict=True):
        sample = detector.mapper(record)
        found, maps = run_with_attention(detector.model, last_layer.multihead_attn, sample)
        pairs = predicted_pairs(found, detector, score_threshold)
        drawn = markings_of(pairs, true_pairs(record, detector))
        pictures.append(Picture(Path(record["file_name"]).name, read_as_array(record), drawn))
        save(draw_picture(pictures[-1]), output / f"{stem}_interactions.png")
        if attention and pairs:
            looks = attention_pictures(pictures[-1], pairs[:NUM_MAPS], maps, sample["image"])
            save(draw_pictures(looks, ATTENTION), output / f"{stem}_attention.png")
    page = "interactions.png" if images else "validation.png"
    save(draw_pictures(pictures, heading, legend(pictures)), output / page)


def predicted_pairs(
    found: dict[str, Tensor], detector: InteractionDetector, threshold: float
) -> list[Pair]:
    """What was found with a score of ``threshold`` or more, each pair and verb once."""
    pairs = []
    for query, verb_scores in enumerate(found["verb_scores"]):
        scores, verbs = verb_scores.sort(descending=True)
        sure = zip(verbs.tolist(), scores[scores >= threshold].tolist(), strict=False)
        verbs_drawn = {detector.verb_names[verb]: score for verb, score in sure}
        if verbs_drawn:
            human, thing = (tuple(found[key][query].tolist()) for key in ("sub_boxes", "obj_boxes"))
            name = detector.object_names[int(found["obj_labels"][query])]
            pairs.append(Pair(human, thing, name, verbs_drawn, query))
    return distinct_pairs(pairs)


def true_pairs(record: dict[str, Any], detector: InteractionDetector) -> list[Pair]:
    """What is there according to the annotations."""
    verbs_of: dict[tuple[int, int], dict[str, None]] = {}
    for subject, thing, verb in record.get("hois", ()):
        verbs_of.setdefault((subject, thing), {})[detector.verb_names[verb]] = None
    pairs = []
    for (subject, thing), verbs in verbs_of.items():
        human = tuple(record["boxes_xyxy"][subject])
        if thing == NO_OBJECT:
            pairs.append(Pair(human, None, "", verbs))
        else:
            name = detector.object_names[record["labels"][thing]]
            pairs.append(Pair(human, tuple(record["boxes_xyxy"][thing]), name, verbs))
    return pairs


def attention_pictures(
    picture: Picture, pairs: Sequence[Pair], attention: Tensor, seen: Tensor
) -> list[Picture]:
    """Where the query of each pair looks, with the pair over it.

    Args:
        picture: the image.
        pairs: found on it.
        attention: (Q, h, w) of the image.
        seen: (3, H, W), the image as the model saw it.
    """
    pictures = []
    for pair in pairs:
        boxes = replace(pair.annotation(), label="")
        weights = on_image(attention[pair.query], seen.shape[-2:])
        pictures.append(Picture(pair.label, picture.image, [boxes], weights))
    return pictures

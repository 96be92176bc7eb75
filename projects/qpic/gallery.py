"""Pictures of the interactions QPIC finds and of where it looks, of a test set or any images."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from dropkey_core.engine.files.atomic_write import make_folder
from dropkey_core.engine.files.images import unique_stems
from dropkey_core.engine.files.inputs import Input
from dropkey_core.engine.inference import choose_records
from projects.detr.attention import on_image, run_with_attention
from projects.detr.gallery import read_pixels
from projects.detr.picture import Picture, as_array, draw_picture, draw_pictures
from projects.figure import save
from projects.qpic.interaction_file import NO_OBJECT
from projects.qpic.picture import Pair, legend, markings_of
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
    detector = InteractionDetector.from_pretrained(weights, config=config)
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
        picture = Input(read_pixels(record), record["file_name"])
        pairs = detector.interactions(picture, found, score_threshold).pairs
        drawn = markings_of(pairs, true_pairs(record, detector))
        pictures.append(Picture(Path(picture.file_name).name, as_array(picture.image), drawn))
        save(draw_picture(pictures[-1]), output / f"{stem}_interactions.png")
        if attention and pairs:
            looks = attention_pictures(pictures[-1], pairs[:NUM_MAPS], maps, sample["image"])
            save(draw_pictures(looks, ATTENTION), output / f"{stem}_attention.png")
    page = "interactions.png" if images else "validation.png"
    save(draw_pictures(pictures, heading, legend(pictures)), output / page)


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

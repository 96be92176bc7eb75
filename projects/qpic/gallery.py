"""Pictures of the interactions a model finds and of where it looks, of a test set or any images."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from dropkey_core.engine import (
    UserError,
    dataset_path,
    instantiate,
    load_weights,
    read_checkpoint,
)
from dropkey_core.engine.files.image_list import find_images, spread, unique_stems
from dropkey_core.engine.run_folder import make_picture_folder
from projects.detr.gallery import read_as_array
from projects.detr.picture import Picture
from projects.detr.visualize import cell_span, draw_page, draw_picture
from projects.figure import say_saved
from projects.qpic.attention import draw_attention_maps, find_with_attention
from projects.qpic.classes import OBJECT_NAMES, VERB_NAMES, read_classes
from projects.qpic.interaction_file import NO_OBJECT
from projects.qpic.mapper import QpicMapper
from projects.qpic.picture import Pair, distinct_pairs, draw_pairs, pair_kinds
from projects.qpic.qpic import Qpic

NUM_MAPS = 4  # queries whose attention is drawn


@dataclass(frozen=True)
class Finder:
    """A model in eval mode with all that it takes to use it."""

    model: Qpic
    mapper: QpicMapper
    object_names: Sequence[str]  # by class index
    verb_names: Sequence[str]


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
    finder = load_finder(config, weights)
    if images is None:
        test_set = instantiate(config.dataloader.test.dataset, "dataloader.test.dataset")
    else:
        test_set = [{"file_name": str(path)} for path in find_images(images)]
    chosen = spread(test_set, num_images)
    shown = f"verbs with a score of {score_threshold:g} or more"
    heading = f"{len(chosen)} of {len(test_set)} images, {shown}"
    print(heading)
    make_picture_folder(output)
    stems = unique_stems([record["file_name"] for record in chosen])
    pictures = []
    for record, stem in zip(chosen, stems, strict=True):
        sample = finder.mapper(record)
        found, maps = find_with_attention(finder.model, [sample])
        picture = Picture(
            Path(record["file_name"]).name,
            read_as_array(record),
            predicted_pairs(found[0], finder, score_threshold),
            true_pairs(record, finder),
        )
        pictures.append(picture)
        say_saved(draw_picture(picture, draw_pairs), output / f"{stem}_interactions.png")
        if attention and picture.predicted:
            figure = attention_figure(picture, maps[0], sample)
            say_saved(figure, output / f"{stem}_attention.png")
    page = "interactions.png" if images else "validation.png"
    say_saved(draw_page(pictures, heading, draw_pairs, pair_kinds), output / page)


def load_finder(config: DictConfig, weights: str) -> Finder:
    """Build the config's model with as many classes as the checkpoint has, and load that.

    So an official checkpoint works where no dataset is, which the config would ask instead.
    """
    content = read_checkpoint(weights, "--weights")
    state = content.get("model", content)
    if "verb_class_embed.weight" not in state:
        raise UserError(f"{weights} is no checkpoint of QPIC: it has no verb_class_embed.weight")
    num_objects = len(state["obj_class_embed.weight"]) - 1  # one row is "no object"
    num_verbs = len(state["verb_class_embed.weight"])
    config = copy.deepcopy(config)  # the caller's stays as it is
    config.model.num_object_classes = num_objects
    config.model.num_verb_classes = num_verbs
    config.model.pretrained_backbone = False
    model = instantiate(config.model, "model").eval()
    print(load_weights(model, weights, content=content))
    use_gpu = config.train.device == "cuda" and torch.cuda.is_available()
    object_names, verb_names = class_names(config, num_objects, num_verbs)
    return Finder(
        model.to("cuda" if use_gpu else "cpu"),
        instantiate(config.dataloader.test.mapper, "dataloader.test.mapper"),
        object_names,
        verb_names,
    )


def class_names(
    config: DictConfig, num_objects: int, num_verbs: int
) -> tuple[Sequence[str], Sequence[str]]:
    """Names of objects and verbs: the dataset's if it is there and fits, HICO-DET's, or numbers."""
    classes = OmegaConf.select(config, "dataset.classes")
    if classes is not None and dataset_path(classes).is_file():
        known = read_classes(classes)
        if (len(known.object_names), len(known.verb_names)) == (num_objects, num_verbs):
            return known.object_names, known.verb_names
    if (num_objects, num_verbs) == (len(OBJECT_NAMES), len(VERB_NAMES)):
        return OBJECT_NAMES, VERB_NAMES
    return [f"object {n}" for n in range(num_objects)], [f"verb {n}" for n in range(num_verbs)]


def predicted_pairs(found: dict[str, Tensor], finder: Finder, threshold: float) -> list[Pair]:
    """What was found with a score of ``threshold`` or more, each pair and verb once."""
    pairs = []
    for query, verb_scores in enumerate(found["verb_scores"]):
        scores, verbs = verb_scores.sort(descending=True)
        count = int((scores >= threshold).sum())
        if count:
            pair = Pair(
                tuple(found["sub_boxes"][query].tolist()),
                tuple(found["obj_boxes"][query].tolist()),
                finder.object_names[int(found["obj_labels"][query])],
                [finder.verb_names[verb] for verb in verbs[:count].tolist()],
                scores[:count].tolist(),
                query,
            )
            pairs.append(pair)
    return distinct_pairs(pairs)


def true_pairs(record: dict[str, Any], finder: Finder) -> list[Pair]:
    """What is there according to the annotations."""
    verbs_of: dict[tuple[int, int], list[str]] = {}
    for subject, object_, verb in record.get("hois", ()):
        verbs_of.setdefault((subject, object_), []).append(finder.verb_names[verb])
    pairs = []
    for (subject, object_), verbs in verbs_of.items():
        human = tuple(record["boxes_xyxy"][subject])
        if object_ == NO_OBJECT:
            pairs.append(Pair(human, None, "", verbs))
        else:
            name = finder.object_names[record["labels"][object_]]
            pairs.append(Pair(human, tuple(record["boxes_xyxy"][object_]), name, verbs))
    return pairs


def attention_figure(picture: Picture[Pair], attention: Tensor, sample: dict[str, Any]) -> Figure:
    """Where the queries of the surest pairs look, from the attention (Q, h, w) of an image."""
    pairs = picture.predicted[:NUM_MAPS]
    return draw_attention_maps(
        picture,
        pairs,
        [attention[pair.query].cpu().numpy() for pair in pairs],
        cell_span(tuple(sample["image"].shape[-2:]), attention.shape[-2:]),
        "Cross-attention of the last decoder layer from each pair's query, mean of its heads",
    )

"""Interaction detection with a trained QPIC: from any pictures to pairs of boxes, and verbs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import Struct
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert

from dropkey_core.engine import UserError, dataset_path, instantiate
from dropkey_core.engine.files.inputs import Input
from dropkey_core.engine.files.json_file import Text
from dropkey_core.engine.inference import Trained
from dropkey_core.engine.predictor import Predictor, Result, warn_of_numbers
from projects.drawing import Picture, as_array, draw_picture
from projects.qpic.classes import OBJECT_NAMES, VERB_NAMES, read_classes
from projects.qpic.mapper import QpicMapper
from projects.qpic.picture import Pair, distinct_pairs, markings_of
from projects.qpic.published import PUBLISHED
from projects.qpic.qpic import Qpic

Names = Sequence[str]  # by class index


class ClassNames(Struct, frozen=True):
    """The classes as checkpoints name them."""

    objects: Sequence[Text]
    verbs: Sequence[Text]


@dataclass(frozen=True, eq=False, repr=False)
class Interactions(Result):
    """Interactions on a picture, the surest first: a person, an object and one verb each.

    Attributes:
        human_boxes_xyxy: (n, 4) float32 in pixels of the picture.
        object_boxes_xyxy: (n, 4) float32, likewise.
        scores: (n,) float32 in [0, 1].
        object_labels: (n,) int64, class indices.
        object_names: n of them.
        verb_labels: (n,) int64, class indices.
        verb_names: n of them.
        queries: (n,) int64; verbs of the same query are between the same two boxes.
    """

    human_boxes_xyxy: Tensor
    object_boxes_xyxy: Tensor
    scores: Tensor
    object_labels: Tensor
    object_names: list[str]
    verb_labels: Tensor
    verb_names: list[str]
    queries: Tensor

    @classmethod
    def of(
        cls,
        picture: Input,
        outputs: Mapping[str, Tensor],
        score_threshold: float,
        object_names: Names,
        verb_names: Names,
    ) -> "Interactions":
        """What the network found on a picture, see ``projects.qpic.qpic.interactions``."""
        verb_scores = outputs["verb_scores"].cpu()  # (Q, V)
        scores, order = verb_scores.flatten().sort(descending=True, stable=True)
        order = order[: int((scores >= score_threshold).sum())]
        queries, verbs = order // verb_scores.shape[1], order % verb_scores.shape[1]
        things = outputs["obj_labels"].cpu()[queries]
        return cls(
            picture.image,
            picture.file_name,
            outputs["sub_boxes"].cpu()[queries],
            outputs["obj_boxes"].cpu()[queries],
            scores[: len(order)],
            things,
            [object_names[label] for label in things.tolist()],
            verbs,
            [verb_names[label] for label in verbs.tolist()],
            queries,
        )

    @property
    def pairs(self) -> list[Pair]:
        """What to draw: each pair with its verbs, none of them twice in the same place."""
        rows_of: dict[int, list[int]] = {}
        for row, query in enumerate(self.queries.tolist()):
            rows_of.setdefault(query, []).append(row)
        pairs = []
        for query, rows in rows_of.items():
            human, thing = (
                tuple(boxes[rows[0]].tolist())
                for boxes in (self.human_boxes_xyxy, self.object_boxes_xyxy)
            )
            verbs = {self.verb_names[row]: float(self.scores[row]) for row in rows}
            pairs.append(Pair(human, thing, self.object_names[rows[0]], verbs, query))
        return distinct_pairs(pairs)

    def picture(self, true: Sequence[Pair] = ()) -> Picture:
        """The picture with pairs, verbs and scores, and with true pairs."""
        title = Path(self.file_name).name
        return Picture(title, as_array(self.image), markings_of(self.pairs, true))

    def draw(self) -> Image.Image:
        """The picture with pairs of boxes, lines between them, verbs and scores."""
        return draw_picture(self.picture())

    def entries(self, image_id: int) -> list[dict[str, Any]]:
        """One for each interaction, boxes [x, y, width, height] in pixels as in COCO's files."""
        columns = {
            "human_bbox": box_convert(self.human_boxes_xyxy, "xyxy", "xywh").tolist(),
            "object_bbox": box_convert(self.object_boxes_xyxy, "xyxy", "xywh").tolist(),
            "object": self.object_names,
            "verb": self.verb_names,
            "score": self.scores.tolist(),
        }
        rows = zip(*columns.values(), strict=True)
        return [{"image_id": image_id, **dict(zip(columns, row, strict=True))} for row in rows]


@dataclass(frozen=True, repr=False)
class InteractionDetector(Predictor[Interactions]):
    """A trained QPIC in eval mode with all that it takes to use it.

    Attributes:
        model: the network.
        mapper: from a record to the network's sample.
        object_names: by class index, as ``verb_names``.
    """

    kind = "QPIC"
    key = "verb_class_embed.weight"
    published = PUBLISHED
    results_file = "interactions.json"
    things = "interactions"
    score_threshold = 0.3

    model: Qpic
    mapper: QpicMapper
    object_names: Names
    verb_names: Names

    @classmethod
    def from_trained(cls, trained: Trained) -> "InteractionDetector":
        """Build the config's model with as many classes as the checkpoint has, and load that.

        So an official checkpoint works where no dataset is, which the config would ask instead.

        Raises:
            UserError: the checkpoint is of another model.
        """
        num_verbs = len(trained.tensor(cls.kind, cls.key))
        num_objects = len(trained.tensor(cls.kind, "obj_class_embed.weight")) - 1  # "no object"
        model = trained.build({"num_object_classes": num_objects, "num_verb_classes": num_verbs})
        mapper = instantiate(trained.config.dataloader.test.mapper, "dataloader.test.mapper")
        own = trained.classes(ClassNames)
        counts = num_objects, num_verbs
        if own is None or (len(own.objects), len(own.verbs)) != counts:
            own = known_classes(OmegaConf.select(trained.config, "dataset.classes"), *counts)
        return cls(model, mapper, own.objects, own.verbs)

    def predict(
        self, inputs: Sequence[Input], score_threshold: float = score_threshold
    ) -> list[Interactions]:
        """Find interactions on a batch of pictures.

        Args:
            inputs: the pictures.
            score_threshold: verbs that are less sure are left out; 0 keeps all of each query.
        """
        if not 0 <= score_threshold <= 1:
            raise UserError(f"score_threshold must be in [0, 1], got {score_threshold}")
        found = self.model([self.mapper(vars(each)) for each in inputs])
        return [
            Interactions.of(each, outputs, score_threshold, self.object_names, self.verb_names)
            for each, outputs in zip(inputs, found, strict=True)
        ]


def known_classes(classes: str | None, num_objects: int, num_verbs: int) -> ClassNames:
    """Names of objects and verbs: the dataset's if it is there and fits, HICO-DET's, or numbers."""
    if isinstance(classes, str) and dataset_path(classes).is_file():
        known = read_classes(classes)
        if (len(known.object_names), len(known.verb_names)) == (num_objects, num_verbs):
            return ClassNames(known.object_names, known.verb_names)
    if (num_objects, num_verbs) == (len(OBJECT_NAMES), len(VERB_NAMES)):
        return ClassNames(OBJECT_NAMES, VERB_NAMES)
    warn_of_numbers(classes, "object 0, object 1, ... and verb 0, verb 1, ...")
    counts = {"object": num_objects, "verb": num_verbs}
    return ClassNames(*([f"{kind} {n}" for n in range(count)] for kind, count in counts.items()))

"""Detection with a trained DETR: from any pictures to boxes, labels, scores and names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
from torchvision.ops import box_convert

from dropkey_core.engine import UserError, dataset_path, instantiate
from dropkey_core.engine.files.inputs import Input
from dropkey_core.engine.inference import Trained
from dropkey_core.engine.predictor import Predictor, Result, warn_of_numbers
from projects.detr.annotation_file import Category
from projects.detr.coco import read_categories
from projects.detr.detr import Detr
from projects.detr.mapper import DetrMapper
from projects.detr.picture import Box, markings_of
from projects.detr.published import PUBLISHED
from projects.drawing import Picture, as_array, draw_picture

COCO_CLASSES = 91  # of a head whose class index is COCO's category id
IDENTIFIER = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")  # on Hugging Face's hub
UNUSED = ("unused", "N/A", "__background__")  # names of indices that are no class


@dataclass(frozen=True, eq=False, repr=False)
class Detections(Result):
    """Objects on a picture, the surest first.

    Attributes:
        boxes_xyxy: (n, 4) float32 in pixels of the picture; they may reach over its edge.
        scores: (n,) float32 in [0, 1].
        labels: (n,) int64, class indices.
        names: of the classes, n of them.
        category_ids: of the classes in COCO's files, n of them.
    """

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor
    names: list[str]
    category_ids: list[int]

    @classmethod
    def of(
        cls,
        picture: Input,
        outputs: Mapping[str, Tensor],
        score_threshold: float,
        names: Sequence[str],
        category_ids: Sequence[int],
    ) -> "Detections":
        """What the network found on a picture, see ``projects.detr.detr.detections``."""
        scores, order = outputs["scores"].cpu().sort(descending=True, stable=True)
        order = order[: int((scores >= score_threshold).sum())]
        labels = outputs["labels"].cpu()[order]
        return cls(
            picture.image,
            picture.file_name,
            outputs["boxes_xyxy"].cpu()[order],
            scores[: len(order)],
            labels,
            [names[label] for label in labels.tolist()],
            [category_ids[label] for label in labels.tolist()],
        )

    @property
    def boxes(self) -> list[Box]:
        """What to draw."""
        values = zip(self.boxes_xyxy.tolist(), self.names, self.scores.tolist(), strict=True)
        return [Box(tuple(corners), name, score) for corners, name, score in values]

    def picture(self, true: Sequence[Box] = ()) -> Picture:
        """The picture with boxes, names and scores, and with true boxes."""
        title = Path(self.file_name).name
        return Picture(title, as_array(self.image), markings_of(self.boxes, true))

    def draw(self) -> Image.Image:
        """The picture with boxes, names and scores; a small one is enlarged."""
        return draw_picture(self.picture())

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """The entries of a COCO result file, ``bbox`` [x, y, width, height] in pixels."""
        bboxes = box_convert(self.boxes_xyxy, "xyxy", "xywh").tolist()
        return [
            {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}
            for category_id, bbox, score in zip(
                self.category_ids, bboxes, self.scores.tolist(), strict=True
            )
        ]

    entries = to_coco


@dataclass(frozen=True, repr=False)
class Detector(Predictor[Detections]):
    """A trained DETR in eval mode with all that it takes to use it.

    Attributes:
        model: the network.
        mapper: from a record to the network's sample.
        names: of the classes, by index.
        category_ids: of the classes in COCO's files, by index.
    """

    kind = "DETR"
    key = "class_embed.weight"
    published = PUBLISHED
    results_file = "detections.json"
    things = "objects"
    score_threshold = 0.5

    model: Detr
    mapper: DetrMapper
    names: Sequence[str]
    category_ids: Sequence[int]

    @classmethod
    def find(cls, source: str | Path, **how: Any) -> Trained:
        """Find what ``from_pretrained`` is given; a Hugging Face id or folder, too."""
        if how.get("config") is None and is_hugging_face(source):
            return from_hugging_face(source, how.get("device"))
        return super().find(source, **how)

    @classmethod
    def from_trained(cls, trained: Trained) -> "Detector":
        """Build the config's model with as many classes as the checkpoint has, and load that.

        So an official checkpoint works where no dataset is, which the config would ask instead.

        Raises:
            UserError: the checkpoint is of another model.
        """
        num_classes = len(trained.tensor(cls.kind, cls.key)) - 1  # one row is "no object"
        model = trained.build({"num_classes": num_classes})
        mapper = instantiate(trained.config.dataloader.test.mapper, "dataloader.test.mapper")
        classes = trained.classes(list[Category]) or ()
        if len(classes) != num_classes:
            classes = known_classes(num_classes, trained.config)
        return cls(model, mapper, [each.name for each in classes], [each.id for each in classes])

    def predict(
        self, inputs: Sequence[Input], score_threshold: float = score_threshold
    ) -> list[Detections]:
        """Detect objects on a batch of pictures.

        Args:
            inputs: the pictures.
            score_threshold: what is less sure is left out; 0 keeps one object for each query.
        """
        if not 0 <= score_threshold <= 1:
            raise UserError(f"score_threshold must be in [0, 1], got {score_threshold}")
        found = self.model([self.mapper(vars(each)) for each in inputs])
        return [
            Detections.of(each, outputs, score_threshold, self.names, self.category_ids)
            for each, outputs in zip(inputs, found, strict=True)
        ]

    def categories(self) -> list[dict[str, Any]]:
        """The classes as a COCO file lists its categories."""
        pairs = zip(self.category_ids, self.names, strict=True)
        return [{"id": number, "name": name} for number, name in pairs if name not in UNUSED]


def known_classes(num_classes: int, config: DictConfig) -> list[Category]:
    """Classes by index: those of the config's two sets if they are as many, COCO's, or numbers."""
    test, train = (OmegaConf.select(config, f"dataset.{s}.annotations") for s in ("test", "train"))
    if isinstance(test, str) and dataset_path(test).is_file():
        classes = read_categories(test, same_categories_as=train).classes
        if len(classes) == num_classes:
            return classes
    if num_classes == COCO_CLASSES:
        names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    else:
        warn_of_numbers(test, "class 0, class 1, ..., and category ids are 0, 1, ...")
        names = [f"class {index}" for index in range(num_classes)]
    return [Category(index, name) for index, name in enumerate(names)]


def is_hugging_face(source: str | Path) -> bool:
    """Whether a source is a folder that transformers wrote, or an ``owner/name[@revision]``.

    What would be in a folder that there is, ``output/demo``, is a misspelt path instead.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return (folder / "config.json").is_file() and not (folder / "config.yaml").exists()
    return not folder.parent.exists() and IDENTIFIER.fullmatch(str(source)) is not None


def from_hugging_face(source: str | Path, device: str | None) -> Trained:
    """A DETR of transformers as one of ours; see ``load_hugging_face``."""
    from projects.detr.hugging_face import image_sides, load_hugging_face

    state, settings, names = load_hugging_face(source)
    shorter, longer = image_sides(source)
    mapper = {"training": False, "min_sizes": [shorter], "max_size": longer}
    config = {
        "model": {"_target_": "projects.detr.build_model", **settings},
        "dataloader": {"test": {"mapper": {"_target_": "projects.detr.DetrMapper", **mapper}}},
        "train": {"device": device or "cuda"},
    }
    classes = [{"id": index, "name": name} for index, name in enumerate(names)]
    content = {"model": state, "classes": classes}
    return Trained(OmegaConf.create(config), content, str(source))

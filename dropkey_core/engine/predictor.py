"""Predictor: base class of trained models that are called on pictures, and of their results.

detector = Detector.from_pretrained("detr-r50")
detector("photo.jpg").save("found.png")
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.atomic_write import output_file, whole_file
from dropkey_core.engine.files.inputs import Input, in_batches, is_many, read_inputs
from dropkey_core.engine.inference import Trained, find_trained
from dropkey_core.engine.paths import dataset_path
from dropkey_core.engine.published import PublishedWeights


@dataclass(frozen=True, eq=False, repr=False)
class Result(ABC):
    """What was found on a picture.

    Attributes:
        image: (3, H, W) uint8 RGB.
        file_name: where the picture is from; "" for pixels that came as such.
    """

    image: Tensor
    file_name: str

    @abstractmethod
    def draw(self) -> Image.Image:
        """A picture of what was found."""

    def __len__(self) -> int:
        """How much was found; each field of a class is about that."""
        return len(getattr(self, dataclasses.fields(self)[2].name))

    def __bool__(self) -> bool:
        """A result is there even if nothing was found."""
        return True

    def __repr__(self) -> str:
        """Where, and how much; the pixels would fill the screen."""
        height, width = self.image.shape[1:]
        place = self.file_name or "a picture"
        return f"<{type(self).__name__} on {place} ({width} x {height}): {len(self)} found>"

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values, for JSON; of the picture itself its size."""
        height, width = self.image.shape[1:]
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields.pop("image")
        size = {"file_name": fields.pop("file_name"), "height": height, "width": width}
        return {**size, **{name: plain(value) for name, value in fields.items()}}

    def entries(self, image_id: int) -> list[dict[str, Any]]:
        """What the JSON file of a command holds about this picture."""
        return [{"image_id": image_id, **self.to_dict()}]

    def save(self, path: str | Path) -> None:
        """Write ``draw()`` as PNG, JPEG or whatever the path ends in; makes the folder.

        Raises:
            UserError: an ending that is none of a picture, or the file cannot be written.
        """
        path = Path(path)
        kind = Image.registered_extensions().get(path.suffix.lower())
        if kind not in Image.SAVE:
            raise UserError(f"cannot save {path}: give it the ending of a picture, such as .png")
        path, picture = output_file(path), self.draw()
        with whole_file(path, "wb") as file:
            picture.save(file, kind, compress_level=1)  # PNG: twice as fast as drawing it, not half


def plain(value: Any) -> Any:
    """A tensor or array as a list."""
    return value.tolist() if isinstance(value, Tensor | np.ndarray) else value


def warn_of_numbers(file: Any, called: str) -> None:
    """Say that classes have no names, since the file that a config names for them has none."""
    place = dataset_path(file) if isinstance(file, str) else None
    why = f"no {place or 'file with the names of the classes'}"
    why = f"{place} has other classes" if place is not None and place.is_file() else why
    print(f"warning: {why}: what is found is called {called}")


R = TypeVar("R", bound=Result)
P = TypeVar("P", bound="Predictor[Any]")


class Predictor(ABC, Generic[R]):
    """A trained model in eval mode, with all that it takes to use it on any pictures.

    A project says how its model is made and what it finds; what a picture may be, batches and
    streams are here.
    """

    kind: ClassVar[str]  # what the model is called
    key: ClassVar[str]  # a tensor that all of its checkpoints have
    published: ClassVar[Mapping[str, PublishedWeights]]  # by name
    results_file: ClassVar[str]  # of the command, JSON
    things: ClassVar[str]  # what it finds, to be counted
    score_threshold: float | None = None  # the usual one of ``predict``; None: it takes none

    def __repr__(self) -> str:
        """What it is; its network would fill the screen."""
        return f"<{type(self).__name__}: {self.kind}, finds {self.things}>"

    @classmethod
    def from_pretrained(
        cls: type[P],
        source: str | Path,
        *,
        config: str | Path | DictConfig | None = None,
        overrides: Sequence[str] = (),
        device: str | None = None,
        **options: Any,
    ) -> P:
        """Load a trained model.

        Args:
            source: a published name, the folder of a run, a checkpoint (file or URL), or what
                else the project can read.
            config: the model's YAML, instead of the one that the source brings along.
            overrides: ``key=value`` changes to it.
            device: ``cuda``, ``mps`` or ``cpu``; by default what the config says, if it is there.
            options: see ``from_trained`` of the class.

        Raises:
            UserError: there is no such model, it is of another kind, or it cannot be read.
        """
        found = cls.find(source, config=config, overrides=overrides, device=device)
        return cls.from_trained(found, **options)

    @classmethod
    def find(cls, source: str | Path, **how: Any) -> Trained:
        """Find what ``from_pretrained`` is given; see ``find_trained``."""
        return find_trained(source, cls.published, **how)

    @classmethod
    def recognises(cls, trained: Trained) -> bool:
        """Whether weights are of this kind of model."""
        return cls.key in trained.state

    @classmethod
    @abstractmethod
    def from_trained(cls: type[P], trained: Trained) -> P:
        """Build the model of a config and a checkpoint that have been read."""

    @abstractmethod
    def predict(self, inputs: Sequence[Input]) -> list[R]:
        """What is found on a batch of pictures, in their order.

        A class may take further options by name, which every way to call it passes on.
        """

    def __call__(
        self, source: Any, *, batch_size: int = 1, **options: Any
    ) -> R | list[R] | Iterator[R]:
        """Look at pictures.

        Args:
            source: a picture: path, http(s) address, (H, W, 3) uint8 RGB array (OpenCV's are BGR:
                ``image[..., ::-1]``), (3, H, W) uint8 tensor or PIL image; a list of those; an
                iterator over them, a folder, a video file, or the number of a camera.
            batch_size: so many pictures go through the model at once.
            options: of the class's ``predict``.

        Returns:
            the result of one picture; a list for a list; for the others an iterator, which reads
            and forgets as it goes. Of a folder, a file that cannot be read is told and left out.

        Raises:
            UserError: something else cannot be read.
        """
        results = self.stream(read_inputs(source), batch_size, **options)
        if is_many(source):
            return results
        return list(results) if isinstance(source, list | tuple) else next(results)

    def stream(self, inputs: Iterator[Input], batch_size: int = 1, **options: Any) -> Iterator[R]:
        """Yield the result of each picture."""
        for batch in in_batches(inputs, batch_size):
            with torch.inference_mode():
                found = self.predict(batch, **options)
            yield from found

"""Evaluation: running a model over a test set, and a base class of evaluators."""

import csv
import json
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from dropkey_core.engine.distributed import gather_objects, rank_and_world_size
from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.atomic_write import make_folder, whole_file

logger = logging.getLogger(__name__)

# {"bbox": {"AP": 42.0, ...}, ...}: metrics by task, as detectron2's evaluators return them.
Results = Mapping[str, Any]


class Evaluator(Protocol):
    """Sees every input and output of a test set once and sums them up; detectron2's contract.

    With ``classes``, names in plain lists and dicts, these go into the checkpoints.
    """

    def reset(self) -> None:
        """Forget everything seen so far."""

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take in one batch: the samples, and what the model made of each."""

    def evaluate(self) -> Results | None:
        """Return metrics by task for what all processes saw; other ranks than 0 may return None."""


class Examples:
    """A few images of a process's part of the test set, evenly spread, the same every time.

    Args:
        most: how many, and no less than half of that where there are more; 0 keeps none.

    Attributes:
        pairs: of a sample and what the model made of it.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.pairs: list[tuple[Any, Any]] = []
        self._seen = 0
        self._every = 1

    def add(self, samples: list[Any], outputs: list[Any]) -> None:
        """Keep every image of a batch; when there are too many, every second one, and so on."""
        for pair in zip(samples, outputs, strict=True) if self.most else ():
            if self._seen % self._every == 0:
                self.pairs.append(pair)
            if len(self.pairs) > self.most:
                self.pairs, self._every = self.pairs[::2], 2 * self._every
            self._seen += 1


class ImageEvaluator(ABC):
    """Base class of evaluators: something is kept of each image, and the first process measures.

    An image counts once, however often and in whichever process it was seen. What is kept is put
    in the order of image ids, so that no sum depends on the number of processes. A subclass says
    what is kept (``keep``) and what is measured (``measure``). With ``draw(samples, outputs)``,
    which returns a picture (H, W, 3) uint8, the engine shows a few in its logs.

    Args:
        output_dir: folder for the files that ``measure`` writes; None writes none.
        image_ids: of the whole test set, where known: others are refused, missing ones told.
        source: what errors call that test set.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str] | None = None,
        image_ids: Collection[int] | None = None,
        source: object = "the ground truth",
    ) -> None:
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.image_ids = image_ids
        self.source = source
        self.reset()

    def reset(self) -> None:
        """Forget everything seen so far."""
        self._kept: dict[int, Any] = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take in one batch: see ``keep`` for what a sample and its output must have.

        Raises:
            UserError: an image that does not belong to the test set; see ``keep``.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            image_id = int(sample["image_id"])
            if self.image_ids is not None and image_id not in self.image_ids:
                raise UserError(f"image_id {image_id} is not in {self.source}")
            self._kept[image_id] = self.keep(sample, output)

    def evaluate(self) -> Results | None:
        """Return what ``measure`` makes of all processes' images; None in others than the first."""
        kept = self.gather()
        return None if kept is None else self.measure(kept)

    def gather(self) -> dict[int, Any] | None:
        """Return what all processes kept, by rising image id; None in others than the first.

        Raises:
            UserError: no process saw an image, and the test set's are not known.
        """
        parts = gather_objects(self._kept)
        if self.image_ids is None and not any(parts):
            raise UserError("there are no images to evaluate; dataloader.test.dataset gave none")
        if rank_and_world_size()[0] != 0:
            return None
        kept = {image_id: part[image_id] for part in reversed(parts) for image_id in part}
        if self.image_ids is not None and len(kept) < len(self.image_ids):
            logger.warning(
                f"{len(self.image_ids) - len(kept)} of the {len(self.image_ids)} images of "
                f"{self.source} were not processed; they count as images where nothing was found"
            )
        return dict(sorted(kept.items()))

    @abstractmethod
    def keep(self, sample: dict[str, Any], output: dict[str, Any]) -> Any:
        """Return what is kept of an image: something on the CPU that can be pickled."""

    @abstractmethod
    def measure(self, kept: dict[int, Any]) -> Results:
        """Return metrics by task for what was kept, by rising image id."""

    def write_json(self, name: str, document: Any, indent: int | None = None) -> None:
        """Write a JSON file into ``output_dir``, atomically."""
        if self.output_dir is not None:
            with whole_file(make_folder(self.output_dir) / name) as file:
                file.write(json.dumps(document, indent=indent))

    def write_csv(self, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write a table into ``output_dir``, atomically."""
        if self.output_dir is not None:
            with whole_file(make_folder(self.output_dir) / name) as file:
                csv.writer(file).writerows([header, *rows])


def run_evaluation(
    model: nn.Module,
    loader: Iterable[list[dict[str, Any]]],
    evaluator: Evaluator,
    after_batch: Callable[[list[Any], list[Any]], None] = lambda batch, outputs: None,
) -> dict[str, float]:
    """Evaluate ``model`` on ``loader`` and return flat metrics, the same in every process.

    Args:
        model: called in eval mode without gradients; its mode is put back.
        loader: batches of samples, this process's part of the test set.
        evaluator: sees each batch and its outputs, which may lie on any device.
        after_batch: called with each batch and its outputs; may stop by raising.

    Returns:
        ``{"bbox/AP": 42.0}`` for an evaluator's ``{"bbox": {"AP": 42.0}}``.
    """
    was_training = model.training
    model.eval()
    evaluator.reset()
    try:
        with torch.no_grad():
            for batch in loader:
                outputs = model(batch)
                evaluator.process(batch, outputs)
                after_batch(batch, outputs)
        results = evaluator.evaluate()
    finally:
        model.train(was_training)
    # Ranks must not disagree about which checkpoint is best, or about having one.
    return gather_objects(flatten_results(results or {}))[0]


def flatten_results(results: Results, prefix: str = "") -> dict[str, float]:
    """Return nested results as ``{"task/metric": number}``; what is not a number is left out."""
    flat: dict[str, float] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            flat |= flatten_results(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) or getattr(value, "ndim", None) == 0:
            flat[f"{prefix}{name}"] = float(value)
    return flat

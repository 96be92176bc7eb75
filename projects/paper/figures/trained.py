"""Loading trained models for analysis: weights, test set and evaluator of a run's folder."""

import copy
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf
from timm.data.transforms import MaybeToTensor
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import Compose
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from tqdm import tqdm

from dropkey_core.engine.build import build_evaluation, build_model
from dropkey_core.engine.checkpoint import load_weights
from dropkey_core.engine.config import load_config
from dropkey_core.engine.data import TestBatchSampler
from dropkey_core.engine.errors import UserError
from dropkey_core.engine.evaluation import Evaluator
from dropkey_core.engine.run_folder import CONFIG, checkpoint_in
from projects.paper.figures.corruptions import Corruption

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        label: what it is called in figures; models of equal label are repetitions, as of several
            seeds.
        place: the folder it is from, for CSV files.
        config: loaded.
        weights: path of a checkpoint.
    """

    label: str
    place: str
    config: DictConfig
    weights: str

    @property
    def columns(self) -> dict[str, str]:
        """The columns of a CSV file that say which model a row is about."""
        return {"label": self.label, "run": self.place}


def find_sources(
    runs: Sequence[Path], labels: Sequence[str] | None, overrides: Sequence[str]
) -> list[Source]:
    """Find the models that a command line names.

    Args:
        runs: folders of trainings.
        labels: one for each run; None: the folders' names.
        overrides: changes to all configs.

    Raises:
        UserError: labels that do not fit the runs, a folder that is none of a run, or a run without
            a checkpoint.
    """
    names = labels or [run.absolute().name for run in runs]
    if len(names) != len(runs):
        raise UserError(f"--labels must name each run: {len(runs)} runs, {len(names)} labels")
    return [find_source(run, name, overrides) for run, name in zip(runs, names, strict=True)]


def find_source(run: Path, label: str, overrides: Sequence[str]) -> Source:
    """Find the model of one run, see ``find_sources``."""
    folder = run.expanduser().absolute()
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is no folder of a run: it has no {CONFIG}")
    config = load_config(folder / CONFIG, overrides)
    # A test set's evaluator writes predictions where those of the training lie.
    if OmegaConf.select(config, "dataloader.evaluator.output_dir") is not None:
        config.dataloader.evaluator.output_dir = None
    return Source(label, str(run), config, str(checkpoint_in(folder)))


@dataclass(frozen=True)
class Trained:
    """A model in eval mode, where the config wants it or on the CPU if that is not there.

    Attributes:
        source: where it is from.
        model: with its weights.
        loader: all of its test set.
        evaluator: of the test set.
    """

    source: Source
    model: nn.Module
    loader: Any
    evaluator: Evaluator

    def batches(
        self, num_images: int | None = None, corruption: Corruption | None = None
    ) -> Iterable[list[dict[str, Any]]]:
        """The test set in batches, all of it or a random selection, corrupted or not.

        In a terminal with a progress bar.

        Args:
            num_images: at most so many, the same in each call; None: all.
            corruption: changes the image after it was cut to size and before it is normalised.

        Raises:
            UserError: another kind of loader or mapper than those of this project.
        """
        sampler = getattr(self.loader, "batch_sampler", None)
        if not isinstance(sampler, TestBatchSampler):
            raise UserError("dataloader.test must be dropkey_core.engine.build_test_loader")
        records = self.loader.dataset
        if corruption is not None:
            records = _with_corruption(records, corruption)
        draws = [draw for batch in sampler for draw in batch]
        if num_images is not None and num_images < len(draws):
            # Not every n-th: in sets whose classes take turns that may be one class only.
            order = torch.randperm(len(draws), generator=torch.Generator().manual_seed(0))
            draws = [draws[i] for i in sorted(order[:num_images].tolist())]
        size = sampler.batch_size
        groups = [draws[start : start + size] for start in range(0, len(draws), size)]
        loader: DataLoader[Any] = DataLoader(
            records,
            batch_sampler=groups,
            num_workers=self.loader.num_workers,
            collate_fn=list,
            worker_init_fn=self.loader.worker_init_fn,
        )
        return tqdm(loader, self.source.label, leave=False, disable=not sys.stderr.isatty())


def load_trained(source: Source) -> Trained:
    """Build a model and load its weights.

    Raises:
        UserError: for bad settings or input.
    """
    config = source.config
    torch.manual_seed(config.train.seed)
    model = build_model(config, weights_follow=True)
    said = load_weights(model, source.weights)
    loader, evaluator = build_evaluation(config)
    use_gpu = config.train.device == "cuda" and torch.cuda.is_available()
    print(f"{source.label}: {said}", flush=True)
    return Trained(source, model.to("cuda" if use_gpu else "cpu").eval(), loader, evaluator)


def _with_corruption(records: Any, corruption: Corruption) -> Any:
    """A copy of mapped records whose mapper corrupts the image that it is about to normalise."""
    mapper: Any = getattr(records, "mapper", None)
    steps = getattr(getattr(mapper, "transform", None), "transforms", ())
    places = [i for i, step in enumerate(steps) if isinstance(step, MaybeToTensor)]
    if not places:
        raise UserError(
            "corrupted images need a mapper with timm's `transform`, as that of "
            f"projects.classification; dataloader.test.mapper is a {type(mapper).__name__}"
        )
    mapper = copy.copy(mapper)
    corrupt = partial(_corrupted, corruption=corruption)
    mapper.transform = Compose([*steps[: places[0]], corrupt, *steps[places[0] :]])
    changed = copy.copy(records)
    changed.mapper = mapper
    return changed


def _corrupted(image: "Image", corruption: Corruption) -> "Image":
    return to_pil_image(corruption(pil_to_tensor(image)))


def measured(
    sources: Iterable[Source], measure: Callable[[Trained], T]
) -> Iterator[tuple[Source, T]]:
    """Load one model after the other and measure it.

    Args:
        sources: the models.
        measure: what is returned of it; its ValueErrors are the user's to mend.

    Raises:
        UserError: bad settings or input, or what ``measure`` refuses.
    """
    for source in sources:
        trained = load_trained(source)
        try:
            found = measure(trained)
        except ValueError as error:
            raise UserError(str(error)) from error
        yield source, found

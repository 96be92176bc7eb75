"""Plan of many small trainings: grids of regimes, methods and seeds, read from a YAML."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct, field
from omegaconf import DictConfig, OmegaConf

from dropkey_core.engine.config import load_config
from dropkey_core.engine.errors import UserError, suggestion
from dropkey_core.engine.files.yaml_file import find_yaml, read_yaml

BASELINE = "none"
OWN = "own"  # augmentation, of the engine's plans: what the config says


@dataclass(frozen=True)
class Run:
    """One training; everything that tells it from the others of its plan.

    Attributes:
        data: name of the data set.
        network: one of the plan's.
        images: for training; of each class, where the task is to classify.
        augmentation: one of the plan's.
        steps: length of the training.
        method: ``none``, or one of the plan's.
        ratio: drop ratio; 0 for ``none``.
        schedule: of the ratio over the depth; "-" for ``none``.
        seed: of weights, subset, order, augmentation and masks.
    """

    data: str
    network: str
    images: int
    augmentation: str
    steps: int
    method: str
    ratio: float
    schedule: str
    seed: int

    @property
    def regime(self) -> tuple[Any, ...]:
        """What a method is compared with the baseline in."""
        return astuple(self)[:5]

    @property
    def treatment(self) -> tuple[Any, ...]:
        """Method, ratio, schedule."""
        return astuple(self)[5:8]

    def __str__(self) -> str:
        return " ".join(f"{column.name}={getattr(self, column.name)}" for column in fields(self))


class Network(Struct, forbid_unknown_fields=True):
    """A network with its data and optimizer: a config, and what is changed in it."""

    config: str
    overrides: list[str] = []

    def load(self, overrides: Sequence[str] = ()) -> DictConfig:
        """The config with the plan's changes and further ones; UserError if it is not right."""
        return load_config(self.config, [*self.overrides, *overrides])


class Augmentation(Struct, forbid_unknown_fields=True):
    """A shift by up to ``padding`` pixels with black coming in, and a horizontal flip."""

    padding: int = 0
    flip_probability: float = 0.0


class Grid(Struct, forbid_unknown_fields=True):
    """The product of its lists; ``none`` is trained once for all ratios and schedules.

    There are ``seeds`` seeds from ``first_seed`` on. Cells that a screen has chosen need others
    than the screen's: those that chose them would flatter them.
    """

    network: list[str]
    images: list[int]
    steps: list[int]
    method: list[str]
    ratio: list[float]
    schedule: list[str]
    seeds: int
    first_seed: int = 0
    augmentation: list[str] = field(default_factory=lambda: [OWN])

    def runs(self, data: str) -> list[Run]:
        """All runs, seed after seed: a plan that is stopped early is whole in its first seeds."""
        regimes = list(product(self.network, self.images, self.augmentation, self.steps))
        treated = [method for method in self.method if method != BASELINE]
        treatments: list[tuple[str, float, str]] = [(BASELINE, 0.0, "-")]
        treatments = treatments if BASELINE in self.method else []
        treatments += product(treated, self.ratio, self.schedule)
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        wanted = product(seeds, regimes, treatments)
        return [Run(data, *regime, *treatment, seed) for seed, regime, treatment in wanted]


class Metric(Struct, forbid_unknown_fields=True):
    """A column of the CSV to compare methods by: how reports call it, and its decimals."""

    label: str
    digits: int = 1


CLASSIFICATION = {
    "test_top1": Metric("top-1, points"),
    "test_loss": Metric("cross entropy", digits=3),
    "test_ece": Metric("calibration error, points"),
}


class Claim(Struct, forbid_unknown_fields=True):
    """What a paper says of two kinds of runs, to be held against ours, paired by all else.

    Attributes:
        text: the claim.
        expected: whether the first kind has more of the metric than the second, or less.
        metric: a column of the CSV.
        of: what the first kind's columns hold, ``{method: dropkey}``; none: all runs.
        than: the second kind's, of the same columns.
        than_metric: the second kind's column; default: the same.
    """

    text: str
    expected: Literal["more", "less"]
    metric: str
    of: dict[str, Any] = {}
    than: dict[str, Any] = {}
    than_metric: str = ""

    def __post_init__(self) -> None:
        if self.of.keys() != self.than.keys():
            raise ValueError("of and than must name the same columns")
        if unknown := self.of.keys() - {column.name for column in fields(Run)}:
            raise ValueError(f"a run has no column {min(unknown)}")


class Plan(Struct, forbid_unknown_fields=True):
    """Which trainings to make.

    Attributes:
        title: of the report.
        data: name of the data set, for the report; the networks' configs say what it is.
        networks: by name.
        trainer: ``memory`` classifies images that it holds as tensors, a training in seconds;
            ``engine`` trains whatever a config describes, as ``tools/train_net.py`` does.
        batch_size: of every training in memory.
        augmentations: by name, of trainings in memory.
        metrics: by column of the CSV; the first is drawn.
        methods: the ``drop_unit`` of ``build_model`` by name; ``none`` needs none.
        grids: what to train; what two of them have in common is trained once.
        measures: what else to measure of each trained network, see ``measures.py``.
        claims: to be held against the numbers in the report.
        path: of the YAML; set by whoever reads it.
    """

    title: str
    data: str
    networks: dict[str, Network]
    methods: dict[str, Any]
    grids: list[Grid]
    trainer: Literal["memory", "engine"] = "memory"
    batch_size: int = 16
    augmentations: dict[str, Augmentation] = {}
    metrics: dict[str, Metric] = field(default_factory=CLASSIFICATION.copy)
    measures: list[Literal["occlusion", "alignment", "entropy"]] = []
    claims: list[Claim] = []
    path: Path = Path()

    def runs(self) -> list[Run]:
        """All runs, each once, seed after seed."""
        runs = dict.fromkeys(run for grid in self.grids for run in grid.runs(self.data))
        return sorted(runs, key=lambda run: run.seed)


def read_plan(path: str | Path) -> Plan:
    """Read a plan.

    Raises:
        UserError: for whatever is wrong, naming the file and the key.
    """
    path = find_yaml(path, "plan", "configs/regimes/*.yaml")
    content = OmegaConf.to_container(read_yaml(path, Plan.__struct_fields__), resolve=True)
    try:
        plan = msgspec.convert(content, Plan)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}") from error
    plan.path = path
    for grid in plan.grids:
        _check_names(path, "network", grid.network, plan.networks)
        _check_names(path, "augmentation", grid.augmentation, plan.augmentations or [OWN])
        _check_names(path, "method", grid.method, [BASELINE, *plan.methods])
    return plan


def _check_names(path: Path, kind: str, names: list[str], known: Any) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"{path}: no {kind} {name!r} in this plan{suggestion(name, known)}")

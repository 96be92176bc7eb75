"""The pieces of work behind a table: a row with one seed, in its own folder."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dropkey_core.engine.config import load_config
from dropkey_core.engine.errors import UserError, suggestion
from dropkey_core.engine.run_folder import LAST
from projects.paper.tables.measurement import check_measurement
from projects.paper.tables.schema import Row, Setup
from projects.paper.tables.table import Table

# Where and how a run computes, not what: a result stays valid when these change.
INDIFFERENT = (
    "dataloader.test.num_workers",
    "dataloader.train.num_workers",
    "train.checkpointer",
    "train.ddp",
    "train.device",
    "train.log_period",
    "train.output_dir",
)


@dataclass(frozen=True)
class Plan:
    """What decides which jobs a table has, besides the table.

    Attributes:
        scale: one of the table's.
        output: folder of all tables.
        rows: ids of the rows wanted; none: all.
        seeds: in place of the table's; none: the table's.
        overrides: ``key=value`` for every training, after the table's own.
    """

    scale: str = "full"
    output: Path = Path("output/tables")
    rows: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for override in self.overrides:
            key = override.partition("=")[0]
            if key in ("train.output_dir", "train.seed"):
                instead = {"train.output_dir": "--output", "train.seed": "--seeds"}[key]
                raise UserError(f"the override {override!r} is the table's to set: use {instead}")

    def folder(self, table: Table) -> Path:
        """Folder of a table at this scale: reports, and below it the runs."""
        return self.output / table.name / self.scale

    def rows_of(self, table: Table) -> list[Row]:
        """The rows wanted, in the table's order.

        Raises:
            UserError: one that the table does not have.
        """
        for name in self.rows:
            if name not in table.rows:
                raise UserError(f"{table.path} has no row {name!r}{suggestion(name, table.rows)}")
        return [
            row
            for row in table.rows.values()
            if (row.id in self.rows if self.rows else row.reported)
        ]

    def seeds_of(self, table: Table, row: Row) -> Sequence[int]:
        """The seeds wanted of a row."""
        return self.seeds or table.seeds_of(row, self.scale)


@dataclass(frozen=True)
class Job:
    """A row with one seed: a training, or a measurement of trained weights.

    Attributes:
        table: the table that the row stands in.
        row: not one that repeats another or is left out.
        seed: of the training; masks of a measurement follow from it, too.
        plan: scale, output folder and further overrides.
        parent: the job whose weights this one uses, if any.
    """

    table: Table
    row: Row
    seed: int
    plan: Plan = field(repr=False)
    parent: "Job | None" = field(repr=False)

    @property
    def name(self) -> str:
        """How the job is called when it is spoken of."""
        return f"{self.table.name}/{self.row.id}, seed {self.seed}"

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from all other jobs of a plan."""
        return self.table.name, self.row.id, self.seed

    @property
    def folder(self) -> Path:
        """Where it writes; an ordinary ``train.output_dir`` if it is a training."""
        return self.plan.folder(self.table) / self.row.id / f"seed{self.seed}"

    @property
    def setup(self) -> Setup:
        """What it does."""
        return self.table.setups[self.row.setup][self.plan.scale]

    @property
    def overrides(self) -> list[str]:
        """What a training changes in its setup's config, but for weights, seed and folder."""
        stage = self.table.stages[self.row.stage][self.plan.scale] if self.row.stage else []
        return [*self.setup.overrides, *self.row.overrides, *stage, *self.plan.overrides]

    @cached_property
    def config(self) -> DictConfig:
        """The resolved config of a training.

        Raises:
            UserError: for a config or an override that is wrong, naming the row.
        """
        placed = [f"train.seed={self.seed}", f"train.output_dir={self.folder}"]
        overrides = [*self.overrides, *placed]
        if self.parent:
            overrides.append(f"train.init_checkpoint={self.parent.folder / LAST}")
        try:
            return load_config(self.setup.config, overrides)
        except UserError as error:
            raise UserError(f"{self.table.path}, row {self.row.id}: {error}") from error

    def settings(self) -> dict[str, Any]:
        """What the result depends on, as plain values, beside the weights that it starts from.

        Raises:
            UserError: as ``config``, or for a measurement that is wrong.
        """
        if self.setup.measure:
            try:
                check_measurement(self.setup.measure)
            except UserError as error:
                raise UserError(f"{self.table.path}, row {self.row.id}: {error}") from error
            return {"measure": self.setup.measure}
        return essential(self.config, self.plan.output, started=self.parent is not None)


def plan_jobs(table: Table, plan: Plan) -> list[Job]:
    """Return all jobs that the rows wanted need, each once, those that others need first.

    Raises:
        UserError: an unknown scale or row.
    """
    table.check_scale(plan.scale)
    jobs: dict[tuple[str, str, int], Job] = {}
    for row in plan.rows_of(table):
        for job in jobs_of_row(table, row, plan):
            for needed in _lineage(job):
                jobs.setdefault(needed.key, needed)
    return list(jobs.values())


def jobs_of_row(table: Table, row: Row, plan: Plan) -> list[Job]:
    """Return the jobs whose results are a row's numbers, by seed; none for one that is left out."""
    if row.left_out:
        return []
    return [_job(table, row, seed, plan) for seed in plan.seeds_of(table, row)]


def _job(table: Table, row: Row, seed: int, plan: Plan) -> Job:
    while row.same_as:
        table, row = table.find_row(row.same_as)
    table.check_scale(plan.scale)
    parent = _job(*table.find_row(row.weights_of), seed, plan) if row.weights_of else None
    return Job(table, row, seed, plan, parent)


def _lineage(job: Job) -> Iterable[Job]:
    if job.parent:
        yield from _lineage(job.parent)
    yield job


def essential(config: DictConfig, output: Path, started: bool) -> dict[str, Any]:
    """Return a config without what does not change its result, wherever its folder lies."""
    plain: Any = OmegaConf.to_container(config, enum_to_str=True)
    for name in (*INDIFFERENT, *(["train.init_checkpoint"] if started else [])):
        *sections, last = name.split(".")
        node = plain
        for section in sections:
            node = node.get(section, {})
        node.pop(last, None)
    settings: dict[str, Any] = _without(plain, str(output))
    return settings


def _without(value: Any, prefix: str) -> Any:
    if isinstance(value, dict):
        return {name: _without(child, prefix) for name, child in value.items()}
    if isinstance(value, list):
        return [_without(child, prefix) for child in value]
    return value.removeprefix(prefix) if isinstance(value, str) else value

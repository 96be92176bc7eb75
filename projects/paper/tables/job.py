"""Jobs: each is a row with one seed, in its own folder: a training or a measurement of weights.

``row.json`` in the folder says what the numbers depend on, and the numbers once they are there. It
is written before the job begins, so that a folder is never taken for another row's.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dropkey_core.engine.config import SECTIONS, load_config
from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.atomic_write import whole_file, writing
from dropkey_core.engine.files.json_file import read_json
from dropkey_core.engine.files.yaml_file import read_yaml
from dropkey_core.engine.run_folder import CONFIG, LAST
from projects.paper.tables.measurement import check_measurement
from projects.paper.tables.table import Row, Setup, Table

RECORD = "row.json"

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

Metrics = dict[str, float]


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
        options = {"train.output_dir": "--output", "train.seed": "--seeds"}
        for override in self.overrides:
            if option := options.get(override.partition("=")[0]):
                raise UserError(f"the override {override!r} is the table's to set: use {option}")

    def folder(self, table: Table) -> Path:
        """Folder of a table at this scale: reports, and below them the runs."""
        return self.output / table.name / self.scale

    def rows_of(self, table: Table) -> list[Row]:
        """The rows wanted, in the table's order; a UserError for one that is not there."""
        wanted = [table.find_row(name)[1] for name in self.rows]
        return [row for row in table.rows if (row in wanted if wanted else row.reported)]


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
        """What tells it from all other jobs of a plan."""
        return f"{self.table.name}/{self.row.id}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Where it writes; an ordinary ``train.output_dir`` if it is a training."""
        return self.plan.folder(self.table) / self.row.id / f"seed{self.seed}"

    @property
    def setup(self) -> Setup:
        """The row's, at the plan's scale."""
        return self.table.setups[self.row.setup][self.plan.scale]

    @property
    def overrides(self) -> list[str]:
        """What a training changes in its setup's config, but for weights, seed and folder."""
        stage = self.table.stages[self.row.stage][self.plan.scale] if self.row.stage else []
        return [*self.setup.overrides, *self.row.overrides, *stage, *self.plan.overrides]

    @cached_property
    def config(self) -> DictConfig:
        """The resolved config of a training; a UserError if it or an override is wrong."""
        placed = [f"train.seed={self.seed}", f"train.output_dir={self.folder}"]
        if self.parent:
            placed.append(f"train.init_checkpoint={self.parent.folder / LAST}")
        return load_config(self.setup.config, [*self.overrides, *placed])

    @cached_property
    def identity(self) -> str:
        """Equal for jobs that must give equal numbers, whatever their rows are called."""
        place = f"/{self.folder.relative_to(self.plan.output).as_posix()}"
        settings = {
            key: value.replace(place, "") if isinstance(value, str) else value
            for key, value in self.settings().items()
        }
        start = self.parent.identity if self.parent else None
        return json.dumps([settings, self.seed, start], sort_keys=True)

    def settings(self) -> dict[str, Any]:
        """What the result depends on, by dotted key, beside the weights that it starts from.

        Raises:
            UserError: a wrong config, override or measurement, with the row's name.
        """
        try:
            if not self.setup.measure:
                return self._essential(self.config)
            check_measurement(self.setup.measure)
        except UserError as error:
            raise UserError(f"{self.table.path}, row {self.row.id}: {error}") from error
        return dict(flatten({"measure": self.setup.measure}))

    def record(self) -> dict[str, Any] | None:
        """Return ``settings``, ``start`` and ``metrics`` as the folder has them; None if it is new.

        A run that ``tools/train_net.py`` began there counts, too: its config is its settings. A
        file that cannot be read is a UserError.
        """
        if (path := self.folder / RECORD).is_file():
            return read_json(path, dict[str, Any])
        if self.setup.config and (path := self.folder / CONFIG).is_file():
            settings = self._essential(read_yaml(path, SECTIONS))
            return {"settings": settings, "start": None, "metrics": None}
        return None

    def write_record(self, start: Metrics | None, metrics: Metrics | None = None) -> None:
        """Write down what the numbers depend on, and the numbers once they are there.

        ``start`` are the metrics of the job whose weights this one uses; None if it uses none.

        Raises:
            UserError: the folder cannot be written to, or settings that are wrong.
        """
        content = {"settings": self.settings(), "start": start, "metrics": metrics}
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(self.folder / RECORD) as file:
            json.dump(content, file, indent=1)

    def metrics(self) -> Metrics | None:
        """The numbers; None before the job is done."""
        record = self.record()
        return record["metrics"] if record else None

    def differences(self, record: Mapping[str, Any]) -> list[str]:
        """Say in which settings a record differs from what is asked for now, one by one.

        The weights that the job starts from are compared once they are there.
        """
        there, here = dict(flatten(record["settings"])), self.settings()
        said = [
            f"{name} {there.get(name, 'absent')} there, {here.get(name, 'absent')} here"
            for name in {**there, **here}
            if there.get(name) != here.get(name)
        ]
        start = self.parent.metrics() if self.parent else None
        if None not in (start, record["start"]) and start != record["start"]:
            said.append(f"the weights of {self.row.weights_of} were others")
        return said

    def _essential(self, config: DictConfig) -> dict[str, Any]:
        """A config without what does not change the result, wherever the output folder lies."""
        left_out = (*INDIFFERENT, "train.init_checkpoint") if self.parent else INDIFFERENT
        output = str(self.plan.output)
        return {
            key: value.removeprefix(output) if isinstance(value, str) else value
            for key, value in flatten(OmegaConf.to_container(config, enum_to_str=True))
            if not any(f"{key}.".startswith(f"{name}.") for name in left_out)
        }


def flatten(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings and lists by dotted key; of an empty one itself."""
    if not isinstance(value, Mapping | list) or not value:
        yield key, value
        return
    for name, child in value.items() if isinstance(value, Mapping) else enumerate(value):
        yield from flatten(child, f"{key}.{name}" if key else str(name))


def plan_jobs(table: Table, plan: Plan) -> list[Job]:
    """Return all jobs that the rows wanted need, each once, those that others need first.

    Raises:
        UserError: an unknown scale or row.
    """
    table.check_scale(plan.scale)
    jobs: dict[str, Job] = {}

    def add(job: Job) -> None:
        if job.parent:
            add(job.parent)
        jobs.setdefault(job.name, job)

    for row in plan.rows_of(table):
        for job in jobs_of_row(table, row, plan):
            add(job)
    return list(jobs.values())


def jobs_of_row(table: Table, row: Row, plan: Plan) -> list[Job]:
    """Return the jobs whose results are a row's numbers, by seed; none for one that is left out."""
    if row.left_out:
        return []
    seeds = plan.seeds or row.seeds.get(plan.scale, table.seeds[plan.scale])
    return [_job(table, row, seed, plan) for seed in dict.fromkeys(seeds)]


def _job(table: Table, row: Row, seed: int, plan: Plan) -> Job:
    while row.same_as:
        table, row = table.find_row(row.same_as)
    table.check_scale(plan.scale)
    parent = _job(*table.find_row(row.weights_of), seed, plan) if row.weights_of else None
    return Job(table, row, seed, plan, parent)

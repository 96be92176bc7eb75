"""``row.json`` in the folder of a job: what its numbers depend on, and the numbers once it is done.

Written before the job begins, so that a folder is never taken for another row's, and again when it
ends; a reader sees the old file or the complete new one.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from dropkey_core.engine.config import SECTIONS
from dropkey_core.engine.errors import UserError, first_line
from dropkey_core.engine.files.yaml_file import read_yaml
from dropkey_core.engine.run_folder import CONFIG
from projects.paper.tables.job import Job, essential

RECORD = "row.json"

Metrics = dict[str, float]


class State(Enum):
    """How far a job is."""

    missing = "not run"
    unfinished = "unfinished"
    done = "done"


@dataclass(frozen=True)
class Record:
    """What a job's folder says.

    Attributes:
        settings: what its numbers depend on.
        start: the metrics of the job whose weights it uses; none if it uses none.
        metrics: its numbers; none before it is done.
    """

    settings: dict[str, Any]
    start: Metrics | None = None
    metrics: Metrics | None = None

    def write(self, folder: Path) -> None:
        """Write it into a folder.

        Raises:
            UserError: the folder cannot be written to.
        """
        content = {"settings": self.settings, "start": self.start, "metrics": self.metrics}
        unfinished = folder / f".{RECORD}.unfinished"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
            unfinished.replace(folder / RECORD)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}") from error


def read_record(job: Job) -> Record | None:
    """Return what a job's folder says; None if there is nothing in it.

    A run that ``tools/train_net.py`` began there counts, too: its config is its settings.

    Raises:
        UserError: a file that cannot be read.
    """
    path = job.folder / RECORD
    if path.is_file():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return Record(content["settings"], content["start"], content["metrics"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = first_line(error)
            raise UserError(f"cannot read {path}: {reason}; delete it to run the row") from error
    if job.setup.config and (job.folder / CONFIG).is_file():
        config = read_yaml(job.folder / CONFIG, SECTIONS)
        return Record(essential(config, job.plan.output, started=job.parent is not None))
    return None


def state_of(job: Job) -> State:
    """How far a job is."""
    record = read_record(job)
    if record is None:
        return State.missing
    return State.unfinished if record.metrics is None else State.done


def metrics_of(job: Job) -> Metrics | None:
    """The numbers of a job; None before it is done."""
    record = read_record(job)
    return record.metrics if record else None


def step_reached(job: Job) -> int:
    """The last logged step of a training, 0 before the first."""
    path = job.folder / "metrics.csv"
    if not path.is_file():
        return 0
    with path.open(newline="") as file:
        steps = [row["step"] for row in csv.DictReader(file) if row.get("step")]
    return int(steps[-1]) if steps and steps[-1].isdigit() else 0


def differences(job: Job, settings: Mapping[str, Any], record: Record) -> list[str]:
    """Say in which settings a record differs from what its job asks for now, one by one.

    What the job starts from is compared once that is done.
    """
    there, here = dict(_flat(record.settings)), dict(_flat(settings))
    changed = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    said = [f"{name} {_shown(there, name)} there, {_shown(here, name)} here" for name in changed]
    start = metrics_of(job.parent) if job.parent else None
    if record.start is not None and start is not None and record.start != start:
        said.append(f"the weights of {job.row.weights_of} were others")
    return said


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return str(settings[name]) if name in settings else "absent"


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, child in value.items():
            yield from _flat(child, f"{key}.{name}" if key else str(name))
    else:
        yield key, value

"""Loggers: ``metrics.csv``, TensorBoard, Weights & Biases and MLflow, and all of a run as one.

What a killed process logged and did not save is done again; each logger says how it keeps such
steps from being there twice.
"""

import contextlib
import csv
import importlib.util
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, ListConfig, OmegaConf

from dropkey_core.engine.errors import UserError, said_by, suggestion
from dropkey_core.engine.files.atomic_write import make_folder, whole_file, writing
from dropkey_core.engine.files.json_file import read_json

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


LOGGERS = ("csv", "tensorboard", "wandb", "mlflow")  # and the packages that they need


def check_loggers(names: Any) -> None:
    """Raise UserError for a name in ``train.loggers`` that is none, or whose package is missing."""
    if not isinstance(names, list | ListConfig):
        raise UserError(f"train.loggers must be a list such as [csv, tensorboard], got {names!r}")
    for name in map(str, names):
        if name not in LOGGERS:
            raise UserError(f"train.loggers: unknown {name!r}{suggestion(name, LOGGERS)}")
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"train.loggers: the package {name} is not installed: pip install {name}, or leave "
                "it out"
            )


def start_loggers(config: DictConfig, done: int, say: Callable[[str], None]) -> "list[Log]":
    """Make the loggers of ``train.loggers``.

    Args:
        config: a loaded config.
        done: finished steps of the run.
        say: prints a line.

    Raises:
        UserError: see ``ServiceLog``.
    """
    folder = Path(config.train.output_dir)
    of_files = {"csv": CsvLog, "tensorboard": TensorBoardLog}
    return [
        of_files[name](folder, done) if name in of_files else ServiceLog(name, config, say)
        for name in dict.fromkeys(config.train.loggers)
    ]


class Log:
    """A place that metrics go to, and pictures if it can show them."""

    shows_pictures = False

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add ``metrics`` of ``step``, a count that never falls; WriteError if the disk is full."""
        raise NotImplementedError

    def show(self, step: int, name: str, picture: np.ndarray) -> None:
        """Add a picture (H, W, 3) uint8."""

    def sync(self) -> None:
        """Let what is written survive a power cut."""

    def close(self, is_done: bool) -> None:
        """Finish; ``is_done``: the run has come to its end."""


class CsvLog(Log):
    """``metrics.csv``; a resumed run goes on where its checkpoint stood.

    Lightning's CSV logger starts an existing file anew, and gives an evaluation a row of its own.

    Args:
        folder: holds ``metrics.csv``.
        done: finished steps of the run. What the file says of later ones is forgotten.
    """

    def __init__(self, folder: Path, done: int) -> None:
        self.path = folder / "metrics.csv"
        self._columns = ["step"]
        self._last_row: dict[str, str] = {}
        if self.path.exists():
            self._rewrite([row for row in self._read() if int(row["step"]) <= done])

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add metrics to the row of ``step``; WriteError if the disk is full."""
        is_new = self._last_row.get("step") != str(step)
        row = {} if is_new else self._last_row
        row |= {"step": str(step), **{name: repr(float(v)) for name, v in metrics.items()}}
        if is_new and row.keys() <= set(self._columns) and self.path.exists():
            with writing(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)
            self._last_row = row
        else:  # rare: the first row, and evaluations
            earlier = self._read() if is_new else self._read()[:-1]
            self._rewrite([*earlier, row])

    def sync(self) -> None:
        """Let what is written survive a power cut."""
        if self.path.exists():
            with writing(self.path), self.path.open("a") as file:
                os.fsync(file.fileno())

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        # A full disk or a power cut may leave a row in part, or zeros in its place.
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
        reader = csv.DictReader(line for line in lines if "\0" not in line)
        whole = [row for row in reader if None not in row and None not in row.values()]
        return [row for row in whole if row.get("step", "").isdigit()]

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        names = [name for row in rows for name in row]
        self._columns = list(dict.fromkeys([*self._columns, *names]))
        with whole_file(self.path) as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        self._last_row = rows[-1] if rows else {}


class TensorBoardLog(Log):
    """TensorBoard's event files; a resumed run's says that what follows ``done`` is void.

    Args:
        folder: holds the folder ``tensorboard``.
        done: finished steps of the run.
    """

    shows_pictures = True

    def __init__(self, folder: Path, done: int) -> None:
        self.folder = folder / "tensorboard"
        self.done = done
        self._writer: SummaryWriter | None = None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add metrics; WriteError if the disk is full."""
        with self._writing() as writer:
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)

    def show(self, step: int, name: str, picture: np.ndarray) -> None:
        """Add a picture; WriteError if the disk is full."""
        with self._writing() as writer:
            writer.add_image(name, picture, step, dataformats="HWC")

    @contextlib.contextmanager
    def _writing(self) -> "Iterator[SummaryWriter]":
        from torch.utils.tensorboard import SummaryWriter  # takes a second

        with writing(self.folder):
            if self._writer is None:
                self._writer = SummaryWriter(str(self.folder), purge_step=self.done + 1)
            yield self._writer
            self._writer.flush()

    def close(self, is_done: bool) -> None:
        """Finish the file."""
        if self._writer is not None:
            with contextlib.suppress(OSError):  # what could not be written was told
                self._writer.close()


class ServiceLog(Log):
    """Weights & Biases or MLflow, by Lightning's loggers, which start a run there.

    A resumed run goes on in the same one, whose id lies in ``<folder>/<name>/run.json``. What is
    logged there cannot be taken back, so what a killed process logged is not sent again when it is
    done again: it is the same but for speed and memory, unless settings were changed in between.
    What W&B's own process still held when both were killed is missing there.

    A service that fails later does not end the training: that is told, and it gets no more.

    Args:
        name: ``wandb`` or ``mlflow``.
        config: a loaded config, which a new run there gets, too.
        say: prints a line.

    Raises:
        UserError: the service cannot start, or lacks the run that was begun.
    """

    def __init__(self, name: str, config: DictConfig, say: Callable[[str], None]) -> None:
        folder = Path(config.train.output_dir)
        self.name = name
        self.say = say
        self.place = make_folder(folder / name) / "run.json"
        self.state: dict[str, Any] = {"id": None, "step": -1, "names": []}
        is_new = not self.place.exists()
        if not is_new:
            self.state |= read_json(self.place)
        try:
            self.logger = service_logger(name, folder, self.state["id"])
            self.state["id"] = self.logger.experiment and self.logger.version
            if is_new:
                self.logger.log_hyperparams(OmegaConf.to_container(config))
        except Exception as error:  # of any kind: there are many ways to a server
            raise UserError(f"train.loggers: {name} cannot start: {said_by(error)}") from error
        self.shows_pictures = hasattr(self.logger, "log_image")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send metrics."""
        self._send(step, metrics, lambda: self.logger.log_metrics(dict(metrics), step))

    def show(self, step: int, name: str, picture: np.ndarray) -> None:
        """Send a picture, where the logger can."""
        if self.shows_pictures:
            self._send(step, [name], lambda: self.logger.log_image(name, [picture], step))

    def _send(self, step: int, names: Iterable[str], send: Callable[[], None]) -> None:
        is_later = step > self.state["step"]
        sent = set() if is_later else set(self.state["names"])
        if self.logger is None or step < self.state["step"] or not set(names) - sent:
            return
        try:
            send()
        except Exception as error:
            self.say(f"warning: {self.name} gets no more of this run: {said_by(error)}")
            self.logger = None
            return
        self.state |= {"step": step, "names": sorted(sent | set(names))}
        with whole_file(self.place) as file:
            json.dump(self.state, file)

    def close(self, is_done: bool) -> None:
        """Say how the run has ended; a resumed one says so again."""
        if self.logger is None:
            return
        with contextlib.suppress(Exception):  # what could not be sent was told
            self.logger.finalize("success" if is_done else "failed")
            if self.name == "wandb":  # or the next run of this process would be the same one
                self.logger.experiment.finish(exit_code=int(not is_done))


def service_logger(name: str, folder: Path, run_id: str | None) -> Any:
    """Make Lightning's logger: a new run, or the one of that id.

    Services' own environment variables say where: ``WANDB_PROJECT``, ``WANDB_MODE``,
    ``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME`` and so on; by default the project is
    ``dropkey``.
    """
    from lightning.pytorch.loggers import MLFlowLogger, WandbLogger  # takes seconds

    if name == "wandb":
        project = os.environ.get("WANDB_PROJECT", "dropkey")
        return WandbLogger(str(folder), folder, project=project, id=run_id)
    from mlflow import get_tracking_uri

    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "dropkey")
    return MLFlowLogger(experiment, str(folder), get_tracking_uri(), run_id=run_id)

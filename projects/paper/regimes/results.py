"""Results of a plan in one CSV: a row for each finished run, written by any number of workers."""

import csv
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.atomic_write import writing
from projects.paper.regimes.plan import Run

RUN = [field.name for field in fields(Run)]


@dataclass(frozen=True)
class Finished:
    """A row of the CSV.

    Attributes:
        run: what was trained.
        settings: that it was made with, see ``Trainer.settings``.
        numbers: by column.
    """

    run: Run
    settings: str
    numbers: dict[str, float]


class Results:
    """A CSV of finished runs; made when it is needed.

    A run is held by a file lock, which the system lets go of when the process ends, however it
    ends. The locks are in a hidden folder beside the CSV.

    Args:
        path: of the CSV.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[Run, Finished]:
        """The finished runs; a last line that a killed process left half-written is no row.

        Raises:
            UserError: the file is not such a CSV.
        """
        if not self.path.exists():
            return {}
        text = self.path.read_text(encoding="utf-8")
        rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
        columns = [*RUN, "settings"]
        if rows.fieldnames is not None and list(rows.fieldnames[: len(columns)]) != columns:
            raise UserError(f"{self.path} must have the columns {', '.join(columns)}")
        try:
            found = [parse(row) for row in rows]
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.path} has a row that cannot be read: {error}") from error
        return {finished.run: finished for finished in found}

    @contextmanager
    def claim(self, run: Run) -> Iterator[bool]:
        """Hold a run for the time of the block; False: another process does."""
        lock = self._lock(f"{zlib.crc32(str(run).encode()):08x}")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def append(self, finished: Finished) -> None:
        """Add a row in one write, and let it reach the disk.

        Raises:
            UserError: the system refuses, or the rows there have other measures.
        """
        with writing(self.path), self._lock("append"), self.path.open("a+b") as file:
            content = self.path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole and not content.startswith(header(finished)):
                raise UserError(
                    f"{self.path} has rows with other measures: name another file by --results"
                )
            file.truncate(whole)
            file.write(line(finished) if whole else header(finished) + line(finished))
            file.flush()
            os.fsync(file.fileno())

    def _lock(self, name: str) -> FileLock:
        folder = self.path.with_name(f".{self.path.stem}.claims")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / name)


def fingerprint(config: DictConfig, sections: Sequence[str], **more: Any) -> str:
    """8 hexadecimal digits for what numbers depend on: sections of a config, and more."""
    plain: Any = OmegaConf.to_container(config, enum_to_str=True)
    content = {"config": {name: plain.get(name) for name in sections}, **more}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def header(finished: Finished) -> bytes:
    """The first line of the CSV, of rows with the same measures."""
    return (",".join([*RUN, "settings", *finished.numbers]) + "\n").encode()


def line(finished: Finished) -> bytes:
    """A row of the CSV, its numbers with six digits."""
    numbers = [f"{value:.6g}" for value in finished.numbers.values()]
    values = [*astuple(finished.run), finished.settings, *numbers]
    return (",".join(map(str, values)) + "\n").encode()


def parse(row: dict[str, str]) -> Finished:
    """What a row of the CSV says; a ValueError or TypeError if it is none."""
    types = get_type_hints(Run)
    run = Run(**{name: types[name](row.pop(name)) for name in RUN})
    settings = row.pop("settings")
    return Finished(run, settings, {name: float(value) for name, value in row.items()})

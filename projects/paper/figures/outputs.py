"""Files that a measurement writes at its end."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dropkey_core.engine.errors import UserError


def check_outputs(*files: Path) -> None:
    """Make the folders of files that are to be written, before anything takes long.

    Args:
        files: whose suffix is .json or that of a picture.

    Raises:
        ValueError: a folder that cannot be made or written to; a suffix of neither kind.
    """
    from matplotlib.figure import Figure

    suffixes = ["json", *sorted(Figure().canvas.get_supported_filetypes())]
    for file in files:
        if file.suffix.removeprefix(".") not in suffixes:
            raise ValueError(f"{file} must end in one of {', '.join(suffixes)}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.open("a").close()
        except OSError as error:
            raise ValueError(f"cannot write {file}: {error.strerror}; choose another") from error


def write_rows(
    path: Path, rows: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None
) -> None:
    """Write rows of equal keys as CSV and print where.

    Args:
        path: the file.
        rows: what it holds.
        names: of the columns. None: those of the first row, which there then is.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(names or rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {name: f"{value:.6g}" if isinstance(value, float) else value
                 for name, value in row.items()}
                for row in rows
            )  # fmt: skip
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    print(path, flush=True)

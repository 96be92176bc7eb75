"""YAML reader of paper tables: validation, with errors that name the file and the key.

Configs, overrides and ``_target_``s are checked when jobs are planned, which is before they run.
"""

import re
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from dropkey_core.engine.errors import UserError, first_line, suggestion, unknown_key
from dropkey_core.engine.files.yaml_file import find_yaml, read_yaml
from projects.paper.tables.table import Metric, Row, Setup, Table

T = TypeVar("T")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # names of rows become names of folders
WAYS = ("setup", "same_as", "left_out")


def read_table(path: str | Path, known: dict[str, Table] | None = None) -> Table:
    """Read a table and the tables beside it that its rows refer to.

    Args:
        path: the YAML, relative to the working folder or else to the project's root.
        known: the tables of its folder that are read already; gets this one and what it needs.

    Raises:
        UserError: for whatever is wrong, naming the file, the key and the nearest right one.
    """
    path = find_yaml(path, "table", "configs/*/*.yaml")
    node = read_yaml(path, [field.name for field in fields(Table)])
    known = {} if known is None else known
    try:
        table = known[path.stem] = _table(OmegaConf.to_container(node, resolve=True))
        table.path, table.siblings = path, known
        for name in _names_of_tables(table):
            if not NAME.fullmatch(name):
                raise UserError(f"no table {name!r} beside it")
            if name not in known:
                read_table(path.with_name(f"{name}.yaml"), known)
        for row in table.rows:
            _check_row(table, row)
    except (UserError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: {first_line(error)}") from error
    return table


def _table(node: Any) -> Table:
    """Convert part by part: of nested parts OmegaConf's errors do not say where they are."""
    table = convert(Table, node, "")
    table.metrics = [convert(Metric, m, f"metrics.{i}") for i, m in enumerate(table.metrics)]
    table.setups = {
        name: {scale: convert(Setup, at, f"setups.{name}.{scale}") for scale, at in setups.items()}
        for name, setups in table.setups.items()
    }
    table.rows = [row for i, node in enumerate(table.rows) for row in _rows(node, f"rows.{i}")]
    return table


def convert(kind: type[T], node: Any, key: str) -> T:
    """Return plain YAML values as an object of a dataclass.

    Raises:
        UserError: an unknown key, a value of the wrong type, or one that is missing.
    """
    if not isinstance(node, dict):
        raise UserError(f"{key} must be a mapping, got {node!r}")
    try:
        merged: Any = OmegaConf.merge(OmegaConf.structured(kind), node)
        converted: T = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        inside = ".".join(part for part in (key, str(error.full_key or "")) if part)
        if isinstance(error, ConfigKeyError):
            raise unknown_key(inside, [field.name for field in fields(kind)]) from error  # type: ignore[arg-type]
        raise UserError(f"{inside}: {first_line(error)}") from error
    return converted


def _rows(node: Any, key: str) -> list[Row]:
    """Return a row, after the first training that a row with a stage of its own has."""
    if isinstance(node, dict) and "id" in node:
        key = f"rows.{node['id']}"
    row = convert(Row, node, key)
    row.paper = {
        metric: _numbers(said, f"{key}.paper.{metric}")
        for metric, said in row.paper.items()
        if said is not None
    }
    if not row.stage or row.weights_of:
        return [row]
    label = f"{row.label}, before {row.stage}"
    first = replace(row, id=f"{row.id}.first", label=label, stage="", paper={}, reported=False)
    return [first, replace(row, weights_of=first.id)]


def _numbers(said: Any, key: str) -> tuple[float, ...]:
    numbers = said if isinstance(said, list) else [said]
    if len(numbers) not in (1, 2) or not all(type(n) in (int, float) for n in numbers):
        raise UserError(f"{key} must be a number, or [number, its ±], got {said!r}")
    return tuple(map(float, numbers))


def _names_of_tables(table: Table) -> list[str]:
    references = [reference for row in table.rows for reference in (row.weights_of, row.same_as)]
    return [reference.rpartition("/")[0] for reference in references if "/" in reference]


def _check_row(table: Table, row: Row) -> None:
    """Check what a row says against the rest of its table."""
    key = f"rows.{row.id}"
    if not NAME.fullmatch(row.id):
        raise UserError(f"{key}: an id has letters, digits, '_', '-' and '.', got {row.id!r}")
    if sum(other.id == row.id for other in table.rows) > 1:
        raise UserError(f"{key} is there twice")
    _check_names(row.paper, [metric.name for metric in table.metrics], f"{key}.paper")
    _check_names(row.seeds, table.seeds, f"{key}.seeds")
    ways = [way for way in WAYS if getattr(row, way)]
    if len(ways) != 1:
        said = " and ".join(ways) or "none"
        raise UserError(f"{key} needs exactly one of {', '.join(WAYS)}, it has {said}")
    if row.setup:
        _check_names([row.setup], table.setups, f"{key}.setup")
        _check_names(table.seeds, table.setups[row.setup], f"setups.{row.setup}")
    if row.stage:
        _check_names([row.stage], table.stages, f"{key}.stage")
        _check_names(table.seeds, table.stages[row.stage], f"stages.{row.stage}")
    _check_work(table, row, key)
    _check_chain(table, row)


def _check_names(given: Iterable[str], known: Iterable[str], key: str) -> None:
    for name in given:
        if name not in known:
            raise UserError(f"{key}: {name!r} is not in this table{suggestion(name, list(known))}")


def _check_work(table: Table, row: Row, key: str) -> None:
    """Check that a row's training or measurement has what it needs, and nothing besides."""
    setups = table.setups[row.setup].values() if row.setup else ()
    if any(bool(setup.config) == bool(setup.measure) for setup in setups):
        raise UserError(f"setups.{row.setup} needs exactly one of config and measure at each scale")
    measures = any(setup.measure for setup in setups)
    if measures and not row.weights_of:
        raise UserError(f"{key}.weights_of is missing: {row.setup} measures weights of a row")
    useless = ("overrides", "stage") if measures else ("overrides", "stage", "weights_of")
    for name in useless if measures or not setups else ():
        if getattr(row, name):
            raise UserError(f"{key}.{name} has no use in a row that is not trained")


def _check_chain(table: Table, row: Row) -> None:
    """Check that following references from a row ends, at a row that is trained."""
    chain = [(table.name, row.id)]
    while reference := row.weights_of or row.same_as:
        table, row = table.find_row(reference)
        if row.left_out:
            raise UserError(f"rows.{chain[-1][1]} refers to {reference!r}, which is left out")
        if (table.name, row.id) in chain:
            raise UserError(f"rows.{chain[0][1]} refers to itself by way of {reference!r}")
        chain.append((table.name, row.id))

"""From the YAML of a table to a :class:`Table`: everything that can be wrong is told at once.

Configs, overrides and ``_target_``s are checked when jobs are planned, which is before they run.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dropkey_core.engine.errors import UserError, first_line, suggestion, unknown_key
from dropkey_core.engine.files.yaml_file import find_yaml, read_yaml
from projects.paper.tables.schema import Metric, Quoted, Row, Setup, TableFile
from projects.paper.tables.table import Table

T = TypeVar("T")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # names of rows become names of folders
WAYS = ("setup", "same_as", "left_out")


def read_table(path: str | Path) -> Table:
    """Read a table and the tables beside it that its rows refer to.

    Args:
        path: the YAML, relative to the working folder or else to the project's root.

    Raises:
        UserError: for whatever is wrong, naming the file, the key and the nearest right one.
    """
    return _read(find_yaml(path, "table", "configs/*/*.yaml"), {})


def _read(path: Path, known: dict[str, Table]) -> Table:
    """Read ``path``; ``known`` has the tables of its folder that are read already, and gets it."""
    node = read_yaml(path, [field.name for field in fields(TableFile)])
    siblings = known
    try:
        table = _table(path, node, siblings)
        known[table.name] = table
        for name in _names_of_tables(table.rows.values()):
            if name not in known:
                _read(_sibling(path, name), known)
        _check_rows(table)
    except UserError as error:
        message = str(error)
        raise UserError(message if str(path.parent) in message else f"{path}: {message}") from error
    return table


def _table(path: Path, node: DictConfig, siblings: Mapping[str, Table]) -> Table:
    content = convert(TableFile, node, "")
    # An interpolation may have put anything there.
    for name in ("seeds", "setups", "stages", "scale_notes"):
        _mapping(getattr(content, name), name)
    rows = [convert(Row, row, _key_of_row(row, i)) for i, row in enumerate(content.rows)]
    metrics = [convert(Metric, m, f"metrics.{i}") for i, m in enumerate(content.metrics)]
    setups = {
        name: {
            scale: convert(Setup, setup, f"setups.{name}.{scale}")
            for scale, setup in _mapping(scales, f"setups.{name}").items()
        }
        for name, scales in content.setups.items()
    }
    rows = [stage for row in rows for stage in _stages_of(_with_quotes(row))]
    _check_unique("rows", [row.id for row in rows])
    _check_unique("metrics", [metric.name for metric in metrics])
    return Table(
        path=path,
        title=content.title,
        source=content.source,
        notes=content.notes,
        metrics=metrics,
        seeds=content.seeds,
        scale_notes=content.scale_notes,
        setups=setups,
        stages=content.stages,
        rows={row.id: row for row in rows},
        siblings=siblings,
    )


def _with_quotes(row: Row) -> Row:
    """Return a row with the paper's numbers as such, none of them null."""
    known = {name: said for name, said in row.paper.items() if said is not None}
    quotes = {name: _quoted(said, f"rows.{row.id}.paper.{name}") for name, said in known.items()}
    return replace(row, paper=quotes)


def _quoted(said: Any, key: str) -> Quoted:
    numbers = said if isinstance(said, list) else [said]
    if len(numbers) not in (1, 2) or not all(type(n) in (int, float) for n in numbers):
        raise UserError(f"{key} must be a number, or [number, its ±], got {said!r}")
    return Quoted(*map(float, numbers))


def _stages_of(row: Row) -> list[Row]:
    """Return a row, after the first training that a row with a stage of its own has."""
    if not row.stage or row.weights_of:
        return [row]
    label = f"{row.label}, before {row.stage}"
    first = replace(row, id=f"{row.id}.first", label=label, stage="", paper={}, reported=False)
    return [first, replace(row, weights_of=first.id)]


def convert(kind: type[T], node: Any, key: str) -> T:
    """Return plain YAML values as an object of a dataclass.

    Raises:
        UserError: an unknown key, a value of the wrong type, or one that is missing.
    """
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in _mapping(node, key or "the file"):
        if name not in known:
            raise unknown_key(f"{key}.{name}" if key else str(name), known)
    try:
        merged: Any = OmegaConf.merge(OmegaConf.structured(kind), node)
        converted: T = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        inside = ".".join(part for part in (key, str(error.full_key or "")) if part)
        raise UserError(f"{inside}: {first_line(error)}") from error
    return converted


def _mapping(node: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(node, Mapping):
        raise UserError(f"{key} must be a mapping, got {node!r}")
    return node


def _key_of_row(row: Any, position: int) -> str:
    name = row.get("id") if isinstance(row, Mapping) else None
    return f"rows.{name or position}"


def _sibling(path: Path, name: str) -> Path:
    sibling = path.parent / f"{name}.yaml"
    if not NAME.fullmatch(name) or not sibling.is_file():
        known = [other.stem for other in path.parent.glob("*.yaml")]
        raise UserError(f"{path}: no table {name!r} beside it{suggestion(name, known)}")
    return sibling


def _names_of_tables(rows: Iterable[Row]) -> list[str]:
    references = [reference for row in rows for reference in (row.weights_of, row.same_as)]
    return [reference.rpartition("/")[0] for reference in references if "/" in reference]


def _check_unique(what: str, names: list[str]) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice or not names:
        raise UserError(f"{what}: {twice[0]!r} is there twice" if twice else f"{what} has none")


def _check_rows(table: Table) -> None:
    """Check what rows say against the rest of the table."""
    if not table.seeds:
        raise UserError("seeds has no scale: seeds: {full: [0, 1, 2]}")
    for scale, seeds in table.seeds.items():
        _check_seeds(seeds, f"seeds.{scale}")
    for name, scales in table.setups.items():
        _check_setup(scales, f"setups.{name}")
    for row in table.rows.values():
        key = f"rows.{row.id}"
        if not NAME.fullmatch(row.id):
            raise UserError(f"{key}: an id has letters, digits, '_', '-' and '.', got {row.id!r}")
        _check_way(table, row, key)
        _check_names(row.paper, [metric.name for metric in table.metrics], f"{key}.paper")
        _check_names(row.seeds, table.seeds, f"{key}.seeds")
        for scale, seeds in row.seeds.items():
            _check_seeds(seeds, f"{key}.seeds.{scale}")
        _check_chain(table, row)


def _check_setup(scales: Mapping[str, Setup], key: str) -> None:
    """Check that a setup trains at all scales, or measures at all."""
    for scale, setup in scales.items():
        if bool(setup.config) == bool(setup.measure):
            raise UserError(f"{key}.{scale} needs exactly one of config and measure")
        if setup.measure and setup.overrides:
            raise UserError(f"{key}.{scale}.overrides has no use with measure")
    if len({bool(setup.measure) for setup in scales.values()}) > 1:
        raise UserError(f"{key} must train at all scales, or measure at all")


def _check_way(table: Table, row: Row, key: str) -> None:
    """Check that a row says in exactly one way where its numbers come from."""
    ways = [way for way in WAYS if getattr(row, way)]
    if len(ways) != 1:
        said = " and ".join(ways) or "none"
        raise UserError(f"{key} needs exactly one of {', '.join(WAYS)}, it has {said}")
    if not row.setup:
        for name in ("overrides", "stage", "weights_of"):
            if getattr(row, name):
                raise UserError(f"{key}.{name} has no use with {ways[0]}")
        return
    _check_names([row.setup], table.setups, f"{key}.setup")
    for scale in table.seeds:
        if scale not in table.setups[row.setup]:
            raise UserError(f"setups.{row.setup} lacks the scale {scale!r}")
    if table.measures(row):
        if not row.weights_of:
            raise UserError(f"{key}.weights_of is missing: {row.setup} measures weights of a row")
        for name in ("overrides", "stage"):
            if getattr(row, name):
                raise UserError(f"{key}.{name} has no use: {row.setup} measures, it does not train")
    elif row.stage:
        _check_names([row.stage], table.stages, f"{key}.stage")
        _check_names(table.seeds, table.stages[row.stage], f"stages.{row.stage}")


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


def _check_names(given: Iterable[str], known: Iterable[str], key: str) -> None:
    for name in given:
        if name not in known:
            raise UserError(f"{key}: {name!r} is not in this table{suggestion(name, list(known))}")


def _check_seeds(seeds: list[int], key: str) -> None:
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"{key} must be different numbers of at least 0, got {seeds}")

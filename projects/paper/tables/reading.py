"""YAML reader of paper tables: validation, with errors that name the file and the key.

Configs, overrides and ``_target_``s are checked when jobs are planned, which is before they run.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dropkey_core.engine.errors import UserError, first_line, suggestion
from dropkey_core.engine.files.yaml_file import find_yaml, read_yaml
from projects.paper.tables.table import Metric, Row, Setup, Table


def read_table(path: str | Path, known: dict[str, Table] | None = None) -> Table:
    """Read a table and the tables beside it that its rows refer to.

    Args:
        path: the YAML, relative to the working folder or else to the project's root.
        known: the tables of its folder that are read already; gets this one and what it needs.

    Raises:
        UserError: for whatever is wrong, naming the file, the key and the nearest right one.
    """
    path = find_yaml(path, "table", "configs/*/*.yaml")
    node = read_yaml(path, Table.__struct_fields__)
    known = {} if known is None else known
    try:
        table = known[path.stem] = convert(OmegaConf.to_container(node, resolve=True))
        table.path, table.siblings = path, known
        table.rows = [part for row in table.rows for part in trainings_of(row)]
        for name in names_of_tables(table):
            if name not in known:
                read_table(path.with_name(f"{name}.yaml"), known)
        for row in table.rows:
            if problem := next(problems(table, row), None):
                raise UserError(f"rows.{row.id}: {problem}")
    except (UserError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: {first_line(error)}") from error
    return table


def convert(node: Any) -> Table:
    """Return plain YAML values as a table.

    Raises:
        UserError: an unknown key, a value of the wrong type, or one that is missing.
    """
    try:
        return msgspec.convert(node, Table)
    except msgspec.ValidationError as error:
        said = str(error)
    if unknown := re.search("unknown field `(.*?)`", said):
        fields = chain(*(kind.__struct_fields__ for kind in (Table, Metric, Setup, Row)))
        said += suggestion(unknown[1], list(fields))
    if number := re.search(r"\$\.rows\[(\d+)\]", said):
        row = node["rows"][int(number[1])]
        said += f" ({row.get('id', 'without id')})" if isinstance(row, dict) else ""
    raise UserError(said)


def trainings_of(row: Row) -> list[Row]:
    """Return a row, after the first training that a row with a stage of its own has."""
    if not row.stage or row.weights_of:
        return [row]
    change = {"label": f"{row.label}, before {row.stage}", "stage": "", "paper": {}}
    first = msgspec.structs.replace(row, id=f"{row.id}.first", reported=False, **change)
    return [first, msgspec.structs.replace(row, weights_of=first.id)]


def names_of_tables(table: Table) -> set[str]:
    """Return the other tables that rows refer to."""
    references = [reference for row in table.rows for reference in (row.weights_of, row.same_as)]
    return {reference.rpartition("/")[0] for reference in references if "/" in reference}


def problems(table: Table, row: Row) -> Iterator[str]:
    """Yield what is wrong with a row beside the rest of its table; later ones follow from others.

    Raises:
        UserError: it refers to a row that is not there.
    """
    if [other.id for other in table.rows].count(row.id) > 1:
        yield "this id is there twice"
    yield from unknown("paper", row.paper, [metric.name for metric in table.metrics])
    yield from unknown("seeds", row.seeds, table.seeds)
    parts: dict[str, tuple[str, Mapping[str, Any]]] = {
        "setup": (row.setup, table.setups),
        "stage": (row.stage, table.stages),
    }
    for kind, (name, known) in parts.items():
        if name:
            yield from unknown(kind, [name], known)
            yield from unknown(f"{kind} {name}", table.seeds, known[name])
    measures = any(setup.measure for setup in table.setups.get(row.setup, {}).values())
    if measures and not row.weights_of:
        yield f"weights_of is missing: {row.setup} measures weights of a row"
    trained_only = ["overrides", "stage"] + ["weights_of"] * (not measures)
    for name in trained_only if measures or not row.setup else ():
        if getattr(row, name):
            yield f"{name} has no use in a row that is not trained"
    yield from problems_of_chain(table, row)


def unknown(key: str, given: Iterable[str], known: Iterable[str]) -> Iterator[str]:
    """Yield names that are not known, each with the nearest that is."""
    for name in given:
        if name not in known:
            yield f"{key}: {name!r} is not in this table{suggestion(name, list(known))}"


def problems_of_chain(table: Table, row: Row) -> Iterator[str]:
    """Check that following references from a row ends, at a row that is trained."""
    seen = [(table.name, row.id)]
    while reference := row.weights_of or row.same_as:
        table, row = table.find_row(reference)
        if row.left_out:
            yield f"refers by way of {reference!r} to a row that is left out"
        if (table.name, row.id) in seen:
            yield f"refers to itself by way of {reference!r}"
        seen.append((table.name, row.id))

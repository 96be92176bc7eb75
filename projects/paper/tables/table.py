"""A table of the paper as data: what its rows train or measure, and the paper's numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dropkey_core.engine.errors import UserError, suggestion
from projects.paper.tables.schema import Metric, Row, Setup


@dataclass(frozen=True, eq=False)
class Table:
    """A table that has been read and checked; ``schema`` says what its parts mean.

    Attributes:
        path: of its YAML.
        title: of the report.
        source: where the paper's numbers were taken from.
        notes: what a reader should know.
        metrics: the columns.
        seeds: by scale.
        scale_notes: by scale, what its numbers mean.
        setups: by name and scale.
        stages: overrides by name and scale.
        rows: by id, in the order of the report.
        siblings: the tables of the same folder that rows refer to, by name.
    """

    path: Path
    title: str
    source: str
    notes: list[str]
    metrics: list[Metric]
    seeds: Mapping[str, list[int]]
    scale_notes: Mapping[str, str]
    setups: Mapping[str, Mapping[str, Setup]]
    stages: Mapping[str, Mapping[str, list[str]]]
    rows: Mapping[str, Row]
    siblings: Mapping[str, "Table"]

    @property
    def name(self) -> str:
        """What its folder is called: the stem of the file."""
        return self.path.stem

    def find_row(self, reference: str) -> tuple["Table", Row]:
        """Return the row that ``id`` or ``table/id`` names, and its table.

        Raises:
            UserError: there is none.
        """
        table_name, _, row_id = reference.rpartition("/")
        table = self.siblings.get(table_name) if table_name else self
        if table is None:
            raise UserError(f"{self.path}: no table {table_name!r} beside it")
        if row_id not in table.rows:
            raise UserError(f"{table.path} has no row {row_id!r}{suggestion(row_id, table.rows)}")
        return table, table.rows[row_id]

    def check_scale(self, scale: str) -> None:
        """Refuse a scale that the table does not have.

        Raises:
            UserError: naming those that it has.
        """
        if scale not in self.seeds:
            raise UserError(f"{self.path} has no scale {scale!r}; it has {', '.join(self.seeds)}")

    def seeds_of(self, row: Row, scale: str) -> list[int]:
        """The seeds of a row of this table."""
        return row.seeds.get(scale, self.seeds[scale])

    def measures(self, row: Row) -> bool:
        """Whether a row of this table measures the weights of another row."""
        return any(setup.measure for setup in self.setups.get(row.setup, {}).values())

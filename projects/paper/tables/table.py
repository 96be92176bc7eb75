"""Schema of a paper table: every key of its YAML, with its type and its default."""

from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from dropkey_core.engine.errors import UserError, suggestion

NAME = "[A-Za-z0-9][A-Za-z0-9_.-]*"  # names of rows become names of folders
Name = Annotated[str, Meta(pattern=rf"^{NAME}\Z")]
Reference = Annotated[str, Meta(pattern=rf"^(({NAME}/)?{NAME})?\Z")]
Numbers = float | Annotated[list[float], Meta(min_length=1, max_length=2)] | None


class Metric(Struct, forbid_unknown_fields=True):
    """A column.

    Attributes:
        name: as evaluations return it, for instance ``cls/top1``.
        label: its name in the report, with the unit.
        digits: after the decimal point.
        better: which of two values is the better one.
        factor: what values of evaluations are multiplied by, 100 where they are parts of 1.
    """

    name: str
    label: str
    digits: int = 2
    better: Literal["higher", "lower"] = "higher"
    factor: float = 1.0


class Setup(Struct, forbid_unknown_fields=True):
    """What rows do at one scale: either train a config, or measure trained weights.

    Attributes:
        config: of the training.
        overrides: what is changed in it.
        measure: a ``_target_`` that returns metrics, see ``measurement``.
    """

    config: str = ""
    overrides: list[str] = []
    measure: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if bool(self.config) == bool(self.measure):
            raise ValueError("a setup needs exactly one of config and measure")


class Row(Struct, forbid_unknown_fields=True):
    """A row, and how its numbers come about: exactly one of the three ways below.

    * ``setup``: a training, which with ``weights_of`` starts from the weights of that row; or,
      if the setup says so, a measurement of the weights of that row.
    * ``same_as``: the numbers of another row.
    * ``left_out``: none, for the reason given.

    Rows are named by their ``id``, rows of another table in the same folder by ``table/id``.

    A row with a ``stage`` and without ``weights_of`` is trained twice: first without the stage,
    which is a row of its own, ``<id>.first``, that the report leaves out; then on from those
    weights with it, which gives the row's numbers.

    Attributes:
        id: name of the row and of its folder.
        label: its name in the report.
        group: heading that it stands under with the rows before and after it of the same group.
        setup: name of one of the table's setups.
        overrides: what sets this row apart from others that train its setup, at every scale.
        stage: name of one of the table's stages, whose overrides come after the row's own.
        weights_of: the row whose last weights are used, seed by seed.
        same_as: the row that this one repeats.
        left_out: why nothing is run.
        seeds: by scale, in place of the table's.
        paper: the paper's numbers by metric, ``82.04`` or with its ± ``[82.04, 0.14]``.
        note: what a reader of the row should know.
        reported: whether the row is in the report, and run for its own sake.
    """

    id: Name
    label: str
    group: str = ""
    setup: str = ""
    overrides: list[str] = []
    stage: str = ""
    weights_of: Reference = ""
    same_as: Reference = ""
    left_out: str = ""
    seeds: dict[str, list[int]] = {}
    paper: dict[str, Numbers] = {}
    note: str = ""
    reported: bool = True

    def __post_init__(self) -> None:
        ways = [bool(self.setup), bool(self.same_as), bool(self.left_out)]
        if sum(ways) != 1:
            raise ValueError(f"a row needs one of setup, same_as, left_out, it has {sum(ways)}")

    @property
    def full_label(self) -> str:
        """Its group and its label."""
        return f"{self.group}, {self.label}" if self.group else self.label


class Table(Struct, forbid_unknown_fields=True):
    """A table.

    Attributes:
        title: of the report.
        source: where the paper's numbers were taken from; follows "Paper: " in the report.
        metrics: the columns.
        seeds: by scale, ``{full: [0, 1, 2], demo: [0, 1]}``. Its keys are the table's scales.
        rows: in the order of the report.
        notes: what a reader should know, a line each.
        scale_notes: by scale, what its numbers mean.
        setups: by name and scale.
        stages: overrides by name and scale: what a second training changes in the first one's.
        path: of the YAML; set by whoever reads it.
        siblings: the tables of the same folder that rows refer to, by name; set likewise.
    """

    title: str
    source: str
    metrics: list[Metric]
    seeds: dict[str, list[int]]
    rows: list[Row]
    notes: list[str] = []
    scale_notes: dict[str, str] = {}
    setups: dict[str, dict[str, Setup]] = {}
    stages: dict[str, dict[str, list[str]]] = {}
    path: Path = Path()
    siblings: dict[str, Any] = {}

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
        table: Table = self.siblings[table_name] if table_name else self
        rows = {row.id: row for row in table.rows}
        if row_id not in rows:
            raise UserError(f"{table.name} has no row {row_id!r}{suggestion(row_id, rows)}")
        return table, rows[row_id]

    def check_scale(self, scale: str) -> None:
        """Raise a UserError for a scale that the table does not have."""
        if scale not in self.seeds:
            raise UserError(f"{self.path} has no scale {scale!r}; it has {', '.join(self.seeds)}")

"""What the YAML of a table may hold: every key, its type and its default."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING


class Better(Enum):
    """Which of two values of a metric is the better one."""

    higher = "↑"
    lower = "↓"


@dataclass
class Metric:
    """A column.

    Attributes:
        name: as evaluations return it, for instance ``cls/top1``.
        label: its name in the report, with the unit.
        digits: after the decimal point.
        better: ``higher`` or ``lower``.
        factor: what values of evaluations are multiplied by, 100 where they are parts of 1.
    """

    name: str = MISSING
    label: str = MISSING
    digits: int = 2
    better: Better = Better.higher
    factor: float = 1.0


@dataclass
class Setup:
    """What rows do at one scale: either train a config, or measure trained weights.

    Attributes:
        config: of the training.
        overrides: what is changed in it.
        measure: a ``_target_`` that returns metrics, see ``measurement``.
    """

    config: str = ""
    overrides: list[str] = field(default_factory=list)
    measure: dict[str, Any] = field(default_factory=dict)


@dataclass
class Row:
    """A row, and how its numbers come about: exactly one of the three ways below.

    * ``setup``: a training, which with ``weights_of`` starts from the weights of that row; or,
      if the setup says so, a measurement of the weights of that row.
    * ``same_as``: the numbers of another row.
    * ``left_out``: none, for the reason given.

    Rows are named by their ``id``, rows of another table in the same folder by ``table/id``.

    Attributes:
        id: name of the row and of its folder.
        label: its name in the report.
        group: heading that it stands under with the rows before and after it of the same group.
        setup: name of one of the table's setups.
        overrides: what sets this row apart from others that train its setup, at every scale.
        weights_of: the row whose last weights are used, seed by seed.
        same_as: the row that this one repeats.
        left_out: why nothing is run.
        seeds: by scale, in place of the table's.
        paper: the paper's numbers by metric; null where they are not at hand.
        note: what a reader of the row should know.
    """

    id: str = MISSING
    label: str = MISSING
    group: str = ""
    setup: str = ""
    overrides: list[str] = field(default_factory=list)
    weights_of: str = ""
    same_as: str = ""
    left_out: str = ""
    seeds: dict[str, list[int]] = field(default_factory=dict)
    paper: dict[str, float | None] = field(default_factory=dict)
    note: str = ""


@dataclass
class TableFile:
    """A table.

    Attributes:
        title: of the report.
        source: where the paper's numbers were taken from; follows "Paper: " in the report.
        notes: what a reader should know, a line each.
        metrics: the columns, each a :class:`Metric`.
        seeds: by scale, ``{full: [0, 1, 2], demo: [0, 1]}``. Its keys are the table's scales.
        scale_notes: by scale, what its numbers mean.
        setups: :class:`Setup` by name and scale.
        rows: each a :class:`Row`, in the order of the report.
    """

    title: str = MISSING
    source: str = MISSING
    notes: list[str] = field(default_factory=list)
    metrics: list[Any] = MISSING
    seeds: dict[str, list[int]] = MISSING
    scale_notes: dict[str, str] = field(default_factory=dict)
    setups: dict[str, Any] = field(default_factory=dict)
    rows: list[Any] = MISSING

"""Reports of ``apply_dropkey``: what drops keys, what was left out, as tables to print."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dropkey_core.equip.recognition import LeftOut

_IN_PLACE = (
    "this is a report, not a model: apply_dropkey changes the model in place and returns what it "
    "did, so write apply_dropkey(model, 0.1) without 'model =' before it"
)


@dataclass(frozen=True)
class EquippedSite:
    """One attention module that drops keys.

    Attributes:
        name: its name in the model.
        class_name: the name of its original class.
        drop_ratio: probability that a query loses a key.
        stack: name of the module whose layers share the schedule; "" is the model itself.
    """

    name: str
    class_name: str
    drop_ratio: float
    stack: str


@dataclass(frozen=True)
class DropKeyReport:
    """What drops keys now, and what does not though it looks like attention.

    Attributes:
        equipped: stack by stack, in depth order.
        left_out: in the order of the model.
    """

    equipped: tuple[EquippedSite, ...]
    left_out: tuple[LeftOut, ...] = ()

    def __str__(self) -> str:
        """Return a table, a line for each module."""
        modules = count(len(self.equipped), "attention module")
        stacks = count(len({site.stack for site in self.equipped}), "stack")
        lines = [f"DropKey in {modules}, {stacks}"]
        lines += table(
            (site.name or "(the model)", site.class_name, f"{site.drop_ratio:.4f}")
            for site in self.equipped
        )
        if self.left_out:
            lines += [f"Left out: {len(self.left_out)}", *grouped(self.left_out)]
        return "\n".join(lines)

    if not TYPE_CHECKING:  # a type checker knows better what a report has

        def __call__(self, *args: Any, **kwargs: Any) -> None:
            """Refuse to be a model."""
            raise TypeError(_IN_PLACE)

        def __getattr__(self, name: str) -> None:
            raise AttributeError(f"no {name} here: {_IN_PLACE}", name=name, obj=self)


def grouped(left_out: Iterable[LeftOut]) -> list[str]:
    """Return a line for each class and reason, with the first name and how many more there are."""
    groups: dict[tuple[str, str], list[str]] = {}
    for out in left_out:
        groups.setdefault((out.class_name, out.reason), []).append(out.name or "(the model)")
    return table(
        (first_of(names), class_name, reason) for (class_name, reason), names in groups.items()
    )


def first_of(names: list[str]) -> str:
    """Return the first name, and how many more there are."""
    return names[0] + (f" and {len(names) - 1} more" if names[1:] else "")


def count(number: int, noun: str) -> str:
    """Return the number and the noun, in the plural where it is not 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Return a line for each row, its columns as wide as their longest cell."""
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]

"""Charts by matplotlib: text without formulas, and saving."""

from pathlib import Path

from matplotlib.figure import Figure

from dropkey_core.engine.files.atomic_write import whole_file

DPI = 128


def escaped(text: str) -> str:
    """Text for matplotlib, which would read formulas between dollar signs."""
    return text.replace("$", r"\$")


def write(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; a UserError where the system refuses."""
    with whole_file(path, "wb") as file:
        figure.savefig(file, dpi=DPI, format="png")


def save(figure: Figure, path: Path) -> None:
    """Write a figure and print where."""
    write(figure, path)
    print(path, flush=True)

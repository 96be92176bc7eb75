"""Files that a measurement writes at its end."""

from pathlib import Path


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

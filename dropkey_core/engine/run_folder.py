"""What a training leaves behind, for the commands that look at it."""

from pathlib import Path

from dropkey_core.engine.errors import UserError


def find_run_files(
    run: Path | None, config: str | None, weights: str | None, output: Path | None
) -> tuple[str, str, Path | None]:
    """Paths of config, weights and pictures, as the command line gives them; ``run`` fills gaps.

    Args:
        run: ``--run``, the folder of a training.
        config: ``--config``, else the run's resolved config.
        weights: ``--weights``, else the run's best checkpoint or its last.
        output: ``--output``, else ``pictures`` in the run's folder; None without run.

    Raises:
        UserError: naming the option that is missing, or what the run's folder lacks.
    """
    if run is None:
        if config is None:
            raise UserError("nothing to show: give --run FOLDER, or --config FILE --weights FILE")
        if weights is None:
            raise UserError("no weights to look at: give --weights FILE, or --run FOLDER")
        return config, weights, output
    folder = run.expanduser().absolute()
    if not (folder / "config.yaml").is_file():
        raise UserError(f"--run {folder} is no folder of a run: it has no config.yaml")
    if weights is None:
        present = [folder / name for name in ("best.pth", "last.pth") if (folder / name).is_file()]
        if not present:
            raise UserError(f"--run {folder} has no checkpoint yet, neither best.pth nor last.pth")
        weights = str(present[0])
    return config or str(folder / "config.yaml"), weights, output or folder / "pictures"


def make_picture_folder(folder: Path) -> None:
    """Make the folder of the pictures."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to --output {folder}: {error.strerror}") from error

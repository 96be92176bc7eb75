"""The folder of a run: what training leaves in it, and the commands that look at it find there."""

import shutil
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dropkey_core.engine.errors import UserError

LAST, BEST, CONFIG = "last.pth", "best.pth", "config.yaml"
FAILED = "failed_step_[0-9]*.pth"
# What a run leaves in its folder and --overwrite removes.
RUN_FILES = {  # by name or pattern: what a run's folder holds
    CONFIG: "resolved config",
    LAST: "last checkpoint",
    BEST: "best checkpoint",
    "model_[0-9]*.pth": "numbered checkpoint",
    "metrics.csv": "log",
    "tensorboard": "log for TensorBoard",
    FAILED: "failed step",
}


def prepare_folder(folder: Path, config: DictConfig, resume: bool, overwrite: bool) -> None:
    """Make ``train.output_dir`` ready and write the resolved config there.

    Raises:
        UserError: if it holds another run and neither ``resume`` nor ``overwrite`` says what to do.
    """
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    present = [path for pattern in RUN_FILES for path in folder.glob(pattern)]
    # These are left by a run that failed before its first checkpoint or log: nothing to lose.
    left = [path for pattern in (CONFIG, FAILED) for path in folder.glob(pattern)]
    if (of_a_run := [path for path in present if path not in left]) and not (resume or overwrite):
        raise UserError(
            f"train.output_dir {folder} already holds a run ({of_a_run[0].name}): "
            "--resume goes on with it, --overwrite deletes it, or name another folder"
        )
    try:
        for path in present if overwrite else []:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(OmegaConf.to_yaml(config))
    except OSError as error:
        raise UserError(f"cannot write to train.output_dir {folder}: {error}") from error


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
    if not (folder / CONFIG).is_file():
        raise UserError(f"--run {folder} is no folder of a run: it has no config.yaml")
    if weights is None:
        present = [folder / name for name in (BEST, LAST) if (folder / name).is_file()]
        if not present:
            raise UserError(f"--run {folder} has no checkpoint yet, neither best.pth nor last.pth")
        weights = str(present[0])
    return config or str(folder / CONFIG), weights, output or folder / "pictures"


def make_picture_folder(folder: Path) -> None:
    """Make the folder of the pictures."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to --output {folder}: {error.strerror}") from error

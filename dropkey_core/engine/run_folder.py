"""Run folder: what training leaves in it, and the commands that look at it find there."""

import shutil
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.atomic_write import remove_unfinished, whole_file, writing

LAST, BEST, CONFIG = "last.pth", "best.pth", "config.yaml"
FAILED = "failed_step_[0-9]*.pth"
NUMBERED = "model_[0-9]*.pth"
OF_DETECTRON2 = "last_checkpoint"  # where detectron2 writes which of its checkpoints is the last
RUN_FILES = {  # by name or pattern: what a run leaves in its folder and --overwrite removes
    CONFIG: "resolved config",
    LAST: "last checkpoint",
    BEST: "best checkpoint",
    NUMBERED: "numbered checkpoint",
    "metrics.csv": "log",
    "tensorboard": "log for TensorBoard",
    "wandb": "log for W&B",
    "mlflow": "id at MLflow",
    FAILED: "failed step",
}


def prepare_folder(folder: Path, config: DictConfig, resume: bool, overwrite: bool) -> None:
    """Make ``train.output_dir`` ready for a run, and write a new run's resolved config there.

    A run that goes on keeps its config until it is known that it can.

    Raises:
        UserError: it holds another run and neither ``resume`` nor ``overwrite`` says what to do,
            checkpoints of a run without ``last.pth``, or a run of detectron2's.
        WriteError: it cannot be written to.
    """
    goes_on = resume and (folder / LAST).exists()
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    if (folder / OF_DETECTRON2).exists() and not (folder / LAST).exists():
        raise UserError(
            f"train.output_dir {folder} holds a run of detectron2, which only detectron2 resumes: "
            f"start from its weights, --weights {folder / 'model_final.pth'}, in another folder"
        )
    present = {path: pattern for pattern in RUN_FILES for path in folder.glob(pattern)}
    # A config and failed steps alone are left by a run that had nothing to lose.
    of_a_run = [path for path, pattern in present.items() if pattern not in (CONFIG, FAILED)]
    if of_a_run and not (resume or overwrite):
        raise UserError(
            f"train.output_dir {folder} already holds a run ({of_a_run[0].name}): "
            "--resume goes on with it, --overwrite deletes it, or name another folder"
        )
    if resume and not goes_on and (numbered := numbered_checkpoints(folder)):
        raise UserError(
            f"train.output_dir {folder} has no {LAST} to resume from, but {numbered[-1].name}: "
            f"copy that to {LAST} to go on from it, or --overwrite deletes the run"
        )
    with writing(folder):
        for path in present if overwrite else []:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
    if not goes_on:
        write_config(folder, config)


def write_config(folder: Path, config: DictConfig) -> None:
    """Write the resolved config of a run; WriteError if the folder cannot be written to."""
    with whole_file(folder / CONFIG) as file:
        file.write(OmegaConf.to_yaml(config))


def checkpoint_in(folder: Path) -> Path:
    """Return a run's best checkpoint, or else its last; UserError if it has neither."""
    for name in (BEST, LAST):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder} has no checkpoint yet, neither {BEST} nor {LAST}")


def numbered_checkpoints(folder: Path) -> list[Path]:
    """Return a run's numbered checkpoints, the oldest first."""
    return sorted(folder.glob(NUMBERED))

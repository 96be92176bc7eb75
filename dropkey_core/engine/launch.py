"""Where a run computes: devices, processes and precision, by Lightning Fabric."""

import logging
import warnings
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from omegaconf import DictConfig

from dropkey_core.engine.distributed import Processes, started_from_outside
from dropkey_core.engine.errors import UserError
from dropkey_core.engine.joint_end import JointEnd
from dropkey_core.engine.precision import mixed_precision

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def launch(train: DictConfig, processes: Processes) -> tuple["Fabric", JointEnd]:
    """Start the processes of a run; each returns from here knowing its rank and device.

    Args:
        train: the ``train`` section: ``device``, ``amp.enabled`` and ``ddp`` are read.
        processes: how many, see :func:`check_launch`.

    Returns:
        Lightning's handle on the processes, and what lets them end together.

    Raises:
        UserError: if the processes cannot meet.
    """
    # Imported here: it takes seconds, and a mistake in the config should not wait for it.
    from lightning.fabric import Fabric
    from lightning.fabric.plugins.environments import LightningEnvironment
    from lightning.fabric.strategies import DDPStrategy

    quieten_lightning()
    num_gpus, num_machines = processes.counted()
    several = num_gpus * num_machines > 1
    # detectron2's default too. Broadcasting would also need evaluations of equal length.
    options = {"broadcast_buffers": False, **train.ddp}
    ddp = DDPStrategy(timeout=timedelta(seconds=processes.timeout), **options)
    fabric = Fabric(
        accelerator=train.device,
        devices=num_gpus,
        num_nodes=num_machines,
        strategy=ddp if several else "auto",
        plugins=[
            *([mixed_precision(train.device)] if train.amp.enabled else []),
            # Else Lightning waits for tasks of SLURM wherever it finds its variables.
            *([] if started_from_outside() else [LightningEnvironment()]),
        ],
    )
    joint_end = JointEnd(fabric.strategy.launcher)
    if several:
        joint_end.watch()
    try:
        fabric.launch()
    except torch.distributed.DistError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the processes of this run did not find each other: {reason}") from error
    return fabric, joint_end


def check_launch(train: DictConfig, processes: Processes) -> None:
    """Compare what is asked for with what there is, and let the processes know where to meet.

    Raises:
        UserError: naming the setting or the option.
    """
    processes.announce()
    check_devices(train, processes.counted()[0])


def check_devices(train: DictConfig, num_gpus: int) -> None:
    """Compare what the config asks for with what there is."""
    if train.device not in ("cuda", "cpu"):
        raise UserError(f"train.device must be cuda or cpu, got {train.device!r}")
    if train.amp.enabled and train.device != "cuda":
        raise UserError("train.amp.enabled needs train.device=cuda: set train.amp.enabled=false")
    available = torch.cuda.device_count()
    if train.device == "cuda" and available == 0:
        raise UserError("train.device is cuda and this machine has no GPU: use train.device=cpu")
    if train.device == "cuda" and num_gpus > available:
        raise UserError(f"--num-gpus {num_gpus}: this machine has {available}")


def quieten_lightning() -> None:
    """Keep Lightning's notices (devices, seeds, process groups, tips) out of the user's sight."""
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    warnings.filterwarnings("ignore", message=".*lightning.*")

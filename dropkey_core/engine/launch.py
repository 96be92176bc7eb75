"""Where a run computes: devices, processes and precision, by Lightning Fabric."""

import logging
import os
import warnings
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig

from dropkey_core.engine.errors import UserError

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def is_first_process() -> bool:
    """Return whether this process is rank 0, or will be once it has launched the others."""
    ranks = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    machine = int(os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", 0)))
    return machine == 0 and int(next((os.environ[r] for r in ranks if r in os.environ), 0)) == 0


def launch(train: DictConfig, num_gpus: int | None = None, num_machines: int = 1) -> "Fabric":
    """Start the processes of a run; each returns from here knowing its rank and device.

    Args:
        train: the ``train`` section: ``device``, ``amp.enabled`` and ``ddp`` are read.
        num_gpus: processes per machine, one GPU each; with ``train.device=cpu`` that many CPU
            processes, which is meant for tests. None: one, or what torchrun says.
        num_machines: machines that run this same command.

    Raises:
        UserError: if the machine has not what is asked for.
    """
    if num_gpus is None:
        num_gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    check_devices(train, num_gpus)
    # Imported here: it takes seconds, and a mistake in the config should not wait for it.
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    quieten_lightning()
    # detectron2's default too. Broadcasting would also need evaluations of equal length.
    ddp = DDPStrategy(**{"broadcast_buffers": False, **train.ddp})
    fabric = Fabric(
        accelerator=train.device,
        devices=num_gpus,
        num_nodes=num_machines,
        strategy=ddp if num_gpus * num_machines > 1 else "auto",
        plugins=[_mixed_precision()] if train.amp.enabled else None,
    )
    fabric.launch()
    return fabric


def check_devices(train: DictConfig, num_gpus: int) -> None:
    """Compare what the config asks for with what there is."""
    if train.device not in ("cuda", "cpu"):
        raise UserError(f"train.device must be cuda or cpu, got {train.device!r}")
    if train.amp.enabled and train.device != "cuda":
        raise UserError("train.amp.enabled needs train.device=cuda: set train.amp.enabled=false")
    if num_gpus < 1:
        raise UserError(f"--num-gpus must be at least 1, got {num_gpus}")
    available = torch.cuda.device_count()
    if train.device == "cuda" and available == 0:
        raise UserError("train.device is cuda and this machine has no GPU: use train.device=cpu")
    if train.device == "cuda" and num_gpus > available:
        raise UserError(f"--num-gpus {num_gpus}: this machine has {available}")


def stop_other_processes(fabric: "Fabric") -> None:
    """End the processes that this one has launched, when it fails and they would wait for it."""
    launcher = fabric.strategy.launcher
    for process in getattr(launcher, "procs", []):
        process.kill()


def quieten_lightning() -> None:
    """Keep Lightning's notices (devices, seeds, process groups, tips) out of the user's sight."""
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    warnings.filterwarnings("ignore", message=".*lightning.*")


def _mixed_precision() -> Any:
    from lightning.fabric.plugins import MixedPrecision

    class MixedPrecisionForward(MixedPrecision):
        """float16 in the forward; Lightning's own would also round the true boxes to float16."""

        def convert_input(self, data: Any) -> Any:
            return data

    return MixedPrecisionForward(precision="16-mixed", device="cuda")

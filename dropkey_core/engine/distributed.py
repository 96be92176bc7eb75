"""The processes of a run: how many there are, which is the first, and where they meet."""

import os
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import torch.distributed as dist
from torch import Tensor

from dropkey_core.engine.errors import UserError

T = TypeVar("T")

TIMEOUT_S = 600.0
URL_FORM = "must be tcp://HOST:PORT of machine 0, for instance tcp://10.0.0.1:29500"


class Started(NamedTuple):
    """Processes that something else has started.

    Args:
        by: its name.
        per_machine: their number on each machine.
        machines: number of machines.
    """

    by: str
    per_machine: int
    machines: int


@dataclass(frozen=True)
class Processes:
    """What the command line says about processes.

    Args:
        num_gpus: processes on each machine, one GPU each; with ``train.device=cpu`` that many CPU
            processes, which is meant for tests. None: as many as torchrun or SLURM has started,
            else one.
        num_machines: machines that run this same command. None: likewise.
        machine_rank: number of this machine, from 0.
        dist_url: where the processes of several machines meet, ``tcp://HOST:PORT`` of machine 0.
        timeout: seconds that a process waits for another one before it gives up.
    """

    num_gpus: int | None = None
    num_machines: int | None = None
    machine_rank: int | None = None
    dist_url: str | None = None
    timeout: float = TIMEOUT_S

    def counted(self) -> tuple[int, int]:
        """Return the number of processes on each machine and that of machines.

        Raises:
            UserError: numbers below 1, or others than torchrun or SLURM has started.
        """
        started = started_from_outside() or Started("", 1, 1)
        wanted = {
            "--num-gpus": (self.num_gpus, started.per_machine),
            "--num-machines": (self.num_machines, started.machines),
        }
        for option, (number, there_are) in wanted.items():
            if number is not None and number < 1:
                raise UserError(f"{option} must be at least 1, got {number}")
            if started.by and number not in (None, there_are):
                raise UserError(
                    f"{option} {number}: {started.by} has started {started.per_machine} processes "
                    f"on each of {started.machines} machines; leave {option} out or give "
                    f"{there_are}"
                )
        return self.num_gpus or started.per_machine, self.num_machines or started.machines

    def announce(self) -> None:
        """Check everything, and set the variables by which torch's processes find each other.

        Raises:
            UserError: naming the option.
        """
        if not self.timeout > 0:
            raise UserError(f"--dist-timeout must be above 0 seconds, got {self.timeout:g}")
        num_machines = self.counted()[1]
        if started := started_from_outside():
            for option, value in (
                ("--machine-rank", self.machine_rank),
                ("--dist-url", self.dist_url),
            ):
                if value is not None:
                    raise UserError(f"{option}: {started.by} sees to that; leave it out")
            return
        if self.machine_rank is not None and not 0 <= self.machine_rank < num_machines:
            raise UserError(
                f"--machine-rank must be in 0..{num_machines - 1} with --num-machines "
                f"{num_machines}, got {self.machine_rank}"
            )
        if num_machines > 1:
            self._check_that_machines_can_meet(num_machines)
        if self.machine_rank is not None:
            os.environ["NODE_RANK"] = str(self.machine_rank)
        if self.dist_url is not None:
            host, port = host_and_port(self.dist_url)
            os.environ.update(MASTER_ADDR=host, MASTER_PORT=str(port))

    def _check_that_machines_can_meet(self, num_machines: int) -> None:
        if self.machine_rank is None and "NODE_RANK" not in os.environ:
            raise UserError(
                f"--num-machines {num_machines} needs --machine-rank: 0 on the first machine, then "
                f"up to {num_machines - 1}"
            )
        if self.dist_url is None and not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
            raise UserError(f"--num-machines {num_machines} needs --dist-url: it {URL_FORM}")


def started_from_outside() -> Started | None:
    """Return what torchrun or SLURM's srun has started; None if neither has."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        per_machine = int(os.environ["LOCAL_WORLD_SIZE"])
        return Started("torchrun", per_machine, int(os.environ["WORLD_SIZE"]) // per_machine)
    # Lightning takes jobs of these names for a shell in which the user starts things by hand.
    by_hand = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    tasks = int(os.environ.get("SLURM_NTASKS", 1))
    if tasks == 1 or by_hand:
        return None
    machines = int(os.environ.get("SLURM_NNODES", 1))
    if "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise UserError(
            f"SLURM runs {tasks} tasks: say how many on each machine by #SBATCH --ntasks-per-node, "
            "one for each GPU"
        )
    return Started("SLURM", int(os.environ["SLURM_NTASKS_PER_NODE"]), machines)


def host_and_port(url: str) -> tuple[str, int]:
    """Take apart ``tcp://HOST:PORT``.

    Raises:
        UserError: for anything else.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is no number, or above 65535
        host = port = None
    if (
        not host
        or not port
        or url.lower() not in (f"tcp://{host}:{port}", f"tcp://[{host}]:{port}")
    ):
        raise UserError(f"--dist-url {URL_FORM}, got {url!r}")
    return host, port


def is_first_process() -> bool:
    """Return whether this process is rank 0, or will be once it has launched the others."""
    started = started_from_outside()
    by = started.by if started else ""
    ranks = {"torchrun": ("RANK",), "SLURM": ("SLURM_PROCID",), "": ("NODE_RANK", "LOCAL_RANK")}
    return all(int(os.environ.get(name, 0)) == 0 for name in ranks[by])


def total_over_processes(amount: Tensor) -> Tensor:
    """Return the sum of ``amount`` over all processes, in every one of them; no gradient flows.

    Args:
        amount: any shape, the same in each process.
    """
    total = amount.detach().clone()
    if rank_and_world_size()[1] > 1:
        dist.all_reduce(total)
    return total


def per_total(part: Tensor, total: Tensor) -> Tensor:
    """Return ``part / total`` times the number of processes.

    DistributedDataParallel takes the mean of the gradients of all processes. The mean of this over
    the processes is the sum of their parts divided by the total: what one process with the whole
    batch has, however unevenly what is counted lies.

    Args:
        part: this process's part of a sum.
        total: what the whole sum is divided by, see ``total_over_processes``.
    """
    return rank_and_world_size()[1] * part / total


def rank_and_world_size() -> tuple[int, int]:
    """Return this process's rank and the number of processes, (0, 1) without torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_objects(value: T) -> list[T]:
    """Return the ``value`` of every process, in order of rank, to every process."""
    _, world_size = rank_and_world_size()
    if world_size == 1:
        return [value]
    gathered: list[Any] = [None] * world_size
    dist.all_gather_object(gathered, value)
    return gathered

"""A training in processes of its own, one for each GPU.

The engine starts the other processes by running this process's own command again, which must
therefore be the training and not the whole table.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dropkey_core.engine.checkpoint import read_checkpoint
from dropkey_core.engine.errors import UserError
from dropkey_core.engine.paths import PROJECT_ROOT
from dropkey_core.engine.run_folder import CONFIG, LAST
from dropkey_core.engine.signals import StopRequests

TRAIN = PROJECT_ROOT / "tools" / "train_net.py"


def train_in_processes(config: DictConfig, num_gpus: int) -> dict[str, float]:
    """Train as :func:`~dropkey_core.engine.train` does with ``resume``, on several GPUs.

    Raises:
        UserError: the training failed; it has said why.
        TrainingStopped: after Ctrl-C or SIGTERM, when ``last.pth`` is saved.
    """
    folder = Path(config.train.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(OmegaConf.to_yaml(config))
    command = [sys.executable, str(TRAIN), "--config", str((folder / CONFIG).absolute())]
    command += ["--resume", "--num-gpus", str(num_gpus)]
    with StopRequests() as stop:
        # In a session of its own a terminal's Ctrl-C reaches it once, by way of this process: the
        # second one would end it unsaved.
        process = subprocess.Popen(command, start_new_session=True)
        try:
            _wait(process, stop)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        stop.raise_if_received()
    if process.returncode:
        raise UserError(f"the training ended with exit code {process.returncode}, see above")
    state = read_checkpoint(folder / LAST)
    if state["step"] < config.train.max_iter:
        raise UserError(
            f"the training stopped after step {state['step']}; the same command goes on"
        )
    metrics: dict[str, float] = state["metrics"]
    return metrics


def _wait(process: "subprocess.Popen[bytes]", stop: StopRequests) -> None:
    """Wait for the end of a process; pass on the first request to stop."""
    passed_on = False
    while process.poll() is None:
        if stop.received and not passed_on:
            process.send_signal(stop.received)
            passed_on = True
        try:
            process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            continue

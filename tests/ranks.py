"""Several processes of a run inside a test, without the seconds that starting Python costs.

They are forks of the test's own process, with the variables that torchrun would set, and exchange
tensors by gloo: all that they run is real. tests/distributed_check.py starts real commands.
"""

import io
import multiprocessing
import os
import queue
import socket
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import torch


class Ended(NamedTuple):
    """How a process ended: what its function returned (None if it failed), and what it printed."""

    value: object
    out: str
    err: str


def run_ranks(world_size, function, *arguments, timeout=120.0, start_method="fork"):
    """Run ``function(*arguments)`` in ``world_size`` processes; return an ``Ended`` of each.

    A process that raises has the traceback in ``err``. One that is killed, or has not ended after
    ``timeout`` seconds, gets ``None``. "forkserver" forks from a new process instead of this one,
    for what does not outlive a fork, such as threads; all must pickle then.
    """
    if start_method == "fork":  # imported once, here: else every fork would do so, for seconds
        import lightning.fabric  # noqa: F401
        import torch.utils.tensorboard  # noqa: F401
    context = multiprocessing.get_context(start_method)
    context.set_forkserver_preload([function.__module__])
    results = context.Queue()
    port = free_port()
    processes = [
        context.Process(target=_run, args=(rank, world_size, port, results, function, arguments))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    ended = [None] * world_size
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            rank, result = results.get(timeout=0.2)
            ended[rank] = result
        except queue.Empty:
            if not any(process.is_alive() for process in processes):
                break
        if None not in ended:
            break
    for process in processes:
        process.join(timeout=5 if None not in ended else 0)
        process.kill()
        process.join()
    return ended


def _run(rank, world_size, port, results, function, arguments):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), GROUP_RANK="0",
        WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test",
    )  # fmt: skip
    torch.set_num_threads(1)  # a fork must not use the threads of its parent
    value = None
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            value = function(*arguments)
        except BaseException:
            traceback.print_exc()
    results.put((rank, Ended(value, out.getvalue(), err.getvalue())))
    results.close()
    results.join_thread()
    os._exit(0)


def free_port():
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

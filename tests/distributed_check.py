#!/usr/bin/env python
"""Check runs of several processes on CPU by the very commands that a user gives; a few minutes.

tests/distributed_check.py faults     one process fails: own error, exit code, time until all ended
tests/distributed_check.py signals    SIGTERM and Ctrl-C with 2 processes, then --resume
tests/distributed_check.py starts     --num-gpus, torchrun, two nodes, SLURM's variables: one curve
tests/distributed_check.py metrics    --eval-only of all projects with 1, 2 and 3 processes
tests/distributed_check.py machines   two network namespaces as machines, and a cable pulled out

Prints a line for each and ends with 1 if one of them is not as it should be. Not part of the tests,
which check the same with forked processes.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.dropkey_core.engine.toy_run import assert_same_run, curve  # noqa: E402

TOOL = str(ROOT / "tools" / "train_net.py")
TOY = ["--config", "toy.yaml"]
PATIENCE_S = 240  # of this script; a machine with few cores starts processes slowly
FAULTY = ["model._target_=toy_faults.FaultyModel"]
failures = []


def start(folder, *arguments, launcher=(), machine=(), **variables):
    """Start the tool in ``folder``, in a process group of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "tests" / "toy" / "toy.yaml", folder)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    environment["PYTHONPATH"] = str(ROOT / "tests" / "toy")
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [*machine, sys.executable, *launcher, TOOL, *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **pipe)


def finish(process, patience=PATIENCE_S):
    """Wait for the end; return (exit code, stdout, stderr), or None for the code of a hang."""
    try:
        out, err = process.communicate(timeout=patience)
        return process.returncode, out, err
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        return None, out, err


def tell(what, good, seen, err=""):
    """Print one result."""
    print(f"{'ok  ' if good else 'FAIL'} {what:<58} {seen}", flush=True)
    if not good:
        failures.append(what)
        print(err[-3000:])


def torchrun(number, *options):
    """What comes before the tool to start ``number`` processes by torchrun."""
    return ["-m", "torch.distributed.run", "--nproc-per-node", str(number), *options]


def faults(folder):
    """Let every process fail in every place."""
    mapper = "dataloader.train.mapper"
    evaluator = "dataloader.evaluator"
    broken_mapper = f"{mapper}._target_=toy_faults.FaultyMapper"
    broken_evaluator = f"{evaluator}._target_=toy_faults.FaultyEvaluator"
    cases = []
    for rank in range(3):
        told = f"error: rank {rank} of 3: " if rank else "error: "
        model = [*FAULTY, f"model.rank={rank}"]
        killed = (137, f"process {rank} was ended by SIGKILL") if rank else (-9, "")
        of_rank = [
            ("mapper of rank", [broken_mapper, f"{mapper}.rank={rank}"], 2, f"{told}.*is trunc"),
            ("loss of rank", [*model, "model.fault=loss"], 2, f"{told}.*not finite"),
            ("bug in rank", [*model, "model.fault=bug"], 1, "a mistake in the code"),
            ("SIGKILL of rank", [*model, "model.fault=killed"], *killed),
            ("evaluator of rank", [broken_evaluator, f"{evaluator}.rank={rank}"], 2,
             f"{told}there are no images"),
        ]  # fmt: skip
        cases += [(f"{what} {rank}", *case) for what, *case in of_rank]
    cases += [
        ("results of rank 0", [broken_evaluator, f"{evaluator}.rank=0",
         f"{evaluator}.at_end=true"], 2, "error: no space is left"),
        ("saving", [*FAULTY, "model.fault=folder", "model.rank=0"], 2, "error: cannot write"),
        ("too few records", ["dataset.size=2"], 2, "error: .* has 2 records, too few for 3"),
        ("batch of 4 for 3", ["dataloader.train.total_batch_size=4"], 2, "error: .* shared by 3"),
    ]  # fmt: skip
    for by in ("--num-gpus", "torchrun"):
        for number, (what, overrides, code, words) in enumerate(cases):
            where = folder / by.strip("-") / str(number)
            six = ["dataloader.train.total_batch_size=6", "model.drop_ratio=0.0"]
            arguments = [*TOY, *six, *overrides]
            launcher = torchrun(3) if by == "torchrun" else []
            arguments += [] if launcher else ["--num-gpus", "3"]
            began = time.time()
            process = start(where, *arguments, launcher=launcher)
            ended_with, _, err = finish(process)
            if launcher and "SIGKILL" in what:
                words = r"exitcode +: -9 .* \(SIGKILL\)"  # torchrun tells it
            note = where / "fault_time"
            seconds = time.time() - (float(note.read_text()) if note.exists() else began)
            left = processes_of_group(process.pid)
            code_is_right = ended_with not in (0, None) if launcher else ended_with == code
            good = code_is_right and re.search(words, err) and not left and seconds < 30
            tracebacks = err.count("Traceback")
            seen = f"exit {ended_with}, {seconds:.1f} s after it, {tracebacks} tracebacks"
            tell(f"{by}: {what}", bool(good), seen, err)


def processes_of_group(group):
    """Processes that are left of a group, after the seconds that orphans may take to notice."""
    left, deadline = ["not looked yet"], time.monotonic() + 15
    while left and time.monotonic() < deadline:
        time.sleep(0.5)
        found = subprocess.run(["pgrep", "-g", str(group)], capture_output=True, text=True)
        left = found.stdout.split()
    return left


def same_run(folder, other):
    """Whether two runs are the same to the last bit."""
    try:
        assert_same_run(folder / "output", other / "output")
    except AssertionError:
        return False
    return True


def signals(folder):
    """Stop runs of 2 processes and let them go on."""
    slow = [*TOY, *FAULTY, "model.fault=''", "model.rank=0", "model.pause=0.5", "--num-gpus", "2"]
    whole = folder / "whole"
    tell("uninterrupted", finish(start(whole, *slow))[0] == 0, "")
    to_all, to_first = os.killpg, os.kill
    for name, number, send, code in (
        ("SIGTERM to the launching process", signal.SIGTERM, to_first, 0),
        ("SIGTERM to the group", signal.SIGTERM, to_all, 0),
        ("Ctrl-C to the launching process", signal.SIGINT, to_first, 130),
        ("Ctrl-C to the group", signal.SIGINT, to_all, 130),
    ):
        where = folder / name.replace(" ", "_")
        process = start(where, *slow)
        while not process.stdout.readline().startswith("step 3/"):
            assert process.poll() is None, process.stderr.read()
        sent = time.time()
        send(process.pid, number)
        ended_with, _, err = finish(process)
        seconds = time.time() - sent
        left = processes_of_group(process.pid)
        steps = len(curve(where / "output"))
        resumed = finish(start(where, *slow, "--resume"))[0]
        same = same_run(where, whole)
        good = ended_with == code and resumed == 0 and same and not left and 3 <= steps < 12
        seen = (
            f"exit {ended_with} {seconds:.1f} s after it; resumed after step {steps}: equal {same}"
        )
        tell(name, good and "Traceback" not in err, seen, err)


def close(folder, other):
    """Whether the curves of two runs agree to float tolerance."""
    rows, others = curve(folder / "output"), curve(other / "output")
    return len(rows) == len(others) and all(
        abs(float(a[name]) - float(b[name])) <= 1e-4 * abs(float(b[name])) + 1e-6
        for a, b in zip(rows, others, strict=True)
        for name in a
        if a[name]
    )


def starts(folder):
    """Start two processes in every way."""
    settings = [*TOY, "model.drop_ratio=0.0", "dataset.size=9"]
    assert finish(start(folder / "one", *settings))[0] == 0
    machines = ["--num-machines", "2", "--num-gpus", "1", "--dist-url", "tcp://127.0.0.1:29611"]
    nodes = ["--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", "29612"]
    slurm = {
        "SLURM_JOB_ID": "4242", "SLURM_JOB_NAME": "toy", "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2", "SLURM_NODELIST": "localhost",
        "SLURM_LOCALID": "0",
    }  # fmt: skip
    tasks = [{**slurm, "SLURM_PROCID": str(n), "SLURM_NODEID": str(n)} for n in range(2)]
    one_task = {**tasks[0], "SLURM_NTASKS": "1", "SLURM_NNODES": "1"}
    ways = {
        "--num-gpus 2": [(["--num-gpus", "2"], [], {})],
        "torchrun": [([], torchrun(2), {})],
        "torchrun --standalone, --num-gpus 2": [
            (["--num-gpus", "2"], torchrun(2, "--standalone"), {})
        ],
        "--num-machines 2": [([*machines, "--machine-rank", str(n)], [], {}) for n in range(2)],
        "torchrun --nnodes 2": [
            ([], torchrun(1, *nodes, "--node-rank", str(n)), {}) for n in range(2)
        ],
        "SLURM, a task on each of 2 machines": [([], [], task) for task in tasks],
        "SLURM, 2 tasks of one machine": [
            (["--num-gpus", "2", "--num-machines", "1"], [],
             {**task, "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0",
              "SLURM_LOCALID": str(n)})
            for n, task in enumerate(tasks)
        ],
        "SLURM, one task that starts 2 processes": [(["--num-gpus", "2"], [], one_task)],
    }  # fmt: skip
    for number, (way, parts) in enumerate(ways.items()):
        where = folder / str(number)
        began = time.time()
        running = [start(where, *settings, *more, launcher=by, **variables)
                   for more, by, variables in parts]  # fmt: skip
        ended = [finish(process) for process in running]
        codes = [code for code, _, _ in ended]
        good = not any(codes) and close(where, folder / "one")
        out = "".join(out for _, out, _ in ended)
        good = good and out.count("bbox/images 9.0000") == 3  # told once by all
        noise = sum(len(err.splitlines()) for _, _, err in ended)
        seen = f"exits {codes}, {time.time() - began:.0f} s, {noise} lines on stderr"
        tell(way, good, seen, "".join(err for _, _, err in ended))


def metrics(folder):
    """Evaluate a fresh demo model of every project."""
    few = ["--num-train", "4", "--num-val", "7", "--image-size", "96"]
    fewer = ["--num-train", "1", "--num-val", "1", "--num-frames", "2", "--num-cameras", "4"]
    for name, sizes in (
        ("shapes", few), ("interactions", few), ("bodies", [*fewer, "--image-size", "64"])
    ):  # fmt: skip
        script = [sys.executable, str(ROOT / "datasets" / f"make_{name}.py"), *sizes]
        command = [*script, "--output", str(folder / name)]
        subprocess.run(command, check=True, capture_output=True)
    small = {"detr": [], "qpic": [], "metro": [], "classification": ["dataset.test.per_class=1"]}
    for project, overrides in small.items():
        for batch_size in (1, 3):
            told, where = [], folder / f"{project}-{batch_size}"
            for number in (1, 2, 3):
                process = start(
                    where, "--config", str(ROOT / "projects" / project / "demo.yaml"),
                    "--eval-only", "--num-gpus", str(number), *overrides,
                    f"dataloader.test.batch_size={batch_size}", f"train.output_dir=run{number}",
                    DROPKEY_DATASETS=str(folder),
                )  # fmt: skip
                code, out, err = finish(process)
                files = {p.name: p.read_bytes() for p in sorted((where / f"run{number}").iterdir())}
                told.append((code, out, files))
            equal = told[0] == told[1] == told[2] and told[0][0] == 0
            last = told[0][1].splitlines()[-1][:60]
            # Larger batches are padded otherwise: equal metrics are likely, not promised.
            tell(f"{project}, batches of {batch_size}, 1 = 2 = 3 processes",
                 equal or batch_size > 1, f"equal {equal}: {last}", err)  # fmt: skip


@contextmanager
def two_machines():
    """Two network namespaces with a cable between them.

    Yields for each what runs a command there and the variables it needs, the address of the first,
    and what pulls out the cable.

    Raises:
        PermissionError: where this user, or this machine, cannot make namespaces.
    """
    names = [f"dropkey{os.getpid()}{end}" for end in "ab"]
    ip = shutil.which("ip")
    done = ip and run_quietly(ip, "netns", "add", names[0])
    if not done:
        raise PermissionError("network namespaces cannot be made here (ip netns add)")
    try:
        run_quietly(ip, "netns", "add", names[1])
        cable = ["link", "add", "veth0", "netns", names[0], "type", "veth"]
        run_quietly(ip, *cable, "peer", "name", "veth0", "netns", names[1])
        for number, name in enumerate(names, start=1):
            run_quietly(ip, "-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "veth0")
            run_quietly(ip, "-n", name, "link", "set", "veth0", "up")
            run_quietly(ip, "-n", name, "link", "set", "lo", "up")
        # Else gloo takes the network that the machine's own name belongs to.
        machine = [
            {"machine": [ip, "netns", "exec", name], "GLOO_SOCKET_IFNAME": "veth0"}
            for name in names
        ]
        unplug = partial(run_quietly, ip, "-n", names[0], "link", "del", "veth0")
        yield machine, "10.77.0.1", unplug
    finally:
        for name in names:
            run_quietly(ip, "netns", "del", name)


def run_quietly(*command):
    """Whether a command succeeds."""
    return subprocess.run(command, capture_output=True).returncode == 0


def run_and_unplug(folder, machines, address, unplug, after_step, timeout):
    """Train on two machines and pull out the cable; return [(code, out, err)] and the seconds."""
    slow = [*TOY, *FAULTY, "model.fault=''", "model.rank=0", "model.pause=0.3", "dataset.size=9"]
    slow += ["model.drop_ratio=0.0", "--num-machines", "2", "--dist-timeout", str(timeout)]
    running = [
        start(folder, *slow, "--dist-url", f"tcp://{address}:29500", "--machine-rank", str(n), **m)
        for n, m in enumerate(machines)
    ]
    while not running[0].stdout.readline().startswith(f"step {after_step}/"):
        assert running[0].poll() is None, running[0].stderr.read()
    unplug()
    began = time.monotonic()
    return [finish(process, timeout + 60) for process in running], time.monotonic() - began


def machines(folder):
    """Train on two machines that are none, and lose one."""
    settings = [*TOY, "model.drop_ratio=0.0", "dataset.size=9"]
    assert finish(start(folder / "one", *settings))[0] == 0
    with two_machines() as (both, address, unplug):
        own = ["--num-machines", "2", "--num-gpus", "2", "--dist-url", f"tcp://{address}:29500"]
        theirs = ["--nnodes", "2", "--master-addr", address, "--master-port", "29500"]
        ways = {
            "--num-machines 2 --num-gpus 2": lambda n: ([*own, "--machine-rank", str(n)], []),
            "torchrun": lambda n: ([], torchrun(2, *theirs, "--node-rank", str(n))),
        }
        for number, (way, part) in enumerate(ways.items()):
            where, running = folder / str(number), []
            for rank, machine in enumerate(both):
                more, launcher = part(rank)
                running.append(start(where, *settings, *more, launcher=launcher, **machine))
            ended = [finish(process) for process in running]
            codes = [code for code, _, _ in ended]
            good = not any(codes) and close(where, folder / "one")
            tell(f"two machines: {way}", good, f"exits {codes}", "".join(e for _, _, e in ended))
        ended, seconds = run_and_unplug(folder / "cut", both, address, unplug, 3, timeout=15)
        codes = [code for code, _, _ in ended]
        good = codes == [1, 1] and seconds < 45
        last = [err.strip().splitlines()[-1][:100] for _, _, err in ended]
        tell("two machines: cable pulled out", good, f"exits {codes} after {seconds:.0f} s: {last}")


def main():
    """Run what the command line names."""
    checks = {"faults": faults, "signals": signals, "starts": starts, "metrics": metrics}
    checks["machines"] = machines
    for name in sys.argv[1:] or checks:
        with tempfile.TemporaryDirectory() as folder:
            checks[name](Path(folder))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""Kill a training again and again, resume it each time, and compare the end with a run left alone.

    python datasets/make_shapes.py --num-train 64 --num-val 24         # and make_interactions.py
    python datasets/make_bodies.py --num-train 4 --num-val 2 --num-frames 2 --num-cameras 3
    python tests/kill_and_resume.py detr qpic metro classification --kills 24
    python tests/kill_and_resume.py detr qpic metro classification --kills 24 --signal TERM

Each project's demo.yaml is run for 48 steps, a checkpoint every 3 and an evaluation every 8, with 0
and with 2 loader processes. Every start of a training is a process of its own, in a process group
of its own, which is ended as a whole: at random moments, in random steps, in the middle of an
evaluation, and at the points that matter in the writing of every file: when it has been opened, in
the middle, before it takes its place, before a second name is given or an old file removed. Those
points are Python's audit events; nothing in the product knows of them.

After each kill every checkpoint there must load whole, and the next start must go on exactly where
last.pth stands. After SIGTERM, sometimes twice, the exit code must be 0 and no step may be lost.
When enough kills are done the run goes on to its end. Then the losses and metrics of every step,
the weights, the optimizer, the best checkpoint, the predictions, TensorBoard's scalars and the
names of all files must be those of the run left alone, to the last bit. One line for each project
and number of workers tells what happened.

Not collected by pytest: it takes a minute or two for each project and number of workers.
"""

import argparse
import atexit
import contextlib
import csv
import logging
import os
import random
import re
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes are forked: no threads before
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SETTINGS = [
    "train.max_iter=48", "train.checkpointer.period=3", "train.checkpointer.max_to_keep=2",
    "train.eval_period=8", "train.log_period=1", "dataloader.train.total_batch_size=4",
]  # fmt: skip
TIMING = {"images_per_second", "memory_mb"}
# What a kill may wait for: an audit event, and a pattern that its file names must match.
WRITINGS = [
    ("open", r"^\.last\.pth\.unfinished$"), ("os.rename", r"^\.last\.pth\.unfinished$"),
    ("open", r"^\.best\.pth\.unfinished$"), ("os.rename", r"^\.best\.pth\.unfinished$"),
    ("os.link", r"^last\.pth$"), ("os.rename", r"^\.model_"), ("os.remove", r"^model_"),
    ("open", r"^\.metrics\.csv\.unfinished$"), ("os.rename", r"^\.metrics\.csv\.unfinished$"),
    ("open", r"^metrics\.csv$"), ("open", r"^\.config\.yaml\.unfinished$"),
    ("os.rename", r"^\.config\.yaml\.unfinished$"), ("open", r"^events\.out"),
    ("open", r"^\.(coco|interaction|mesh|predictions).*\.unfinished$"),
]  # fmt: skip


KINDS = {"lineeval": "evaluation", "linestep": "step", "start": "start"}


@dataclass
class Trigger:
    """When a process is ended: ``delay`` seconds after the ``count``-th time that it happens."""

    event: str  # an audit event, "line" for a printed one, or "start"
    pattern: str = ""
    count: int = 1
    delay: float = 0.0
    again: float | None = None  # the signal once more, so many seconds later


@dataclass
class Story:
    """What one process did until it ended."""

    lines: list[str] = field(default_factory=list)
    code: int = 0
    ended: bool = False  # by the signal

    def last_step(self) -> int | None:
        steps = [re.match(r"step (\d+)/", line) for line in self.lines]
        return max((int(step[1]) for step in steps if step), default=None)

    def resumed_after(self) -> int | None:
        found = [re.search(r"^going on from .* after step (\d+)$", line) for line in self.lines]
        return next((int(match[1]) for match in found if match), None)


def run_process(arguments: list[str], trigger: Trigger | None, number: int) -> Story:
    """Run the training tool in a process of its own; end it when the trigger says so."""
    sys.stdout.flush()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        be_the_tool(arguments, write, trigger, number)
    os.close(write)
    story, rest, deadline, seen = Story(), "", None, 0
    began = time.monotonic()
    if trigger and trigger.event == "start":
        deadline = began + trigger.delay
    while True:
        ready, _, _ = select.select([read], [], [], 0.005)
        data = os.read(read, 1 << 16) if ready else b""
        *lines, rest = (rest + data.decode(errors="replace")).split("\n")
        story.lines += lines
        if trigger and trigger.event == "line" and deadline is None:
            seen += sum(bool(re.match(trigger.pattern, line)) for line in lines)
            if seen >= trigger.count:
                deadline = time.monotonic() + trigger.delay
        if deadline and time.monotonic() >= deadline:
            send(pid, number)
            deadline = None
            if trigger.again is not None:
                time.sleep(trigger.again)
                send(pid, number)
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() - began > 900:
            os.killpg(pid, signal.SIGKILL)
            raise AssertionError("hangs:\n" + "\n".join(story.lines[-20:]))
    while select.select([read], [], [], 0)[0] and (data := os.read(read, 1 << 16)):
        rest += data.decode(errors="replace")
    story.lines += rest.split("\n")
    os.close(read)
    story.code = os.waitstatus_to_exitcode(status)
    if number == signal.SIGKILL:
        story.ended = story.code == -signal.SIGKILL
    send(pid, signal.SIGKILL)  # loader processes of a training that was killed alone
    return story


def send(group: int, number: int) -> None:
    """Send a signal to a process group that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def be_the_tool(arguments: list[str], output: int, trigger: Trigger | None, number: int) -> None:
    """Become tools/train_net.py; never return."""
    code = 1
    try:
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        if trigger and trigger.event not in ("line", "start"):
            watch(trigger, number)
        code = TOOL.main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def watch(trigger: Trigger, number: int) -> None:
    """End this process's group when an audit event matches."""
    own, seen = os.getpid(), [0]

    def fire() -> None:
        if trigger.delay:
            time.sleep(trigger.delay)
        os.killpg(own, number)
        if trigger.again is not None:
            time.sleep(trigger.again)
            os.killpg(own, number)

    def hook(event: str, values: tuple) -> None:
        if event != trigger.event or os.getpid() != own:
            return
        if re.match(trigger.pattern, Path(str(values[0])).name):
            seen[0] += 1
            if seen[0] == trigger.count:
                if trigger.delay or trigger.again is not None:
                    threading.Thread(target=fire, daemon=True).start()
                else:
                    fire()

    sys.addaudithook(hook)


def draw_trigger(rng: random.Random, number: int, seconds: dict[str, float]) -> Trigger:
    """Draw a moment to end the next process; ``seconds`` says how long things take."""
    again = rng.uniform(0, 0.1) if number != signal.SIGKILL and rng.random() < 0.4 else None
    kind = rng.choices(["writing", "evaluation", "step", "start"], [0.6, 0.15, 0.15, 0.1])[0]
    if kind == "writing":
        event, pattern = rng.choice(WRITINGS[:2] if rng.random() < 0.4 else WRITINGS)
        delay = rng.uniform(0, seconds["writing"]) if event == "open" else 0.0
        most = 8 if "metrics" in pattern else 3
        return Trigger(event, pattern, rng.randint(1, most), delay, again)
    if kind == "evaluation":
        delay = rng.uniform(0, seconds["evaluation"])
        return Trigger("line", "evaluating after", rng.randint(1, 2), delay, again)
    if kind == "step":
        delay = rng.uniform(0, seconds["step"])
        return Trigger("line", r"step \d+/", rng.randint(1, 12), delay, again)
    return Trigger("start", delay=rng.uniform(0, seconds["start"]), again=again)


def phase_of(story: Story, folder: Path, trigger: Trigger) -> str:
    """Tell what a process was doing when it was killed."""
    if left := sorted(path.name for path in folder.glob(".*.unfinished")):
        name = left[0].removeprefix(".").removesuffix(".unfinished")
        return "writing " + re.sub(r"model_\d+", "model_N", name)
    if trigger.event in {event for event, _ in WRITINGS}:
        return "before or after writing"
    said = [line for line in story.lines if re.match(r"step |evaluating |\w+/", line)]
    if not said:
        return "start"
    return "evaluation" if said[-1].startswith("evaluating") else "step"


def checkpoints_load(folder: Path) -> int | None:
    """Load every checkpoint there is; return the step of last.pth."""
    step = None
    for path in sorted(folder.glob("*.pth")):
        content = read_checkpoint(path)
        assert content["model"], path
        if path.name == "last.pth":
            step = content["step"]
    return step


def rows_of(folder: Path) -> list[dict[str, str]]:
    """Return metrics.csv without what tells of time and memory."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in r.items() if k not in TIMING} for r in csv.DictReader(file)]


def assert_equal(ours: object, theirs: object, name: str) -> None:
    """Compare nested values, tensors to the last bit."""
    assert type(ours) is type(theirs), name
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), name
        for key in ours:
            assert_equal(ours[key], theirs[key], f"{name}.{key}")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), name
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_equal(*pair, f"{name}.{number}")
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), name
    else:
        assert ours == theirs, (name, ours, theirs)


def scalars_of(folder: Path) -> dict[str, dict[int, float]]:
    """Return what TensorBoard would show."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
        if tag not in TIMING
    }


def assert_same_run(folder: Path, whole: Path) -> None:
    """Compare all that two runs have left."""
    rows, expected = rows_of(folder), rows_of(whole)
    for row, other in zip(rows, expected, strict=True):
        assert row == other, (row, other)
    assert all(int(b["step"]) == int(a["step"]) + 1 for a, b in pairwise(rows))
    names = [{p.name for p in f.iterdir() if p.is_file()} for f in (folder, whole)]
    assert names[0] == names[1], names[0] ^ names[1]
    for name in sorted(names[0] - {"metrics.csv"}):
        if name.endswith(".pth"):
            ours, theirs = (read_checkpoint(f / name) for f in (folder, whole))
            for content in (ours, theirs):
                content["config"] = re.sub(r"output_dir: .*", "", content["config"])
            assert_equal(ours, theirs, name)
        elif name != "config.yaml":
            assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    shown = scalars_of(folder)
    assert shown == scalars_of(whole)
    for row in rows:
        for tag, value in row.items():
            if tag != "step" and value:
                assert shown[tag][int(row["step"])] == np.float32(value), (tag, row["step"])


def measure(arguments: list[str]) -> dict[str, float]:
    """Run once without disturbance; return how long things take."""
    began = time.monotonic()
    story = run_process(arguments, None, signal.SIGKILL)
    assert story.code == 0, "\n".join(story.lines[-20:])
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every purged step
    seconds = time.monotonic() - began
    return {"step": seconds / 60, "evaluation": seconds / 15, "start": seconds / 3, "writing": 0.03}


def try_project(project: str, workers: int, kills: int, number: int, seed: int, work: Path) -> str:
    """Kill and resume one project's demo until it has been killed often enough; return a line."""
    rng = random.Random(f"{seed} {project} {workers} {number}")
    common = ["--config", f"projects/{project}/demo.yaml", *SETTINGS]
    common += [f"dataloader.{part}.num_workers={workers}" for part in ("train", "test")]
    whole, folder = work / f"{project}-{workers}-whole", work / f"{project}-{workers}"
    for path in (whole, folder):
        shutil.rmtree(path, ignore_errors=True)
    began = time.monotonic()
    seconds = measure([*common, f"train.output_dir={whole}"])
    arguments = [*common, f"train.output_dir={folder}", "--resume"]
    phases: Counter[str] = Counter()
    redone = runs = twice = half = 0
    step: int | None = None
    while True:
        enough = phases.total() >= kills
        trigger = None if enough else draw_trigger(rng, number, seconds)
        story = run_process(arguments, trigger, number)
        said = "\n".join([f"{trigger}", *story.lines[-30:]])
        assert story.resumed_after() == step or story.last_step() is None, said
        assert "Traceback" not in said, said
        if story.code == 0 and "stopped after step" not in said:  # it came to its end
            assert_same_run(folder, whole)
            runs += 1
            if enough:
                break
            shutil.rmtree(folder)  # another life
            step = None
            continue
        if number == signal.SIGKILL:
            assert story.ended, said
            half += bool(list(folder.glob(".*.unfinished")))
            phases[phase_of(story, folder, trigger)] += 1
            before, step = step, checkpoints_load(folder)
            redone += (story.last_step() or before or 0) - (step or 0)
        else:
            step = after_term(story, folder, said)
            twice += trigger.again is not None
            phases[KINDS.get(trigger.event + trigger.pattern[:4], "writing")] += 1
    what = ", ".join(f"{n} in {phase}" for phase, n in phases.most_common())
    lost = f"{half} left a half-written file, {redone} steps were done again"
    if number == signal.SIGTERM:
        lost = f"{twice} of them twice, none lost a step"
    return (
        f"{project}, {workers} workers: {phases.total()} times {signal.Signals(number).name} "
        f"({what}), {lost}; {runs} runs ended as the one left alone, to the last bit "
        f"[{time.monotonic() - began:.0f} s]"
    )


def after_term(story: Story, folder: Path, said: str) -> int | None:
    """Check how a process has ended that was asked to; return the step of last.pth."""
    step = checkpoints_load(folder)
    stopped = re.search(r"stopped after step (\d+);", said)
    if stopped is None:  # before it could listen
        assert story.code == -signal.SIGTERM, said
        assert story.last_step() is None, said
        return step
    assert story.code == 0, said
    assert int(stopped[1]) == (step or 0), said
    assert not list(folder.glob(".*.unfinished")), said
    return step


@contextlib.contextmanager
def temporary_folder() -> Iterator[str]:
    """A folder that lasts as long as the block: that of tempfile ends with the first fork, too."""
    folder = tempfile.mkdtemp()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def main() -> int:
    """Return the exit code: 1 if anything was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("projects", nargs="+", help="folders below projects/ with a demo.yaml")
    parser.add_argument("--num-workers", type=int, nargs="+", default=[0, 2], metavar="N")
    parser.add_argument("--kills", type=int, default=24, help="for each (default: %(default)s)")
    parser.add_argument("--signal", choices=["KILL", "TERM"], default="KILL")
    parser.add_argument("--seed", type=int, default=0, help="decides when (default: 0)")
    parser.add_argument("--output", type=Path, help="folder for the runs; else a temporary one")
    arguments = parser.parse_args()
    prepare_imports(arguments.projects)
    number = signal.Signals[f"SIG{arguments.signal}"]
    failed = False
    with temporary_folder() as temporary:
        work = (arguments.output or Path(temporary)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        for project in arguments.projects:
            for workers in arguments.num_workers:
                case = (project, workers, arguments.kills, number, arguments.seed, work)
                try:
                    print(try_project(*case), flush=True)
                except AssertionError:
                    failed = True
                    print(f"{project}, {workers} workers: FAILED", flush=True)
                    traceback.print_exc()
    return int(failed)


def prepare_imports(projects: list[str]) -> None:
    """Import here what every process needs, once: it takes seconds."""
    global EventAccumulator, TOOL, np, read_checkpoint, torch
    import importlib
    import importlib.util

    import lightning.fabric  # noqa: F401
    import numpy as np
    import tensorboard.compat.proto.event_pb2
    import tensorboard.summary.writer.record_writer  # noqa: F401
    import torch
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from dropkey_core.engine import read_checkpoint

    for project in projects:
        importlib.import_module(f"projects.{project}")
    spec = importlib.util.spec_from_file_location("train_net", ROOT / "tools" / "train_net.py")
    TOOL = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(TOOL)
    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""Kill a training again and again, resume it each time, and compare the end with a run left alone.

    python datasets/make_shapes.py --num-train 64 --num-val 24         # and make_interactions.py
    python datasets/make_bodies.py --num-train 4 --num-val 2 --num-frames 2 --num-cameras 3
    python tests/kill_and_resume.py detr qpic metro classification --kills 24
    python tests/kill_and_resume.py detr qpic metro classification --kills 24 --signal TERM

Each project's demo.yaml is run for 48 steps, a checkpoint every 3 and an evaluation every 8, with 0
and with 2 loader processes. Every start is a process group of its own, which is ended as a whole:
in random steps, evaluations and moments, and at the points that matter in the writing of every
file: when it has been opened, a moment later, before it takes its place, before a second name is
given or an old file removed. Those points are Python's audit events; the product knows nothing of
them.

After each kill every checkpoint there must load whole, and the next start must go on exactly where
last.pth stands. After SIGTERM, sometimes twice, the exit code must be 0 and no step may be lost.
When enough kills are done the run goes on to its end. Then the losses and metrics of every step,
the weights, the optimizer, the best checkpoint, the predictions, TensorBoard's scalars and the
names of all files must be those of the run left alone, to the last bit.

Not collected by pytest: it takes a minute or two for each project and number of workers.
"""

import argparse
import atexit
import contextlib
import importlib
import logging
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise, product
from pathlib import Path
from threading import Thread, Timer

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes are forked: no threads before
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

# All that every process needs is imported here, once: it takes seconds.
import lightning.fabric  # noqa: E402, F401
import numpy as np  # noqa: E402
import tensorboard.compat.proto.event_pb2  # noqa: E402
import tensorboard.summary.writer.record_writer  # noqa: E402, F401
import torch  # noqa: E402
import train_net  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402
from torch.utils._pytree import tree_flatten  # noqa: E402

from dropkey_core.engine import read_checkpoint  # noqa: E402
from tests.dropkey_core.engine.toy_run import TIMING, curve  # noqa: E402

SETTINGS = [
    "train.max_iter=48", "train.checkpointer.period=3", "train.checkpointer.max_to_keep=2",
    "train.eval_period=8", "train.log_period=1", "dataloader.train.total_batch_size=4",
]  # fmt: skip
PATIENCE_S = 900
# What a kill may wait for: an audit event, and a pattern that its file's name must match.
WRITINGS = [
    ("open", r"\.last\.pth\.unfinished$"), ("os.rename", r"\.last\.pth\.unfinished$"),
    ("open", r"\.best\.pth\.unfinished$"), ("os.rename", r"\.best\.pth\.unfinished$"),
    ("os.link", r"last\.pth$"), ("os.rename", r"\.model_"), ("os.remove", r"model_"),
    ("open", r"\.metrics\.csv\.unfinished$"), ("os.rename", r"\.metrics\.csv\.unfinished$"),
    ("open", r"metrics\.csv$"), ("open", r"\.config\.yaml\.unfinished$"),
    ("os.rename", r"\.config\.yaml\.unfinished$"), ("open", r"events\.out"),
    ("open", r"\.(coco|interaction|mesh|predictions).*\.unfinished$"),
]  # fmt: skip


@dataclass
class Trigger:
    """When a process is ended: ``delay`` seconds after the ``count``-th time that it happens."""

    event: str  # an audit event, "line" for a printed one, or "start"
    pattern: str = ""
    count: int = 1
    delay: float = 0.0
    again: float | None = None  # the signal once more, so many seconds later
    seen: int = 0

    def happens(self, event: str, name: str) -> bool:
        """Whether this is the event that it waits for."""
        self.seen += event == self.event and bool(re.match(self.pattern, name))
        return event == self.event and self.seen == self.count

    def fire(self, group: int, number: int) -> None:
        """Send the signal to a process group, which may have ended."""
        with contextlib.suppress(ProcessLookupError):
            time.sleep(self.delay)
            os.killpg(group, number)
            if self.again is not None:
                time.sleep(self.again)
                os.killpg(group, number)


def draw_trigger(rng: random.Random, number: int, seconds: float) -> Trigger:
    """Draw a moment to end the next process; an undisturbed one takes so many seconds."""
    again = rng.uniform(0, 0.1) if number != signal.SIGKILL and rng.random() < 0.4 else None
    kind = rng.choices(["writing", "evaluation", "step", "start"], [0.6, 0.15, 0.15, 0.1])[0]
    if kind == "writing":
        event, pattern = rng.choice(WRITINGS[:2] if rng.random() < 0.4 else WRITINGS)
        delay = rng.uniform(0, 0.03) if event == "open" else 0.0
        return Trigger(
            event, pattern, rng.randint(1, 8 if "metrics" in pattern else 3), delay, again
        )
    if kind == "evaluation":
        delay = rng.uniform(0, seconds / 15)
        return Trigger("line", "evaluating after", rng.randint(1, 2), delay, again)
    if kind == "step":
        return Trigger(
            "line", r"step \d+/", rng.randint(1, 12), rng.uniform(0, seconds / 60), again
        )
    return Trigger("start", delay=rng.uniform(0, seconds / 3), again=again)


@dataclass
class Story:
    """What one process did until it ended."""

    lines: list[str] = field(default_factory=list)
    code: int = 0

    def last_step(self) -> int | None:
        return self.last_number(r"step (\d+)/")

    def last_number(self, pattern: str) -> int | None:
        """The number in the last line of a kind; None if there is no such line."""
        found = [re.match(pattern, line) for line in self.lines]
        return next((int(match[1]) for match in reversed(found) if match), None)


def run_process(arguments: list[str], trigger: Trigger | None, number: int) -> Story:
    """Run the training tool in a process of its own; end it when the trigger says so."""
    sys.stdout.flush()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        be_the_tool(arguments, write, trigger, number)
    os.close(write)
    story, threads = Story(), [Timer(PATIENCE_S, os.killpg, (pid, signal.SIGKILL))]
    threads[0].start()

    def listen(event: str, text: str) -> None:
        if trigger and trigger.happens(event, text):
            threads.append(Thread(target=trigger.fire, args=(pid, number)))
            threads[-1].start()

    listen("start", "")
    with open(read, errors="replace") as output:  # noqa: PTH123
        for line in output:
            story.lines.append(line.rstrip("\n"))
            listen("line", line)
    story.code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert threads[0].is_alive(), "hangs:\n" + "\n".join(story.lines[-20:])
    threads[0].cancel()
    for thread in threads:  # before the next fork
        thread.join()
    return story


def be_the_tool(arguments: list[str], output: int, trigger: Trigger | None, number: int) -> None:
    """Become tools/train_net.py; never return."""
    code, own = 1, os.getpid()

    def hear(event: str, values: tuple) -> None:
        if event != trigger.event or os.getpid() != own:
            return
        if not trigger.happens(event, Path(str(values[0])).name):
            return
        if trigger.delay or trigger.again is not None:
            Thread(target=trigger.fire, args=(own, number), daemon=True).start()
        else:
            trigger.fire(own, number)

    try:
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        if trigger and trigger.event not in ("line", "start"):
            sys.addaudithook(hear)
        code = train_net.main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def checkpoints_load(folder: Path) -> int | None:
    """Load every checkpoint there is; return the step of last.pth."""
    step = None
    for path in sorted(folder.glob("*.pth")):
        content = read_checkpoint(path)
        assert content["model"], path
        if path.name == "last.pth":
            step = content["step"]
    return step


def assert_equal(ours: object, theirs: object, name: str) -> None:
    """Compare nested values, tensors to the last bit."""
    (leaves, structure), (others, expected) = tree_flatten(ours), tree_flatten(theirs)
    assert structure == expected, name
    for leaf, other in zip(leaves, others, strict=True):
        assert type(leaf) is type(other), name
        same = torch.equal(leaf, other) if isinstance(leaf, torch.Tensor) else leaf == other
        assert same, (name, leaf, other)


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
    rows, expected = curve(folder), curve(whole)
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


def try_project(
    project: str, workers: int, kills: int, number: int, rng: random.Random, work: Path
) -> str:
    """Kill and resume one project's demo until that was done often enough; tell how it went."""
    common = ["--config", f"projects/{project}/demo.yaml", *SETTINGS]
    common += [f"dataloader.{part}.num_workers={workers}" for part in ("train", "test")]
    whole, folder = work / f"{project}-{workers}-whole", work / f"{project}-{workers}"
    for path in (whole, folder):
        shutil.rmtree(path, ignore_errors=True)
    began = time.monotonic()
    story = run_process([*common, f"train.output_dir={whole}"], None, number)
    assert story.code == 0, "\n".join(story.lines[-20:])
    seconds = time.monotonic() - began
    moments: Counter[str] = Counter()
    step, redone, lives = None, 0, 0
    while True:
        enough = moments.total() >= kills
        trigger = None if enough else draw_trigger(rng, number, seconds)
        story = run_process([*common, f"train.output_dir={folder}", "--resume"], trigger, number)
        said = "\n".join([f"{trigger}", *story.lines[-30:]])
        resumed = story.last_number(r"going on from .* after step (\d+)$")
        assert resumed == step or story.last_step() is None, said
        assert "Traceback" not in said, said
        if story.code == 0 and "stopped after step" not in said:  # it came to its end
            assert_same_run(folder, whole)
            lives += 1
            if enough:
                break
            shutil.rmtree(folder)
            step = None
            continue
        before, step = step, checkpoints_load(folder)
        check_end(story, step, number, folder, said)
        redone += max((story.last_step() or before or 0) - (step or 0), 0)
        moments[f"{trigger.event} {trigger.pattern}".replace("\\", "")] += 1
    return (
        f"{moments.total()} times {signal.Signals(number).name} at {dict(moments)}; {redone} steps "
        f"were done again; {lives} runs ended as the one left alone, to the last bit "
        f"[{time.monotonic() - began:.0f} s]"
    )


def check_end(story: Story, step: int | None, number: int, folder: Path, said: str) -> None:
    """Check how a process has ended that was killed or asked to stop; ``step`` is last.pth's."""
    stopped = story.last_number(r"stopped after step (\d+);")
    if number == signal.SIGKILL or stopped is None:  # asked before it could listen
        assert story.code == -number, said
        assert number == signal.SIGKILL or story.last_step() is None, said
    else:
        assert story.code == 0, said
        assert stopped == (step or 0), said
        assert not list(folder.glob(".*.unfinished")), said


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
    for project in arguments.projects:
        importlib.import_module(f"projects.{project}")
    torch.set_num_threads(1)
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every purged step
    number = signal.Signals[f"SIG{arguments.signal}"]
    failed = False
    work = (arguments.output or Path(tempfile.mkdtemp())).absolute()
    work.mkdir(parents=True, exist_ok=True)
    for project, workers in product(arguments.projects, arguments.num_workers):
        rng = random.Random(f"{arguments.seed} {project} {workers} {number}")
        try:
            told = try_project(project, workers, arguments.kills, number, rng, work)
            print(f"{project}, {workers} workers: {told}", flush=True)
        except AssertionError:
            failed = True
            print(f"{project}, {workers} workers: FAILED", flush=True)
            traceback.print_exc()
    if not arguments.output:
        shutil.rmtree(work)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

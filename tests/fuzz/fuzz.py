"""Feed a reader with made-up files until it breaks.

    python tests/fuzz/fuzz.py coco config                        # 100,000 inputs of each
    python tests/fuzz/fuzz.py all --inputs 1000                  # every reader of targets.py
    python tests/fuzz/fuzz.py pickle --seed 1 --findings found   # keeps what goes wrong
    python tests/fuzz/fuzz.py pickle --again found/pickle-RecursionError-17

Each input is a sound file, or one that reached new lines of the reader, with something changed. A
reader may give a value that keeps its promises, or raise UserError with one short line that names
the file. All else is a finding: another exception or a warning, too much time or memory, a file
opened or written, a process started, code that is run, a crash. The input is then kept, made as
short as is easily done.

Equal seeds give equal inputs. Needs Linux; the files lie in memory (/dev/shm).
"""

import argparse
import gc
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from dropkey_core.engine.errors import LONGEST_MESSAGE, UserError
from tests.fuzz.guard import Guard, Overstep, forget_highest_memory
from tests.fuzz.lines import ReachedLines
from tests.fuzz.targets import TARGETS, Target, prepare

ROOT = Path(__file__).resolve().parents[2]
LONGEST_TEXT = 10_000  # characters of an error, of which ``one_line`` shows fewer
TRACE_EVERY = 10  # inputs: how often it is looked which lines they reach
GROWN = 400  # inputs that reached new lines are kept, up to so many
KEPT_ALIKE = 2  # of findings that look alike so many are kept
ATTEMPTS = 100  # to make a finding shorter


class Reader:
    """A target, its folder and its guard."""

    def __init__(self, name: str, folder: Path, guard: Guard) -> None:
        self.target: Target = TARGETS[name]
        self.path = folder / self.target.name
        self.guard = guard
        self.message = ""  # of the latest refusal

    def outcome(self, data: bytes, warm_up: bool = False) -> str:
        """Return "accepted", "refused", or else what is wrong; to warm up it may import."""
        target = self.target
        target.write(self.path, data)
        try:
            with (
                warnings.catch_warnings(),
                self.guard.watch(target.seconds, target.megabytes, target.may_import or warm_up),
            ):
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", DeprecationWarning)  # which tells us, not users
                target.read(self.path)
        except UserError as error:
            self.message = error.one_line()
            return message_problem(error, self.path, target.names_file) or "refused"
        except Overstep as error:
            return f"Overstep: {error}".replace("\n", " ")[:300]
        except (Exception, SystemExit) as error:
            return f"{type(error).__name__} {place(error)}: {error}".replace("\n", " ")[:300]
        return "accepted"


def message_problem(error: UserError, path: Path, names_file: bool) -> str | None:
    """What is wrong with what a UserError says, or None."""
    line, text = error.one_line(), str(error)
    if len(line) > LONGEST_MESSAGE + len("...") or len(text) > LONGEST_TEXT:
        return f"long message of {len(text)} characters: {text[:100]!r}"
    if not line.isprintable():
        return f"message of several lines or strange signs: {line!r:.200}"
    if names_file and str(path.parent) not in line:
        return f"message without the file: {line!r:.200}"
    return None


def place(error: BaseException) -> str:
    """Where in this project an error came from."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if f.filename.startswith(str(ROOT)) and "fuzz.py" not in f.filename]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"


def kind_of(outcome: str) -> str:
    """What findings that are alike have in common."""
    return "".join(c if c.isalnum() else "_" for c in outcome.split(": ")[0])[:80]


def fuzz(reader: Reader, name: str, seed: int, numbers: range, report: Path) -> dict[str, Any]:
    """Run inputs; where the process dies, ``report`` says how far it came."""
    target = reader.target
    lines = ReachedLines(target.modules)
    corpus = target.seeds()
    for data in corpus:
        if (found := reader.outcome(data, warm_up=True)) != "accepted":
            raise SystemExit(f"{name}: a seed is not accepted: {found} {reader.message}")
    gc.freeze()
    forget_highest_memory()
    seeds, counts, findings = len(corpus), Counter(), {}
    with report.open("wb", buffering=0) as progress:
        for number in numbers:
            chosen = random.Random(f"{name} {seed} {number}")
            data = target.mutate(chosen.choice(corpus), chosen)
            progress.seek(0)
            progress.write(b"%12d %12d %12d" % (number, counts["accepted"], counts["refused"]))
            if number % TRACE_EVERY:
                outcome = reader.outcome(data)
            else:
                before = len(lines.reached)
                with lines.collect():
                    outcome = reader.outcome(data)
                if len(lines.reached) > before and len(corpus) < seeds + GROWN:
                    corpus.append(data)
            if outcome in ("accepted", "refused"):
                counts[outcome] += 1
                continue
            counts["findings"] += 1
            findings.setdefault(kind_of(outcome), []).append((number, outcome, data))
            del findings[kind_of(outcome)][KEPT_ALIKE:]
    missed, wanted = lines.missed()
    return {
        "counts": dict(counts),
        "findings": [finding for alike in findings.values() for finding in alike],
        "reached": (wanted - len(missed), wanted),
        "missed": [f"{Path(file).name}:{line}" for file, line in missed],
    }


def shorter(reader: Reader, data: bytes, outcome: str) -> bytes:
    """A shorter input with a finding of the same kind."""
    attempts, step = 0, len(data) // 2
    while step and attempts < ATTEMPTS:
        start = 0
        while start < len(data) and attempts < ATTEMPTS:
            attempts += 1
            candidate = data[:start] + data[start + step :]
            if kind_of(reader.outcome(candidate)) == kind_of(outcome):
                data = candidate
            else:
                start += step
        step //= 2
    return data


def run(name: str, inputs: int, seed: int, keep: Path | None) -> dict[str, Any]:
    """Fuzz one reader, in processes of their own, as broken files may crash what is written in C.

    Args:
        name: of the reader.
        inputs: how many.
        seed: of all random choices.
        keep: folder for inputs of findings, or None.

    Returns:
        ``counts`` of outcomes, ``findings`` (number, what is wrong), ``reached`` (lines of the
        reader that were reached, lines of its functions that were entered), ``missed`` lines and
        ``seconds``.
    """
    start, total = time.perf_counter(), {"counts": Counter(), "findings": [], "missed": []}
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm"))
    try:
        first = 0
        while first < inputs:
            (folder / "work").mkdir()
            answer = folder / "answer.json"
            process = os.fork()
            if process == 0:
                work_and_exit(name, seed, range(first, inputs), folder, keep)
            _, status = os.waitpid(process, 0)
            found = json.loads(answer.read_text()) if answer.is_file() else None
            if found is None:
                if os.WIFEXITED(status):
                    raise SystemExit(f"{name}: the process ended with {os.WEXITSTATUS(status)}")
                number, accepted, refused = map(int, (folder / "progress").read_bytes().split())
                what = f"ended by {signal.Signals(os.WTERMSIG(status)).name}"  # SIGVTALRM: time
                data = (folder / "work" / TARGETS[name].name).read_bytes()
                save(keep, name, number, what, data)
                counts = {"accepted": accepted, "refused": refused, "findings": 1}
                found = {"counts": counts, "findings": [(number, what)]}
                first = number + 1
            else:
                first = inputs
            total["counts"].update(found.pop("counts"))
            total["findings"] += found.pop("findings")
            total.update(found)
            shutil.rmtree(folder / "work")
    finally:
        shutil.rmtree(folder)
    return {**total, "seconds": time.perf_counter() - start}


def work_and_exit(name: str, seed: int, numbers: range, folder: Path, keep: Path | None) -> None:
    """What the process of ``run`` does."""
    status = 1
    try:
        reader = make_reader(name, folder / "work")
        found = fuzz(reader, name, seed, numbers, folder / "progress")
        findings = []
        for number, outcome, data in found["findings"]:
            if keep is not None:
                save(keep, name, number, outcome, shorter(reader, data, outcome))
            findings.append((number, outcome))
        (folder / "answer.json").write_text(json.dumps({**found, "findings": findings}))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def make_reader(name: str, folder: Path) -> Reader:
    """A reader that works in a folder; for once in a process."""
    torch.set_num_threads(1)
    logging.disable()
    warnings.simplefilter("ignore")  # of making inputs; those of readers are findings
    prepare(folder)
    os.environ["DROPKEY_DATASETS"] = str(folder)
    os.chdir(folder)
    return Reader(name, folder, Guard(folder))


def save(keep: Path | None, name: str, number: int, outcome: str, data: bytes) -> None:
    """Keep the input of a finding, and what was wrong."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        path = keep / f"{name}-{kind_of(outcome)}-{number}"
        path.write_bytes(data)
        path.with_name(f"{path.name}.txt").write_text(outcome + "\n")


def again(name: str, path: Path) -> str:
    """The outcome of an input that was kept."""
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm") as folder:
        return make_reader(name, Path(folder)).outcome(path.read_bytes())


def summary(name: str, found: dict[str, Any]) -> str:
    """One line."""
    counts, (reached, wanted) = found["counts"], found.get("reached", (0, 0))
    inputs = sum(counts.values())
    return (
        f"{name}: {inputs:,} inputs in {found['seconds']:.0f} s: {counts['accepted']:,} accepted, "
        f"{counts['refused']:,} refused, {counts['findings']:,} findings; "
        f"{reached} of {wanted} lines reached"
    )


def main(argv: list[str] | None = None) -> int:
    """Command line; returns 1 if there are findings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("readers", nargs="+", choices=[*TARGETS, "all"], metavar="READER")
    parser.add_argument("--inputs", type=int, default=100_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--findings", type=Path, help="folder to keep inputs of findings in")
    parser.add_argument("--again", type=Path, help="run this one input and nothing else")
    parser.add_argument("--missed", action="store_true", help="list lines that were not reached")
    options = parser.parse_args(argv)
    if options.again:
        outcome = again(options.readers[0], options.again.resolve())
        print(outcome)
        return outcome not in ("accepted", "refused")
    keep = options.findings and options.findings.resolve()
    status = 0
    for name in TARGETS if options.readers == ["all"] else options.readers:
        found = run(name, options.inputs, options.seed, keep)
        print(summary(name, found), flush=True)
        if options.missed:
            print(f"  not reached: {' '.join(found['missed'])}")
        for number, what in found["findings"]:
            status = 1
            print(f"  input {number}: {what}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())

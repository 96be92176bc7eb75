"""Sweep: apply_dropkey on every architecture that installed libraries build small, site by site.

    python tests/sweep.py --out sweep [--library timm] [--only swin] [--processes 2]
    python tests/sweep.py --out sweep --page docs/sweep.md

Each architecture of timm, torchvision and transformers is made small (``sweep_models``), equipped,
and each of its sites is driven alone, in training, all others at ratio 0:

* two seeds give two outputs, one seed the same output;
* the weights lose about the right share of keys, the rest of a row is the softmax over what stays,
  no key is seen that was masked, and a row that would lose all keys keeps all;
* gradients are finite;
* evaluation gives what the model gave before, to the last bit.

Softmaxes over keys and fused attention outside of all sites are told too. One JSON line for each
architecture is appended to OUT/rows.jsonl; what is there is not tried again, so that a stopped
sweep goes on. Every architecture has a process of its own, with limits of time and memory: one
that crashes or hangs is a row. Needs no network; takes about half an hour on two cores.
"""

import argparse
import collections
import importlib.metadata
import json
import os
import re
import resource
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from sweep_judge import LATE, LIMIT, LOUD, SILENT, UNBUILT, VERDICTS, Unbuilt, build, judge, told
from sweep_models import LIBRARIES, architectures

SECONDS, GIBIBYTES = 90, 10  # of a processor and of memory, for one architecture

Row = dict[str, Any]  # what a line of rows.jsonl holds


def sweep(names: list[tuple[str, str]], out: Path, processes: int) -> None:
    """Judge architectures, each in a process of its own, and append the rows."""
    running: dict[int, tuple[str, str, float, Path]] = {}
    waiting = collections.deque(names)
    while waiting or running:
        while waiting and len(running) < processes:
            library, name = waiting.popleft()
            answer = out / f".{library}-{name.replace('/', '_')}.json"
            pid = os.fork()
            if pid == 0:
                _work(library, name, answer)
            running[pid] = (library, name, time.monotonic(), answer)
        pid, status = os.wait()
        library, name, start, answer = running.pop(pid)
        row = {"library": library, "name": name, **_answer(answer, status)}
        row["seconds"] = round(time.monotonic() - start, 1)
        with (out / "rows.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(
            f"{len(waiting):4d} to go  {library} {name}: {row['verdict']}; {row['why']}"[:150],
            flush=True,
        )


def _work(library: str, name: str, answer: Path) -> None:
    """Judge one architecture in this process, write the row and end."""
    signal.alarm(5 * SECONDS)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (GIBIBYTES << 30, GIBIBYTES << 30))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        driver, how = build(library, name)
        answer.with_suffix(".built").touch()
        row = judge(driver) | {"how": how, "inputs": list(driver.arguments)}
    except Unbuilt as error:
        row = {"verdict": UNBUILT, "why": error.args[0], "tried": error.args[:12]}
    except Exception as error:
        is_built = answer.with_suffix(".built").exists()
        row = {"verdict": LOUD if is_built else UNBUILT, "why": told(error)}
    answer.write_text(json.dumps(row))
    os._exit(0)


def _answer(answer: Path, status: int) -> Row:
    """Read what a worker has written; if it has not, say how it ended."""
    built = answer.with_suffix(".built")
    if answer.exists():
        row = json.loads(answer.read_text())
    else:
        ends = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "early"
        why = f"it ends by {ends}: more than {SECONDS} s, {GIBIBYTES} GiB, or a crash"
        row = {"verdict": LIMIT if built.exists() else UNBUILT, "why": why}
    answer.unlink(missing_ok=True)
    built.unlink(missing_ok=True)
    return row


def page(rows: list[Row]) -> str:
    """Return the page: counts, what is refused and why, what is wrong or could not be tried."""
    parts = [PAGE.format(table=table(rows))]
    parts += [f"\n## Not right\n\n{_listed(rows, SILENT, LOUD) or 'None.'}\n"]
    parts += [f"\n## Refused, or left out beside what is equipped\n\n{_reasons(rows)}\n"]
    parts += [f"\n## Refused in the first training step\n\n{_late(rows) or 'None.'}\n"]
    parts += [f"\n## Limits\n\n{_kinds(rows, LIMIT) or 'None.'}\n"]
    parts += [f"\n## Cannot be built here\n\n{_kinds(rows, UNBUILT)}\n"]
    return "".join(parts)


PAGE = """# Architectures

What `apply_dropkey` does in every architecture that timm, torchvision and transformers build small,
without the network: one of each family of timm and torchvision, every type of configuration of
transformers. Each attention is driven alone in training and compared with the same model without
DropKey; `tests/sweep.py` says how.

    python tests/sweep.py --out sweep --page docs/sweep.md

{table}

*Right*: all attention drops keys as it should, or is left out with a reason below. *Refused*:
nothing can be equipped, and the error says why, at once or in the first training step. *Limit*:
the inputs made here do not reach all of its attention.
"""


def table(rows: list[Row]) -> str:
    """Return the counts by library as a Markdown table."""
    lines = [f"| library | architectures | attention driven | {' | '.join(VERDICTS)} |"]
    lines.append("|---" * (3 + len(VERDICTS)) + "|")
    for library in LIBRARIES:
        own = [row for row in rows if row["library"] == library]
        sites = sum(row.get("sites", 0) - len(row.get("not_called", ())) for row in own)
        counts = [sum(row["verdict"] == verdict for row in own) for verdict in VERDICTS]
        cells = [f"{library} {importlib.metadata.version(library)}", len(own), sites, *counts]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _listed(rows: list[Row], *verdicts: str) -> str:
    """Return a line for each architecture and fault."""
    lines = []
    for row in rows:
        if row["verdict"] in verdicts:
            what = ["; ".join(filter(None, fault)) for fault in row.get("faults", ())]
            lines += [f"* {row['library']} {row['name']}: {x}" for x in what or [row["why"]]]
    return "\n".join(lines)


def _reasons(rows: list[Row]) -> str:
    """Return a line for each reason, with the classes and the number of architectures."""
    classes: dict[str, set[str]] = collections.defaultdict(set)
    models: dict[str, set[str]] = collections.defaultdict(set)
    for row in rows:
        for _, class_name, reason in row.get("left_out", ()):
            classes[reason].add(class_name)
            models[reason].add(row["name"])
    return "\n".join(
        f"* {reason}: {', '.join(sorted(classes[reason]))} ({len(models[reason])} architectures)"
        for reason in sorted(classes, key=lambda reason: -len(models[reason]))
    )


def _late(rows: list[Row]) -> str:
    """Return a line for each class that refuses in the first step, with the architectures."""
    names: dict[str, list[str]] = collections.defaultdict(list)
    for row in rows:
        said = {
            re.sub(r".*Error: (\S+\.)?(.*), so DropKey.*", r"\2", f[1])
            for f in row.get("faults", ())
        }
        for what in sorted(said if row["verdict"] == LATE else ()):
            names[what].append(row["name"])
    return "\n".join(f"* {what}: {', '.join(n)}" for what, n in names.items())


def _kinds(rows: list[Row], verdict: str) -> str:
    """Return a line for each kind of reason, with the architectures."""
    names: dict[str, list[str]] = collections.defaultdict(list)
    for row in rows:
        if row["verdict"] == verdict:
            kind = re.sub(
                r"(do not reach) .*",
                r"\1 all attention (alone it is a row of its own, mostly)",
                row["why"],
            )
            kind = "more than 100 million parameters" if kind.startswith("Memory") else kind
            names[kind.split(":")[0]].append(row["name"])
    return "\n".join(f"* {kind} ({len(n)}): {', '.join(n)}" for kind, n in names.items())


def _preload() -> None:
    """Import once what every worker needs, before they are forked."""
    import timm
    import torchvision
    import transformers
    from transformers import AutoModel, BertModel, DetrModel, LlamaModel, Qwen2VLModel

    transformers.logging.set_verbosity_error()
    del timm, torchvision, AutoModel, BertModel, DetrModel, LlamaModel, Qwen2VLModel


def main() -> None:
    """Read the command line, sweep what is missing and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of rows.jsonl")
    parser.add_argument("--library", choices=LIBRARIES, help="default: all")
    parser.add_argument("--only", help="architectures whose name has this in it")
    parser.add_argument("--page", type=Path, help="Markdown file to write")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "rows.jsonl"
    path.touch()
    done = {(r["library"], r["name"]) for r in map(json.loads, path.read_text().splitlines())}
    names = [
        (library, name)
        for library in ([args.library] if args.library else LIBRARIES)
        for name in architectures(library)
        if (library, name) not in done and (args.only or "") in name
    ]
    if names:
        _preload()
    sweep(names, args.out, args.processes)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    if args.page:
        args.page.write_text(page(rows))
    print(table(rows), _listed(rows, SILENT, LOUD), sep="\n\n")


if __name__ == "__main__":
    main()

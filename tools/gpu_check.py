#!/usr/bin/env python
"""Check of a CUDA machine in at most eight minutes: prints one page in Markdown.

tools/gpu_check.py > gpu.md
tools/gpu_check.py --reference ../detr > gpu.md
tools/gpu_check.py --device cpu

Attention with and without dropout, by a dense mask and by FlexAttention; DETR's training step in
float32, bfloat16, float16 and compiled, beside the official one if there is a checkout of it; its
demo trained in bfloat16; the tests that need a GPU. A part that takes too long is stopped, and the
page says so. The exit code is 1 if a part failed and 2 where there is no CUDA device. --device cpu
tries this script itself, with as little as there is to do.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads give way

import torch

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 470  # of all parts together: the rest is this script's
LINES = 40  # shown of a part that failed

SMALL_MODEL = [
    *("model.backbone=resnet10", "model.embed_dim=16", "model.num_heads=2", "model.ffn_dim=16"),
    *("model.num_encoder_layers=1", "model.num_decoder_layers=2", "model.num_queries=8"),
]


class Part(NamedTuple):
    """A part of the page: its title, the command that makes it, and the most seconds it takes.

    Attributes:
        lines: how many of its last lines are shown; None: all, as they are Markdown.
    """

    title: str
    command: list[str]
    seconds: int
    lines: int | None = None


def parts(device: str, reference: str | None, folder: Path) -> list[Part]:
    """Return what is done, in order; the demo writes into ``folder``."""
    quick = device == "cpu"
    tests = ["tests/dropkey_core/attention/test_flex.py"] if quick else ["-n", "4", "tests"]
    pytest = ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *tests]
    attention = ["tools/benchmark/attention.py", "--device", device, "--shapes"]
    attention += ["vit", "--repeats", "1"] if quick else ["detr", "detr-large", "long"]
    step = ["tools/benchmark/model.py", "--config", "projects/detr/dropkey.yaml"]
    step += ["--device", device, "--autocast", "bfloat16"]
    full = ["--compile", "--autocast", "float16"]
    step += ["--repeats", "1", "--batch", "1", "32", "64"] if quick else full
    step += ["--reference", reference] if reference else []
    step += SMALL_MODEL if quick and not reference else []  # the official one has its own sizes
    shapes = ["datasets/make_shapes.py", *(["--num-train=8", "--num-val=4"] if quick else [])]
    demo = ["tools/train_net.py", "--config", "projects/detr/demo.yaml", f"train.device={device}"]
    demo += ["train.amp.enabled=true", f"train.output_dir={folder / 'demo'}"]
    demo += ["train.max_iter=2", "dataloader.train.total_batch_size=2"] if quick else []
    return [
        Part("Attention", attention, 120),
        Part("DETR: training step and inference", step, 150),
        Part("The demo's images", shapes, 60, lines=1),
        Part("DETR's demo in bfloat16", demo, 150, lines=22),
        Part("Tests that need a GPU", pytest, 240, lines=3),  # compiles the most, gets what is left
    ]


def run(part: Part, left: float, folder: Path) -> tuple[str, bool]:
    """Run a part; return its section of the page and whether it went well.

    Args:
        part: what to run.
        left: seconds that are left for all that comes.
        folder: where datasets are written and looked for.
    """
    began = time.monotonic()
    limit = min(part.seconds, left)
    command = [sys.executable, *part.command]
    environment = os.environ | {"DROPKEY_DATASETS": str(folder)}
    try:
        ended = subprocess.run(
            command, cwd=ROOT, env=environment, timeout=max(limit, 0.1),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        output, code = ended.stdout, ended.returncode
        verdict = "" if code == 0 else f"**failed** with exit code {code}"
    except subprocess.TimeoutExpired as stopped:
        output = (stopped.stdout or b"").decode(errors="replace")
        verdict = f"**stopped** after {limit:.0f} s"
    lines = output.splitlines()
    shown = part.lines if not verdict else LINES
    text = "\n".join(lines if shown is None else ["```", *lines[-shown:], "```"])
    seconds = f"{time.monotonic() - began:.0f} s"
    section = f"## {part.title}\n\n`python {' '.join(part.command)}` ({seconds})\n\n"
    return section + (f"{verdict}\n\n" if verdict else "") + text + "\n", not verdict


def head(device: str) -> str:
    """Return the page's first lines: what machine and what software this is."""
    if device == "cuda":
        found = torch.cuda.get_device_properties(0)
        machine = f"{found.name}, {found.total_memory / 2**30:.0f} GiB, "
        machine += f"compute capability {found.major}.{found.minor}, CUDA {torch.version.cuda}"
    else:
        machine = f"{torch.get_num_threads()} threads of a CPU"
    python = ".".join(map(str, sys.version_info[:3]))
    return f"# GPU check\n\n{machine}; torch {torch.__version__}, Python {python}.\n"


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, 1 if a part failed, 2 where there is no CUDA device."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--reference", metavar="FOLDER", help="checkout of the official DETR")
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(
            "error: torch finds no CUDA device here; --device cpu tries the script", file=sys.stderr
        )
        return 2
    reference = arguments.reference and str(Path(arguments.reference).absolute())
    end = time.monotonic() + SECONDS
    print(head(arguments.device), flush=True)
    all_well = True
    with tempfile.TemporaryDirectory() as name:
        for part in parts(arguments.device, reference, Path(name)):
            section, went_well = run(part, end - time.monotonic(), Path(name))
            print(section, flush=True)
            all_well &= went_well
    return 0 if all_well else 1


if __name__ == "__main__":
    sys.exit(main())

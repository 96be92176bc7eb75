#!/usr/bin/env python
"""Train a recipe for eight GPUs on one: a smaller batch, and as many images in all.

tools/launch/one_gpu.py projects/detr/dropkey.yaml [key=value ...] [--resume]

Batch and learning rate are divided by a factor, all numbers of steps are multiplied by it. What
follows the config goes to tools/train_net.py, where a key=value counts more than these.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

DIVIDED = ("dataloader.train.total_batch_size", "optimizer.lr")
MULTIPLIED = ("train.max_iter", "train.eval_period", "train.checkpointer.period")
FACTORS = {"qpic": 4, "classification": 4}  # of the projects whose batch is smaller; else 8


def main(argv: list[str] | None = None) -> int:
    """Become tools/train_net.py, or return 2 after a user's error."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="FILE", help="the experiment's YAML, for eight GPUs")
    parser.add_argument(
        "--factor", type=int, metavar="N", help="4 for QPIC and classifiers, else 8"
    )
    arguments, further = parser.parse_known_args(argv)
    from dropkey_core.engine.command import exit_code

    return exit_code(lambda: start(arguments.config, arguments.factor, further))


def start(config: str, factor: int | None, further: list[str]) -> None:
    """Replace this process by tools/train_net.py on one GPU."""
    factor = factor or FACTORS.get(Path(config).absolute().parent.name, 8)
    command = [str(ROOT / "tools/train_net.py"), "--config", config, "--num-gpus", "1"]
    os.execv(sys.executable, [sys.executable, *command, *overrides(config, factor), *further])


def overrides(config: str, factor: int) -> list[str]:
    """The key=value that make the batch of a config ``factor`` times as small.

    Raises:
        UserError: a config that cannot be read, or a batch that is no multiple of ``factor``.
    """
    from omegaconf import OmegaConf

    from dropkey_core.engine import UserError, load_config

    settings = load_config(config)
    batch, lr = (OmegaConf.select(settings, key) for key in DIVIDED)
    if factor < 1 or batch % factor:
        raise UserError(f"--factor must divide {DIVIDED[0]}={batch}, got {factor}")
    steps = [f"{key}={OmegaConf.select(settings, key) * factor}" for key in MULTIPLIED]
    return [f"{DIVIDED[0]}={batch // factor}", f"{DIVIDED[1]}={lr / factor!r}", *steps]


if __name__ == "__main__":
    raise SystemExit(main())

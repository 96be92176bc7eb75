#!/usr/bin/env python
"""Train or evaluate what a config describes.

tools/train_net.py --config projects/detr/dropkey.yaml train.max_iter=1000 optimizer.lr=1e-4
tools/train_net.py --config projects/detr/dropkey.yaml --eval-only --weights output/best.pth
tools/train_net.py --config output/config.yaml --replay output/failed_step_0000123.pth

Weights are a published name of the model's project (docs/weights.md), the folder of a run, or a
checkpoint.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads give way


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="the experiment's YAML")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the YAML")
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    parser.add_argument("--resume", action="store_true", help="go on from last.pth")
    parser.add_argument("--overwrite", action="store_true", help="delete the run in output_dir")
    parser.add_argument(
        "--weights", metavar="NAME|RUN|FILE|URL", help="same as train.init_checkpoint=..."
    )
    parser.add_argument("--replay", metavar="FILE", help="do a failed step again, change nothing")
    parser.add_argument("--print-config", action="store_true", help="show the resolved YAML, stop")
    parser.add_argument("--num-gpus", type=int, metavar="N", help="processes on each machine")
    parser.add_argument("--num-machines", type=int, metavar="N", help="with this same command")
    parser.add_argument("--machine-rank", type=int, metavar="R", help="this machine's number")
    parser.add_argument("--dist-url", metavar="tcp://HOST:PORT", help="machine 0, with many")
    parser.add_argument(
        "--strict-device", action="store_true", help="refuse a train.device that is not there"
    )
    parser.add_argument(
        "--dist-timeout",
        type=float,
        default=600,
        metavar="SECONDS",
        help="what a process waits for another one (%(default)s)",
    )
    return parser.parse_intermixed_args(argv)


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    from omegaconf import OmegaConf

    from dropkey_core.engine import Processes, UserError, evaluate, load_config, replay_step, train

    config = load_config(arguments.config, arguments.overrides)
    if arguments.weights:
        config.train.init_checkpoint = arguments.weights
    if arguments.print_config:
        print(OmegaConf.to_yaml(config), end="")
        return
    if arguments.replay:
        for option in ("resume", "eval_only", "overwrite", "weights", "num_gpus", "num_machines"):
            if getattr(arguments, option):
                raise UserError(f"--replay does not go with --{option.replace('_', '-')}")
        replay_step(config, arguments.replay)
        return
    processes = Processes(
        arguments.num_gpus,
        arguments.num_machines,
        arguments.machine_rank,
        arguments.dist_url,
        arguments.dist_timeout,
        arguments.strict_device,
    )
    if arguments.eval_only:
        evaluate(config, arguments.resume, processes)
    else:
        train(config, arguments.resume, arguments.overwrite, processes)


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, 2 for a user's error, 130 after Ctrl-C."""
    arguments = parse_arguments(argv)
    from dropkey_core.engine.command import exit_code

    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())

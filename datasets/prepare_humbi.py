#!/usr/bin/env python
"""Check HUMBI's body session and make the index and the lists of subjects that METRO trains with.

    python datasets/prepare_humbi.py                                 # humbi below the dataset root
    python datasets/prepare_humbi.py /data/humbi --num-workers 8 --check 500

The folder holds the bundles, Body_1_80/subject_1/body/... and so on. Every camera, frame, mesh and
picture is looked at; what is broken is left out and listed in left_out.txt, one line each. Written
beside the bundles: index.npz, train_subjects.txt, test_subjects.txt. A run that was stopped goes
on where it was; to begin anew delete the folder .prepare_humbi there.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dropkey_core.engine import UserError
from dropkey_core.engine.command import exit_code
from dropkey_core.engine.paths import datasets_root
from projects.metro.humbi.check import check_meshes
from projects.metro.humbi.prepare import prepare
from projects.metro.humbi.records import read_subjects


def run(arguments: argparse.Namespace) -> None:
    """Prepare the set, then check a sample of it.

    Raises:
        UserError: nothing can be used, or the check fails.
    """
    if arguments.num_workers < 0 or arguments.check < 0:
        raise UserError("--num-workers and --check must be 0 or more")
    source = (arguments.source or datasets_root() / "humbi").absolute()
    train, test = arguments.train_subjects, arguments.test_subjects
    index = prepare(
        source,
        train and read_subjects(train.absolute(), "--train-subjects"),
        test and read_subjects(test.absolute(), "--test-subjects"),
        num_workers=arguments.num_workers,
        seed=arguments.seed,
    )
    if arguments.check:
        check_meshes(source, index, arguments.body, arguments.check, arguments.seed)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source", type=Path, nargs="?", help="default: humbi below the dataset root"
    )
    for split, other in (("train", "test"), ("test", "train")):
        parser.add_argument(
            f"--{split}-subjects",
            type=Path,
            metavar="FILE",
            help=f"ids of the subjects to {split} on, one per line; default: those that are not in "
            f"--{other}-subjects; without both: drawn, 294 to train on and 120 to test on, as many "
            "as in the paper, which does not name them (of fewer than 414 in that proportion)",
        )
    parser.add_argument("--seed", type=int, default=0, help="of both draws; default: %(default)s")
    parser.add_argument("--num-workers", type=int, default=4, help="default: %(default)s")
    parser.add_argument(
        "--check",
        type=int,
        default=0,
        metavar="N",
        help="compare N frames' meshes with the body model; default: none",
    )
    parser.add_argument(
        "--body",
        type=Path,
        default=Path("body/smpl_neutral.npz"),
        help="the body model for --check; default: %(default)s below the dataset root",
    )
    arguments = parser.parse_args(argv)
    return exit_code(lambda: run(arguments), "stopped; the same command goes on from here")


if __name__ == "__main__":
    sys.exit(main())

"""Fetch CIFAR-10 or CIFAR-100 from their authors and check them.

    python datasets/prepare_cifar.py cifar10             # 170 MB to fetch, 360 MB of disk
    python datasets/prepare_cifar.py cifar10 cifar100
    python datasets/prepare_cifar.py cifar10 --check-only

What is there already is not fetched again.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dropkey_core.engine import UserError
from dropkey_core.engine.command import exit_code
from dropkey_core.engine.paths import datasets_root
from projects.classification.cifar import SETS, SPLITS, load_cifar


def fetch(name: str, folder: Path) -> None:
    """Download and unpack a set; torchvision compares checksums.

    Raises:
        UserError: the address cannot be reached, or what came is not the published file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        SETS[name](folder, download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"cannot fetch {SETS[name].url} ({reason}): download it by other means into {folder} "
            "and run this again"
        ) from error


def check(name: str, folder: Path) -> str:
    """Load both splits of a set and return one line about them.

    Raises:
        UserError: files are missing or not the published ones.
    """
    train, test = (load_cifar(name, split, folder) for split in SPLITS)
    return (
        f"{name} in {folder}: complete, {len(train)} + {len(test)} images, "
        f"{len(train.classes)} classes"
    )


def run(arguments: argparse.Namespace) -> None:
    """What the command does."""
    for name in arguments.names:
        if not arguments.check_only:
            fetch(name, arguments.output)
        print(check(name, arguments.output))


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=list(SETS), metavar="cifar10|cifar100")
    parser.add_argument(
        "--output", type=Path, default=datasets_root() / "cifar", help="default: %(default)s"
    )
    parser.add_argument("--check-only", action="store_true", help="fetch nothing")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())

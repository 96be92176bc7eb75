"""What the scripts that draw a set share: its settings and their command line."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# What needs the engine imports it in its function: it brings torch with it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

FEWEST_PIXELS = 64  # below this the smallest shapes have no shape, and arms are under a pixel thin


@dataclass(frozen=True)
class SetSettings:
    """What determines a set; each script has a size of image and a spread of sizes of its own."""

    num_train: int = 2000
    num_val: int = 200
    image_size: int = 96
    seed: int = 0

    def __post_init__(self):
        if min(self.num_train, self.num_val) < 1:
            raise ValueError(
                "--num-train and --num-val must be at least 1, "
                f"got {self.num_train} and {self.num_val}"
            )
        if self.image_size < FEWEST_PIXELS:
            raise ValueError(
                f"--image-size must be at least {FEWEST_PIXELS}, got {self.image_size}"
            )
        if self.seed < 0:
            raise ValueError(f"--seed must be 0 or more, got {self.seed}")


def info_in(path: Path) -> Any:
    """What a JSON file has under ``info``, by which a set is recognised; None if nothing.

    Raises:
        UserError: the file cannot be read, or is no JSON.
    """
    from dropkey_core.engine.files.json_file import read_json

    document = read_json(path)
    return document.get("info") if isinstance(document, dict) else None


def run_command(
    argv: list[str] | None,
    description: str,
    name: str,
    settings: type[SetSettings],
    make: Callable[[Path, SetSettings], bool],
) -> int:
    """Read the command line, make the set, and return the exit status.

    Args:
        argv: the command line; None: that of the process.
        description: the script's docstring, of which the first paragraph is its help.
        name: folder below the dataset root where the set goes by default.
        settings: each of its fields is an option.
        make: writes the set to a folder; False if it was there already. A ``ValueError``,
            ``OSError`` or ``UserError`` is the user's.
    """
    parser = argparse.ArgumentParser(description=description.split("\n\n")[0])
    parser.add_argument("--output", type=Path, help=f"default: {name} below the dataset root")
    for field, default in asdict(settings()).items():
        option = "--" + field.replace("_", "-")
        parser.add_argument(option, type=int, default=default, help="default: %(default)s")
    arguments = vars(parser.parse_args(argv))
    from dropkey_core.engine import UserError, dataset_path

    output = arguments.pop("output") or dataset_path(name)
    try:
        made = make(output, settings(**arguments))
    except (ValueError, OSError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{output}: {'written' if made else 'already there'}")
    return 0

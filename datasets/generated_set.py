"""What the scripts that draw a set share: its settings, its files and their command line."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dropkey_core.engine import UserError
from dropkey_core.engine.command import exit_code
from dropkey_core.engine.errors import shown
from dropkey_core.engine.files.atomic_write import whole_file, writing
from dropkey_core.engine.files.json_file import read_json
from dropkey_core.engine.paths import datasets_root

SPLITS = ("train", "val")
FEWEST_PIXELS = 64  # below this the smallest shapes have no shape, and arms are under a pixel thin


@dataclass(frozen=True)
class SetSettings:
    """What determines a set; each script has a size of image and a spread of sizes of its own."""

    description: ClassVar[str]
    version: ClassVar[str]  # of the script; it rises when the same settings give other pictures

    num_train: int = 2000
    num_val: int = 200
    image_size: int = 96
    seed: int = 0

    def __post_init__(self):
        if min(self.num_train, self.num_val) < 1:
            raise UserError(
                "--num-train and --num-val must be at least 1, "
                f"got {self.num_train} and {self.num_val}"
            )
        if self.image_size < FEWEST_PIXELS:
            raise UserError(f"--image-size must be at least {FEWEST_PIXELS}, got {self.image_size}")
        if self.seed < 0:
            raise UserError(f"--seed must be 0 or more, got {self.seed}")

    def info(self) -> dict[str, Any]:
        """What a set's file has under ``info``, by which the set is recognised."""
        return {
            "description": self.description,
            "version": self.version,
            "settings": asdict(self),
        }

    def check_info(self, output: Path, path: Path) -> None:
        """Raise UserError if the file ``path`` of a folder is of another set, or cannot be read."""
        document = read_json(path)
        found = document.get("info", document) if isinstance(document, dict) else document
        if found != self.info():
            raise UserError(
                f"{output} holds another set ({shown(found)}); delete it or choose another --output"
            )


def draw_split(
    folder: Path,
    split: str,
    settings: SetSettings,
    draw: Callable[[np.random.Generator, int], tuple],
) -> Iterator[tuple]:
    """Draw the pictures of a split into a folder, each from a seed of its own.

    Args:
        folder: where the JPEG files go.
        split: one of ``SPLITS``.
        settings: of the set.
        draw: makes the image (H, W, 3) uint8, and what is on it, of chance and a number.

    Yields:
        a picture's ``file_name``, ``height`` and ``width``, and what is on it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(settings.num_train if split == "train" else settings.num_val):
        rng = np.random.default_rng([settings.seed, SPLITS.index(split), index])
        image, *found = draw(rng, index)
        name = f"{index + 1:012d}.jpg"
        write_jpeg(folder / name, image)
        yield {"file_name": name, "height": image.shape[0], "width": image.shape[1]}, *found


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """Write an image (H, W, 3) uint8, blue first."""
    if not cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 95]):
        raise OSError(f"could not write {path}")


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file that is either there in full or not there; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(json.dumps(document))


def run_command(
    argv: list[str] | None,
    description: str,
    name: str,
    settings: type[SetSettings],
    make: Callable[[Path, Any], bool],
) -> int:
    """Read the command line, make the set, and return the exit status.

    Args:
        argv: the command line; None: that of the process.
        description: the script's docstring, of which the first paragraph is its help.
        name: folder below the dataset root where the set goes by default.
        settings: each of its fields is an option.
        make: writes the set to a folder; False if it was there already.
    """
    parser = argparse.ArgumentParser(description=description.split("\n\n")[0])
    parser.add_argument("--output", type=Path, help=f"default: {name} below the dataset root")
    for field, default in asdict(settings()).items():
        option = "--" + field.replace("_", "-")
        parser.add_argument(option, type=int, default=default, help="default: %(default)s")
    arguments = vars(parser.parse_args(argv))
    output = arguments.pop("output") or datasets_root() / name

    def run() -> None:
        with writing(output):
            made = make(output, settings(**arguments))
        print(f"{output}: {'written' if made else 'already there'}")

    return exit_code(run)

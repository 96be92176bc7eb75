"""Fetch BCCD, blood cells under a microscope (github.com/Shenggan/BCCD_Dataset, MIT), and check it.

    python datasets/prepare_bccd.py                  # 8 MB to fetch
    python datasets/prepare_bccd.py --check-only

364 images of 640 x 480 pixels with 4,886 red and white cells and platelets. The authors' VOC files
become train.json (their trainval, 292 images) and test.json (72) in COCO's format. What is there
already is not fetched again. An archive that something else downloaded is used if it lies in the
output folder under the name that its address ends with.
"""

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from convert_voc import convert
from prepare_coco import fetch

from dropkey_core.engine import UserError
from dropkey_core.engine.command import exit_code
from dropkey_core.engine.paths import datasets_root
from projects.detr import load_coco

COMMIT = "d272fb14cdff6e473fafeeeba32aba5f560e9e43"
URL = f"https://github.com/Shenggan/BCCD_Dataset/archive/{COMMIT}.zip"
GIGABYTES = 0.1
CLASSES = ("RBC", "WBC", "Platelets")
FILES = {"trainval": "train.json", "test": "test.json"}
KNOWN = {"train.json": (292, 3941), "test.json": (72, 945)}  # images, boxes with an area


def prepare(output: Path, url: str = URL) -> None:
    """Fetch and convert the set, unless it is there.

    Raises:
        UserError: the address cannot be reached, or what came is damaged or another set.
    """
    if all((output / name).is_file() for name in KNOWN):
        return
    fetch(url, output, GIGABYTES)
    found = sorted(output.glob("BCCD_Dataset-*/BCCD"))
    if not found:
        raise UserError(f"{url} is not BCCD: it has no folder BCCD_Dataset-.../BCCD")
    source = found[-1]
    convert(source, source, list(FILES), CLASSES)
    images = output / "images"
    if images.is_dir():  # of a run that was stopped
        shutil.rmtree(images)
    (source / "JPEGImages").rename(images)
    for split, name in FILES.items():  # last, so that they stand for a finished set
        (source / f"{split}.json").rename(output / name)
    shutil.rmtree(source.parent)


def check(output: Path, name: str) -> str:
    """Check one of the two files on disk and return a line about it.

    Raises:
        UserError: files are missing or damaged, or there are not as many as BCCD has.
    """
    records = load_coco(output / "images", output / name)
    counts = len(records), sum(len(record["annotations"]) for record in records)
    if counts != KNOWN[name]:
        raise UserError(
            f"{output / name} has {counts[0]} images with {counts[1]} boxes, BCCD has "
            f"{KNOWN[name][0]} with {KNOWN[name][1]}"
        )
    return f"{output / name}: complete, {counts[0]} images with {counts[1]} boxes"


def run(arguments: argparse.Namespace) -> None:
    """What the command does."""
    output = arguments.output.absolute()
    if not arguments.check_only:
        prepare(output, arguments.url)
    for name in KNOWN:
        print(check(output, name))


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=datasets_root() / "bccd", help="default: %(default)s"
    )
    parser.add_argument("--url", default=URL, help="of the archive; default: %(default)s")
    parser.add_argument("--check-only", action="store_true", help="fetch nothing")
    return exit_code(lambda: run(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())

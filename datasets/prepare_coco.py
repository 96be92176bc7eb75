"""Fetch COCO 2017 (images and annotations for detection) and check that it is complete.

    python datasets/prepare_coco.py                  # 19 GB to fetch, 39 GB of disk while unpacking
    python datasets/prepare_coco.py --splits val     # 1 GB: enough to evaluate a checkpoint
    python datasets/prepare_coco.py --check-only

What is there already is not fetched again. An archive that something else downloaded, such as
``wget -c``, which can go on after a broken connection, is used if it lies in the output folder.
"""

import argparse
import shutil
import sys
import tempfile
import urllib.error
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torchvision.datasets.utils import download_url

from dropkey_core.engine import UserError
from dropkey_core.engine.command import exit_code
from dropkey_core.engine.paths import datasets_root
from projects.detr import load_coco

URL = "http://images.cocodataset.org"


@dataclass(frozen=True)
class Split:
    """One split: name of its folder, how many images it has, disk space to fetch and unpack it."""

    name: str
    num_images: int
    gigabytes: float


SPLITS = {"train": Split("train2017", 118_287, 39), "val": Split("val2017", 5_000, 2)}
ANNOTATION_GIGABYTES = 1.5


def prepare(output: Path, splits: list[Split], url: str = URL) -> None:
    """Fetch what is not there yet of some splits.

    Raises:
        UserError: the address cannot be reached, an archive is damaged, or the disk is too small.
    """
    for split in splits:
        if len(list(output.glob(f"{split.name}/*.jpg"))) < split.num_images:
            fetch(f"{url}/zips/{split.name}.zip", output, split.gigabytes)
    if not all(annotation_file(output, split).is_file() for split in splits):
        fetch(f"{url}/annotations/annotations_trainval2017.zip", output, ANNOTATION_GIGABYTES)


def check(output: Path, split: Split) -> str:
    """Check a split on disk and return one line about it.

    Raises:
        UserError: files are missing or damaged, or there are not as many images as COCO has.
    """
    records = load_coco(output / split.name, annotation_file(output, split))
    if len(records) != split.num_images:
        raise UserError(
            f"{annotation_file(output, split)} lists {len(records)} images, "
            f"COCO's {split.name} has {split.num_images}"
        )
    boxes = sum(len(record["annotations"]) for record in records)
    return f"{output / split.name}: complete, {len(records)} images with {boxes} boxes"


def annotation_file(output: Path, split: Split) -> Path:
    """Where COCO puts the boxes of a split."""
    return output / "annotations" / f"instances_{split.name}.json"


def fetch(url: str, output: Path, gigabytes: float) -> None:
    """Download an archive, unless it is in the output folder already, and unpack it there.

    Only whole files get their final names, so that whatever is there can be trusted.
    """
    output.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(output).free / 1e9
    if free < gigabytes:
        raise UserError(
            f"{output} has {free:.1f} GB free, {gigabytes:.1f} GB are needed for {url}; choose "
            "another place with --output or DROPKEY_DATASETS"
        )
    archive = output / url.rsplit("/", 1)[1]
    if not archive.is_file():
        download(url, archive)
    unpack(archive, output)


def download(url: str, archive: Path) -> None:
    """Download an archive."""
    print(f"fetching {url}")
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".fetching-") as folder:
        try:
            download_url(url, folder, archive.name)
        except (urllib.error.URLError, OSError) as error:
            raise UserError(
                f"could not fetch {url}: {error}; call again, or put the file into "
                f"{archive.parent} by other means"
            ) from error
        fetched = Path(folder) / archive.name
        if not zipfile.is_zipfile(fetched):  # a zip ends with its directory
            raise UserError(f"the download of {url} broke off; call again")
        fetched.rename(archive)


def unpack(archive: Path, output: Path) -> None:
    """Unpack an archive and delete it; zipfile writes nothing outside the folder, and no links."""
    print(f"unpacking {archive}")
    with tempfile.TemporaryDirectory(dir=output, prefix=".unpacking-") as folder:
        try:
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(folder)  # verifies the checksum of every file
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
            raise UserError(f"{archive} is damaged ({error}); delete it and call again") from error
        for file in Path(folder).rglob("*"):
            if file.is_file():
                target = output / file.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
    archive.unlink()


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="default: coco below the dataset root")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS))
    parser.add_argument("--url", default=URL, help="a mirror; default: %(default)s")
    parser.add_argument("--check-only", action="store_true", help="fetch nothing")
    arguments = parser.parse_args(argv)
    output = (arguments.output or datasets_root() / "coco").absolute()
    splits = [SPLITS[name] for name in arguments.splits]

    def run() -> None:
        if not arguments.check_only:
            prepare(output, splits, arguments.url.rstrip("/"))
        for split in splits:
            print(check(output, split))

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())

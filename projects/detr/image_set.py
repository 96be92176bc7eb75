"""Image check of a data set: missing and damaged files, sizes, EXIF, doubtful boxes."""

import math
import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from dropkey_core.engine import UserError, dataset_path
from dropkey_core.engine.distributed import rank_and_world_size
from dropkey_core.engine.errors import listed, shown
from dropkey_core.engine.files.atomic_write import make_folder, whole_file
from dropkey_core.engine.files.images import Header, read_headers
from dropkey_core.engine.files.outside import check_inside, places_of
from projects.detr.annotation_file import HOW_TO_GET_COCO, where_data_lies

Record = dict[str, Any]
SizeMismatch = Literal["error", "file", "resize"]

SOME = 100  # missing images that are looked for elsewhere, and folders where
FRACTIONS_BELOW = 1.5  # largest coordinate of boxes that must be fractions of their images


def load_images(
    records: Sequence[Record],
    images: str | os.PathLike[str],
    source: Path,
    size_mismatch: SizeMismatch = "error",
    skip_missing: bool = False,
    output_dir: str | os.PathLike[str] | None = None,
    how_to_get_it: str = HOW_TO_GET_COCO,
) -> tuple[list[Record], list[str]]:
    """Find the images of an annotation file and read all their headers, before anything else.

    Args:
        records: one dict per image with ``file_name`` as in the file, and ``height`` and ``width``
            in pixels, None or 0 where the file does not say; they are changed.
        images: folder of the images, relative to the dataset root or absolute.
        source: the annotation file, for errors.
        size_mismatch: what to do with an image of another size than its entry has. ``error``
            refuses the set; ``file`` takes the boxes as pixels of the image as it is, and does not
            use the entry's size; ``resize`` takes them as pixels of the entry's size, and resizes
            the image to that when it is read.
        skip_missing: go on without images that are missing or damaged.
        output_dir: folder for a list of those, ``missing_<annotation file>.txt``.
        how_to_get_it: what to do where there is no such folder.

    Returns:
        The records of images that are there, with an absolute ``file_name``, ``height`` and
        ``width`` as the image is read, and ``resize``, True, where it has to be resized for that;
        and what to tell of them.

    Raises:
        UserError: the folder or images are missing, damaged, lead out of the set, or have another
            size than their entries.
    """
    folder = image_folder(images, how_to_get_it)
    notes = mend_separators(records, folder)
    for record in records:
        record["file_name"] = path_inside(folder, record["file_name"], source)
    missing = missing_files([record["file_name"] for record in records], folder)
    there = [record for record in records if record["file_name"] not in missing]
    headers = read_headers([record["file_name"] for record in there])
    damaged = [str(header) for header in headers if isinstance(header, UserError)]
    if missing or damaged:
        what = " or ".join(["missing"] * bool(missing) + ["damaged"] * bool(damaged))
        what = f"{len(missing) + len(damaged)} of the {len(records)} images in {source} are {what}"
        lost = [*missing, *damaged]
        if not skip_missing or len(lost) == len(records):
            advice = likely_place(missing, folder) if missing else "mend or convert them"
            if len(lost) < len(records):
                advice += (
                    ", or go on without them: dataloader.train.dataset.skip_missing=true, or "
                    "dataloader.test.dataset..."
                )
            raise UserError(f"{what}, first: {listed(lost, 3)}; {advice}")
        notes.append(f"{what}, which it goes on without{written(lost, source, output_dir)}")
    found = [pair for pair in zip(there, headers, strict=True) if isinstance(pair[1], Header)]
    notes += settle_sizes(found, source, size_mismatch)
    return [record for record, _ in found], notes


def written(lost: Sequence[str], source: Path, output_dir: str | os.PathLike[str] | None) -> str:
    """Write a list of images that are gone without, and say where it is, or how it begins."""
    if output_dir is None:
        return f", first: {listed(lost, 3)}"
    path = Path(output_dir) / f"missing_{source.stem}.txt"
    if rank_and_world_size()[0] == 0:
        make_folder(path.parent)
        with whole_file(path) as file:
            file.write("\n".join(lost) + "\n")
    return f", listed in {path}"


# ---- sizes ---------------------------------------------------------------------------------------
def settle_sizes(
    found: Sequence[tuple[Record, Header]], source: Path, size_mismatch: SizeMismatch
) -> list[str]:
    """Give each record the size that its image is read with; see ``load_images``."""
    others, sideways, unsure = [], [], []
    for record, header in found:
        size = record["height"], record["width"]
        if not all(size):
            size = header.upright
        elif size not in (header.stored, header.upright):
            others.append((record["file_name"], size, header.upright))
            record |= {"resize": True} if size_mismatch == "resize" else {}
            size = header.upright if size_mismatch == "file" else size
        elif header.orientation != 1 and not header.is_turned(size):
            sideways.append(record["file_name"])
        elif header.orientation != 1 and header.stored == header.upright:
            unsure.append(record["file_name"])
        record["height"], record["width"] = size
    notes = []
    if others:
        name, (height, width), (file_height, file_width) = others[0]
        what = (
            f"{len(others)} of the {len(found)} images in {source} have another size than their "
            f"entries, first: {name} has {file_width} x {file_height} pixels (width x height), its "
            f"entry {width} x {height}"
        )
        if size_mismatch == "error":
            raise UserError(
                f"{what}; set dataloader.train.dataset.size_mismatch (or dataloader.test...) to "
                "file if boxes are pixels of the image as it is, to resize if they are pixels of "
                "the entry's size"
            )
        notes.append(f"{what} (size_mismatch={size_mismatch})")
    for names, what in (
        (sideways, "annotated as they are stored, which is not as EXIF turns them: not turned"),
        (unsure, "turned as EXIF says, which their annotated size cannot confirm"),
    ):
        notes += [f"{len(names)} images are {what} (first: {names[0]})"] if names else []
    return notes


def doubtful_boxes(boxes: Iterable[tuple[Sequence[float], Record]]) -> list[str]:
    """What to tell of boxes that look as if they were meant in another way.

    Args:
        boxes: each as x1, y1, x2, y2 in pixels, with the record of its image.
    """
    count = reaching = 0
    largest = 0.0
    for corners, record in boxes:
        if not all(map(math.isfinite, corners)):
            continue
        x1, y1, x2, y2 = corners
        count += 1
        reaching += min(x1, y1) < -1 or x2 > record["width"] + 1 or y2 > record["height"] + 1
        largest = max(largest, x2, y2)
    notes = []
    if reaching:
        notes.append(
            f"{reaching} of {count} boxes ({reaching / count:.1%}) reach out of their image by "
            "more than a pixel: are they in the layout and for the image size that the file says?"
        )
    if count and largest < FRACTIONS_BELOW:
        notes.append(
            f"all {count} boxes lie below {FRACTIONS_BELOW} pixels: are they fractions of the "
            "image? They must be pixels"
        )
    return notes


# ---- files ---------------------------------------------------------------------------------------
# COCO has 118,287 images: os.path on text takes a fraction of the time of Path objects.
# ruff: noqa: PTH110, PTH112, PTH113, PTH118, PTH119, PTH120
def image_folder(images: str | os.PathLike[str], how_to_get_it: str = HOW_TO_GET_COCO) -> str:
    """Absolute path of the folder of images; raises UserError if there is none."""
    folder = dataset_path(images)
    if not folder.is_dir():
        raise UserError(
            f"image folder not found: {folder} (set by dataset.train.images or "
            f"dataset.test.images, {where_data_lies(how_to_get_it)}"
        )
    return os.path.normpath(folder)


def mend_separators(records: Sequence[Record], folder: str) -> list[str]:
    """Replace Windows' separators in file names, unless a file is called so; say how many."""
    mended = []
    for record in records:
        name = record["file_name"]
        if "\\" in name and not os.path.exists(os.path.join(folder, name)):
            mended.append(name)
            record["file_name"] = name.replace("\\", "/")
    what = "file names have backslashes, which are read as slashes"
    return [f"{len(mended)} {what} (first: {shown(mended[0])})"] if mended else []


def path_inside(folder: str, file_name: str, source: Path) -> str:
    """Absolute path of an image; raises UserError if it would lie outside the folder."""
    path = os.path.normpath(os.path.join(folder, file_name))
    if not path.startswith(os.path.join(folder, "")):
        raise UserError(f"{source}: file_name {shown(file_name)} leaves the image folder {folder}")
    return path


def missing_files(paths: Sequence[str], folder: str) -> dict[str, None]:
    """Those of the paths that are not there; UserError for links that lead out of the set.

    Folders are listed, which beats asking file by file, and tells which files are links.

    Args:
        paths: absolute, below ``folder``.
        folder: of the images.
    """
    places = places_of(folder)
    missing = {}
    listings: dict[str, dict[str, bool]] = {}
    for path in paths:
        parent, name = os.path.split(path)
        if parent not in listings:
            check_inside(parent, places)
            listings[parent] = links_among(parent)
        if name not in listings[parent]:
            missing[path] = None
        elif listings[parent][name]:
            check_inside(path, places)
    return missing


def links_among(folder: str) -> dict[str, bool]:
    """Names in a folder, and whether each is a link; none if there is no such folder."""
    if not os.path.isdir(folder):
        return {}
    with os.scandir(folder) as entries:
        return {entry.name: entry.is_symlink() for entry in entries}


def likely_place(missing: Iterable[str], folder: str) -> str:
    """Which folder has missing images: the one that was named, one in it, above or beside it."""
    names = [os.path.relpath(path, folder) for path in islice(missing, SOME)]
    parent = os.path.dirname(folder)

    def holds(place: str, name: str) -> bool:
        names = (name, os.path.basename(name))
        return any(os.path.isfile(os.path.join(place, each)) for each in names)

    around = [folder, *subfolders(folder), parent, *subfolders(parent)]
    count, place = max((sum(holds(place, name) for name in names), place) for place in around)
    if count == 0:
        return "finish the download, or name another folder in dataset.train.images"
    found = f"{place} has {count} of the first {len(names)}"
    return f"{found}: name that folder in dataset.train.images, or link them into {folder}"


def subfolders(folder: str) -> list[str]:
    """Some folders in a folder."""
    with os.scandir(folder) as entries:
        return [entry.path for entry in islice(entries, 10 * SOME) if entry.is_dir()][:SOME]

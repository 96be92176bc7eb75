"""Convert annotations in PASCAL VOC's XML format, as labelImg and others write it, to COCO's JSON.

    python datasets/convert_voc.py VOCdevkit/VOC2007 --output datasets/voc2007 --devkit
    python datasets/convert_voc.py mine --output datasets/mine --splits train val

A VOC folder has Annotations/*.xml, JPEGImages/ and ImageSets/Main/<split>.txt; each list becomes
one JSON file in the output folder. Without ImageSets all annotations become all.json. Images stay
where they are: dataset.train.images=VOCdevkit/VOC2007/JPEGImages.

Boxes without area are left out and counted; objects marked "difficult" become COCO's crowds,
neither trained on nor judged, as in VOC's own evaluation.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from generated_set import write_json

from dropkey_core.engine import UserError
from dropkey_core.engine.command import exit_code
from dropkey_core.engine.errors import listed, shown
from dropkey_core.engine.files.images import IMAGE_SUFFIXES
from dropkey_core.engine.files.outside import check_inside, places_of, read_file, read_text, reading

LARGEST_XML = 2**24  # bytes; an annotation has a few thousand
LARGEST_LIST = 2**28
DEEPEST = 20  # elements within elements; VOC has four
USUAL_SPLITS = ("train", "val", "trainval", "test")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VocObject(NamedTuple):
    """An object: its class, xyxy in pixels as the file says, and whether it is difficult."""

    name: str
    corners: tuple[float, ...]
    is_difficult: bool


class VocImage(NamedTuple):
    """What one annotation file holds; sides in pixels."""

    width: int
    height: int
    objects: list[VocObject]


# ---- one file ------------------------------------------------------------------------------------
def parse_xml(path: Path) -> Element:
    """Parse a small XML file that has no document type, so neither entities nor outside parts.

    Raises:
        UserError: the file cannot be read, is too large or too deep, not XML, or has a DTD.
    """
    content = read_file(path, LARGEST_XML)
    builder = TreeBuilder()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise UserError(f"{path} has elements {depth} deep, {DEEPEST} are allowed")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: Any) -> None:
        raise UserError(f"{path} has a document type (DOCTYPE), which annotations have not")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    with reading(path, "XML"):
        parser.Parse(content, True)
        return builder.close()


def read_voc(path: Path) -> VocImage:
    """Read one annotation file.

    Raises:
        UserError: see ``parse_xml``; or a size, class or corner is missing or no number.
    """
    root = parse_xml(path)
    if root.tag != "annotation":
        raise UserError(f"{path} begins with <{shown(root.tag)}>, VOC's with <annotation>")
    width, height = (number(path, root, f"size/{side}") for side in ("width", "height"))
    if min(width, height) < 1 or width % 1 or height % 1:
        raise UserError(f"{path}: size must be whole pixels, 1 or more, got {width:g} x {height:g}")
    objects = []
    for element in root.iterfind("object"):
        name = (element.findtext("name") or "").strip()
        if not name:
            raise UserError(f"{path}: an object has no <name>")
        corners = tuple(number(path, element, f"bndbox/{corner}") for corner in CORNERS)
        is_difficult = (element.findtext("difficult") or "").strip() == "1"
        objects.append(VocObject(name, corners, is_difficult))
    return VocImage(int(width), int(height), objects)


def number(path: Path, element: Element, name: str) -> float:
    """The finite number in a part of an element; UserError if it is none."""
    text = element.findtext(name)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{path}: <{name}> must be a number, got {shown(text)}")
    return value


# ---- a set ---------------------------------------------------------------------------------------
def read_list(path: Path) -> list[str]:
    """Names of the images of a split, the first word of each line.

    Raises:
        UserError: the file cannot be read, is empty, or names an image twice.
    """
    names = [line.split()[0] for line in read_text(path, LARGEST_LIST).splitlines() if line.strip()]
    if not names:
        raise UserError(f"{path} names no image")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path} names {shown(twice)} more than once")
    return names


def image_of(folder: Path, name: str, places: tuple[str, ...]) -> Path:
    """The image of that name, whatever its format; UserError if there is none in the folder."""
    for suffix in sorted(IMAGE_SUFFIXES):
        for path in (folder / f"{name}{suffix}", folder / f"{name}{suffix.upper()}"):
            if path.is_file():
                check_inside(path, places)
                return path
    raise UserError(f"no image {shown(name)} in {folder}, which an annotation is for")


def read_split(folder: Path, names: Sequence[str]) -> dict[str, VocImage]:
    """Read the annotations of a split: file name of each image -> what is on it.

    Raises:
        UserError: see ``read_voc`` and ``image_of``.
    """
    images, annotations = folder / "JPEGImages", folder / "Annotations"
    image_places, annotation_places = places_of(images), places_of(annotations)
    found = {}
    for name in names:
        annotation = annotations / f"{name}.xml"
        check_inside(annotation, annotation_places)
        file_name = str(image_of(images, name, image_places).relative_to(images))
        found[file_name] = read_voc(annotation)
    return found


def coco_document(
    split: dict[str, VocImage], classes: Sequence[str], is_devkit: bool
) -> tuple[dict[str, Any], int]:
    """A split in COCO's format, and how many boxes had no area and are not in it.

    Args:
        split: see ``read_split``.
        classes: their names; the first becomes category 1.
        is_devkit: pixels count from 1 and a box has both its ends, as in VOC's own files; else
            corners are distances from the image's corner, as in COCO's.
    """
    numbers = {name: number for number, name in enumerate(classes, 1)}
    document: dict[str, Any] = {
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
        "images": [],
        "annotations": [],
    }
    left_out = 0
    for image_id, (file_name, image) in enumerate(split.items(), 1):
        sides = {"height": image.height, "width": image.width}
        document["images"].append({"id": image_id, "file_name": file_name, **sides})
        for item in image.objects:
            x0, y0, x1, y1 = item.corners
            if is_devkit:
                x0, y0 = x0 - 1, y0 - 1
            if x1 <= x0 or y1 <= y0:
                left_out += 1
                continue
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": numbers[item.name],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": int(item.is_difficult),
                }
            )
    return document, left_out


def splits_of(folder: Path, wanted: Sequence[str] | None) -> dict[str, list[str]]:
    """Names of the images of each split; of all annotations, as ``all``, where there are no lists.

    Raises:
        UserError: no annotations, or no list of a split that was asked for.
    """
    lists = folder / "ImageSets" / "Main"
    if wanted is None:
        wanted = [split for split in USUAL_SPLITS if (lists / f"{split}.txt").is_file()]
    if wanted:
        return {split: read_list(lists / f"{split}.txt") for split in wanted}
    names = sorted(path.stem for path in (folder / "Annotations").glob("*.xml"))
    if not names:
        raise UserError(f"{folder} is no VOC folder: no Annotations/*.xml in it")
    return {"all": names}


def convert(
    folder: Path,
    output: Path,
    wanted: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    is_devkit: bool = False,
) -> None:
    """Write ``<split>.json`` of each split, all with the same classes, and say what is in them.

    Args:
        folder: a VOC folder.
        output: where the files go.
        wanted: splits; by default the usual ones that are there.
        classes: their names, in the order of their numbers; by default all, in alphabetical order.
        is_devkit: see ``coco_document``.

    Raises:
        UserError: see ``read_split`` and ``splits_of``; a class that is not among ``classes``.
    """
    splits = {
        split: read_split(folder, names) for split, names in splits_of(folder, wanted).items()
    }
    occurring = {item.name for split in splits.values() for image in split.values()
                 for item in image.objects}  # fmt: skip
    if not occurring:
        raise UserError(f"{folder} has no object on any image")
    classes = classes or sorted(occurring)
    if unknown := sorted(occurring - set(classes)):
        raise UserError(f"{folder} has classes that were not named: {listed(unknown)}")
    for split, images in splits.items():
        document, left_out = coco_document(images, classes, is_devkit)
        write_json(output / f"{split}.json", document)
        print(
            f"{output / split}.json: {len(images)} images, {len(document['annotations'])} boxes of "
            f"{len(classes)} classes; left out {left_out} boxes without area"
        )


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="with Annotations/ and JPEGImages/")
    parser.add_argument("--output", type=Path, help="where the JSON files go; default: the folder")
    parser.add_argument("--splits", nargs="+", help="default: train, val, trainval and test")
    parser.add_argument("--classes", nargs="+", help="in this order; default: alphabetical")
    parser.add_argument(
        "--devkit",
        action="store_true",
        help="pixels count from 1 and boxes have both ends, as in PASCAL VOC's own files; "
        "labelImg and others write distances from the image's corner",
    )
    asked = parser.parse_args(argv)
    output = asked.output or asked.folder
    return exit_code(
        lambda: convert(asked.folder, output, asked.splits, asked.classes, asked.devkit)
    )


if __name__ == "__main__":
    sys.exit(main())

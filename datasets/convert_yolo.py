"""Convert YOLO's labels to COCO's JSON; images stay where they are.

    python datasets/convert_yolo.py mine/images mine/labels mine/data.yaml mine/train.json

An image's labels are the text file of its name, of lines "class x y width height", centre and sides
in fractions of the image, or "class x1 y1 x2 y2 ...", an outline, whose box is taken. An image
without such a file has no boxes; labels that belong to none of the images are refused. Names of
classes are those of the YAML file, or the lines of a text file.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml
from generated_set import write_json

from dropkey_core.engine import UserError
from dropkey_core.engine.command import exit_code
from dropkey_core.engine.files.images import images_in, read_header
from dropkey_core.engine.files.outside import MEGABYTE, read_text, reading


def read_names(path: Path) -> list[str]:
    """Names of the classes; UserError if the file has none."""
    text = read_text(path, MEGABYTE)
    with reading(path, "names of classes"):
        names = text.splitlines() if path.suffix == ".txt" else yaml.safe_load(text)["names"]
        return [str(name) for name in (names.values() if isinstance(names, dict) else names)]


def read_boxes(path: Path, num_classes: int, sides: tuple[int, int]) -> list[dict[str, Any]]:
    """COCO's annotations of an image (width, height), without ids; UserError for other lines."""
    lines = read_text(path, 16 * MEGABYTE).splitlines()
    annotations = []
    for number, line in enumerate(filter(str.strip, lines), 1):
        with reading(f"{path}, line {number}", f"a box of one of {num_classes} classes"):
            label, *values = map(float, line.split())
            if len(values) < 4 or len(values) % 2 or label not in range(num_classes):
                raise ValueError(line)
            if len(values) == 4:
                x, y, w, h = values
                values = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
            x1, y1 = (min(values[n::2]) * side for n, side in enumerate(sides))
            x2, y2 = (max(values[n::2]) * side for n, side in enumerate(sides))
            annotations.append({"category_id": int(label), "bbox": [x1, y1, x2 - x1, y2 - y1]})
    return annotations


def convert(images: Path, labels: Path, names: Path, output: Path) -> None:
    """Write one COCO file; UserError if something cannot be read."""
    classes = read_names(names)
    document: dict[str, Any] = {"images": [], "annotations": []}
    document["categories"] = [{"id": number, "name": name} for number, name in enumerate(classes)]
    paths = images_in(images)
    files = {path: file for path in paths if (file := labels / f"{path.stem}.txt").exists()}
    if not files:
        raise UserError(
            f"{labels} has labels of none of the {len(paths)} images in {images}, such "
            f"as {paths[0].stem}.txt: name the folder that has them"
        )
    for number, path in enumerate(paths, 1):
        height, width = read_header(path).upright
        entry = {"id": number, "file_name": path.name, "height": height, "width": width}
        document["images"].append(entry)
        boxes = read_boxes(files[path], len(classes), (width, height)) if path in files else []
        for box in boxes:
            box |= {"id": len(document["annotations"]) + 1, "image_id": number}
            document["annotations"].append(box)
    write_json(output, document)
    without = len(paths) - len(files)
    print(
        f"{output}: {len(paths)} images, {without} of them without a file of labels, "
        f"{len(document['annotations'])} boxes"
    )


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("images", "labels", "names", "output"):
        parser.add_argument(name, type=Path)
    asked = parser.parse_args(argv)
    return exit_code(lambda: convert(asked.images, asked.labels, asked.names, asked.output))


if __name__ == "__main__":
    sys.exit(main())

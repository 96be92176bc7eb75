"""Draw a small COCO-format detection set: filled shapes on noisy backgrounds.

    python datasets/make_shapes.py --num-train 2000 --num-val 200

The set has what real COCO files have and what code gets wrong: category ids with gaps (1, 3, 7),
images without objects, crowd regions with a run-length mask, images of differing height and width.
The same settings give the same set, and asking again for a set that is there does nothing.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from generated_set import SPLITS, SetSettings, draw_split, run_command, write_json


class ShapeClass(NamedTuple):
    """A class of objects: a regular polygon of a hue, OpenCV's of 0 to 179, and its neighbours."""

    name: str
    num_corners: int
    hue: int


# By category id. Squares are green and the others blue: those are told apart by their form alone.
# Forty corners are round enough below 500 pixels.
SHAPES = {
    1: ShapeClass("circle", 40, 120),
    3: ShapeClass("square", 4, 60),
    7: ShapeClass("triangle", 3, 120),
}


def regular_polygon(num_corners: int) -> np.ndarray:
    """Corners (num_corners, 2) on the unit circle."""
    angles = np.arange(num_corners) * (2 * np.pi / num_corners)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@dataclass(frozen=True)
class ShapeSettings(SetSettings):
    """What determines a set.

    Both sides of an image lie between 0.7 of ``image_size`` and ``image_size`` pixels.
    """

    description: ClassVar[str] = "Shapes on noisy backgrounds, made by datasets/make_shapes.py"
    version: ClassVar[str] = "2"

    image_size: int = 160


# ---- one picture ---------------------------------------------------------------------------------
def draw_picture(rng: np.random.Generator, image_size: int) -> tuple[np.ndarray, list[dict]]:
    """Draw one picture and say what is on it.

    Returns the image, (H, W, 3) uint8, and its annotations without ``id`` and ``image_id``:
    ``bbox`` is x, y, width, height in pixels, ``area`` in square pixels, ``segmentation`` a
    polygon, or run lengths for a crowd.
    """
    height, width = rng.integers(round(0.7 * image_size), image_size, size=2, endpoint=True)
    canvas = textured_background(rng, height, width)

    kind = rng.random()
    if kind < 0.05:  # no object at all
        annotations = []
    elif kind < 0.15:  # one object that fills the picture; COCO's "large" at 160 pixels
        annotations = draw_objects(rng, canvas, count=1, sizes=(0.7, 0.95))
    else:
        annotations = draw_objects(rng, canvas, rng.integers(1, 6), sizes=(0.15, 0.5))
        if rng.random() < 0.1:
            annotations += draw_crowd(rng, canvas, annotations)

    return with_noise(rng, canvas), annotations


def with_noise(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """A copy of a picture with a camera's noise, (H, W, 3) uint8."""
    noise = np.empty(canvas.shape, np.int16)
    cv2.setRNGSeed(int(rng.integers(2**31)))
    cv2.randn(noise, (0, 0, 0), (8, 8, 8))
    return np.clip(canvas + noise, 0, 255).astype(np.uint8)


def textured_background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth blotches about a dull colour: (H, W, 3) uint8."""
    colour = rng.uniform(60, 200) + rng.uniform(-15, 15, size=3)
    blotches = colour + rng.normal(0, 18, size=(7, 7, 3))
    image = cv2.resize(blotches, (int(width), int(height)), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 255).astype(np.uint8)


def draw_objects(
    rng: np.random.Generator, canvas: np.ndarray, count: int, sizes: tuple[float, float]
) -> list[dict]:
    """Draw up to ``count`` shapes that hardly overlap; ``sizes`` are shares of the shorter side."""
    annotations: list[dict] = []
    for _ in range(count):
        category = int(rng.choice(list(SHAPES)))
        size = rng.uniform(*sizes) * min(canvas.shape[:2])
        corners = find_place(rng, turned(rng, category, size), canvas, annotations)
        if corners is None:  # the picture is full
            continue
        fill(canvas, corners, vivid_colour(rng, SHAPES[category].hue))
        annotations.append(object_annotation(category, corners))
    return annotations


def turned(rng: np.random.Generator, category: int, size: float) -> np.ndarray:
    """A shape turned at random, its longer extent ``size`` pixels, its box starting at (0, 0)."""
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    corners = regular_polygon(SHAPES[category].num_corners) @ np.array([[cos, sin], [-sin, cos]])
    corners -= corners.min(axis=0)
    return corners * (size / corners.max())


def find_place(
    rng: np.random.Generator, corners: np.ndarray, canvas: np.ndarray, others: list[dict]
) -> np.ndarray | None:
    """Move a shape to where its box covers little of other boxes, or None after 20 tries."""
    extent = corners.max(axis=0)
    room = np.array(canvas.shape[1::-1]) - extent
    taken = np.array([other["bbox"] for other in others]).reshape(-1, 4)
    for _ in range(20):
        place = rng.uniform(0, room)
        shared = np.minimum(place + extent, taken[:, :2] + taken[:, 2:]) - np.maximum(
            place, taken[:, :2]
        )
        smaller = np.minimum(extent.prod(), taken[:, 2:].prod(axis=1))
        if (shared.clip(min=0).prod(axis=1) <= 0.1 * smaller).all():
            return np.round(corners + place, 2)
    return None


def vivid_colour(rng: np.random.Generator, hue: float, spread: float = 20) -> np.ndarray:
    """A vivid colour, (3,) in 0..255, of a hue within ``spread`` of OpenCV's ``hue`` (0 to 179)."""
    hue = (hue + rng.uniform(-spread, spread)) % 180
    hsv = np.array([[[hue, rng.uniform(150, 255), rng.uniform(120, 255)]]], dtype=np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float64)


def fill(canvas: np.ndarray, corners: np.ndarray, colour: np.ndarray) -> None:
    """Fill a polygon in place, antialiased.

    In COCO's coordinates pixel 0 covers 0..1; for OpenCV its centre is 0: hence the half pixel.
    """
    fixed_point = np.round((corners - 0.5) * 16).astype(np.int32)  # OpenCV takes 4 fractional bits
    cv2.fillPoly(canvas, [fixed_point], colour.tolist(), lineType=cv2.LINE_AA, shift=4)


def object_annotation(category: int, corners: np.ndarray) -> dict:
    """COCO annotation of one polygon, corners (n, 2) in pixels."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    x, y = corners.T
    area = 0.5 * abs(x @ np.roll(y, -1) - y @ np.roll(x, -1))  # shoelace formula
    return {
        "category_id": category,
        "bbox": np.round([*low, *(high - low)], 2).tolist(),
        "area": round(float(area), 2),
        "segmentation": [corners.ravel().tolist()],
        "iscrowd": 0,
    }


def draw_crowd(rng: np.random.Generator, canvas: np.ndarray, others: list[dict]) -> list[dict]:
    """Draw a cluster of tiny shapes of one class under one crowd box; [] where there is no room."""
    side = rng.uniform(0.3, 0.45) * min(canvas.shape[:2])
    frame = find_place(rng, np.array([[0, 0], [side, 0], [side, side], [0, side]]), canvas, others)
    if frame is None:
        return []
    category = int(rng.choice(list(SHAPES)))
    colour = vivid_colour(rng, SHAPES[category].hue)
    mask = np.zeros(canvas.shape[:2], np.uint8)
    for _ in range(rng.integers(10, 16)):
        corners = turned(rng, category, rng.uniform(0.15, 0.25) * side)
        corners += rng.uniform(frame.min(axis=0), frame.max(axis=0) - corners.max(axis=0))
        fill(canvas, corners, colour)
        fixed_point = np.round((corners - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(mask, [fixed_point], 1, shift=4)
    x, y, box_width, box_height = cv2.boundingRect(mask)
    return [
        {
            "category_id": category,
            "bbox": [x, y, box_width, box_height],
            "area": int(mask.sum()),
            "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
            "iscrowd": 1,
        }
    ]


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths: column by column, zeros first."""
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(pixels)) + 1
    runs = np.diff(np.concatenate([[0], changes, [pixels.size]])).tolist()
    return [0, *runs] if pixels[0] else runs


# ---- the set -------------------------------------------------------------------------------------
def make_shapes(output: Path, settings: ShapeSettings) -> bool:
    """Write ``output/{train,val}/*.jpg`` and ``output/annotations/instances_{train,val}.json``.

    Returns False if exactly this set was there already. Raises UserError if ``output`` holds
    another set or its files cannot be read: nothing is overwritten.
    """
    annotation_files = [output / "annotations" / f"instances_{split}.json" for split in SPLITS]
    if all(path.is_file() for path in annotation_files):
        for path in annotation_files:
            settings.check_info(output, path)
        return False
    for split, path in zip(SPLITS, annotation_files, strict=True):
        # The annotation file comes last, so that it stands for a finished split.
        write_json(path, coco_document(output / split, split, settings))
    return True


def coco_document(images: Path, split: str, settings: ShapeSettings) -> dict:
    """Draw the pictures of one split into a folder and return its COCO document."""
    document: dict = {
        "info": settings.info(),
        "categories": [
            {"id": category, "name": shape.name, "supercategory": "shape"}
            for category, shape in SHAPES.items()
        ],
        "images": [],
        "annotations": [],
    }
    drawn = draw_split(
        images, split, settings, lambda rng, _: draw_picture(rng, settings.image_size)
    )
    for image_id, (picture, annotations) in enumerate(drawn, 1):
        document["images"].append({"id": image_id, **picture})
        for annotation in annotations:
            number = len(document["annotations"]) + 1
            document["annotations"].append({"id": number, "image_id": image_id, **annotation})
    return document


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command(argv, __doc__, "shapes", ShapeSettings, make_shapes)


if __name__ == "__main__":
    sys.exit(main())

"""Draw a small set of human-object interactions: stick people and what they do with things.

    python datasets/make_interactions.py --num-train 2000 --num-val 200

A person holds, lifts, stands on, is beside or points at a ball, a box or a kite, or waves, which
needs no object. The set has what HICO-DET has and what code gets wrong: several verbs for one pair
(who lifts holds), people with two objects, pairs without object, images without any pair, objects
nobody does anything with, category ids with gaps, combinations that never occur, and rare ones
(fewer than ten training instances). The same settings give the same set, and asking again for a set
that is there does nothing.
"""

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from generated_set import SPLITS, SetSettings, draw_split, run_command, write_json
from make_shapes import (
    fill,
    regular_polygon,
    textured_background,
    vivid_colour,
    with_noise,
)

RARE_BELOW = 10  # HICO-DET's: a combination is rare with fewer training instances

OBJECTS = {1: "person", 3: "ball", 7: "box", 9: "kite"}  # by category id
CATEGORY_IDS = {name: category for category, name in OBJECTS.items()}
NO_OBJECT = -1
# OpenCV's hues, 0 to 179: yellow, red, green, blue. The classes differ in colour as well as in
# shape, because a network finds colours in minutes and shapes in hours.
HUES = {"person": 27, "ball": 0, "box": 60, "kite": 115}
HUE_SPREAD = 8

VERBS = ("hold", "lift", "stand_on", "beside", "point_at", "wave")
IMPLIED = {"lift": ("hold", "lift"), "point_at": ("beside", "point_at")}
RARE = (("stand_on", "ball"), ("point_at", "kite"), ("lift", "box"))
COMMON = tuple(
    (verb, name)
    for verb, names in {
        "hold": ("ball", "box", "kite"),
        "lift": ("ball", "kite"),
        "stand_on": ("box",),
        "beside": ("ball", "box", "kite"),
        "point_at": ("ball", "box"),
    }.items()
    for name in names
)
# What one person can do at once: on both sides, or above and below.
COMPATIBLE = (
    {"hold", "beside"},
    {"hold", "point_at"},
    {"hold", "stand_on"},
    {"lift", "stand_on"},
)


@dataclass(frozen=True)
class InteractionSettings(SetSettings):
    """What determines a set.

    Both sides of an image lie between 0.8 of ``image_size`` and ``image_size`` pixels.
    """

    description: ClassVar[str] = "People and things, made by datasets/make_interactions.py"
    version: ClassVar[str] = "1"


# ---- figures: x to the right, y down, a person is 1 high and stands on (0, 0) --------------------
@dataclass
class Figure:
    """Something that gets a box: its name and the polygons, each (n, 2), that it is drawn from."""

    name: str
    polygons: list[np.ndarray]

    def box_xyxy(self) -> np.ndarray:
        """Its box (4,)."""
        corners = np.concatenate(self.polygons)
        return np.concatenate([corners.min(axis=0), corners.max(axis=0)])

    def moved(self, offset: np.ndarray, scale: float = 1) -> "Figure":
        """The same figure, scaled about (0, 0) and then moved."""
        return Figure(self.name, [polygon * scale + offset for polygon in self.polygons])


@dataclass
class Group:
    """Figures that belong together, and (subject, object, verb) with indices into them."""

    figures: list[Figure] = field(default_factory=list)
    hois: list[tuple[int, int, str]] = field(default_factory=list)

    def box_xyxy(self) -> np.ndarray:
        """The box (4,) around all figures."""
        boxes = np.array([figure.box_xyxy() for figure in self.figures])
        return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])


# To the sides of a group, above and below it: nobody stands as near to another's things.
MARGIN = np.array([0.16, 0.04])
LARGEST_PERSON = 0.65  # of the image's height
SHOULDER, SHOULDER_HEIGHT, ARM = 0.12, -0.7, 0.36
DOWN, LEVEL, RAISED, WAVING, POINTING = 75, 5, -80, -50, 30  # degrees below the horizontal


def person(angles: dict[int, float]) -> Figure:
    """A person with its arms, by side, at these angles in degrees below the horizontal."""
    head = regular_polygon(40) * 0.13 + [0, -0.87]
    torso = np.array([[-0.15, -0.75], [0.15, -0.75], [0.11, -0.36], [-0.11, -0.36]])
    legs = [limb([side * 0.06, -0.38], [side * 0.13, 0.0], 0.11) for side in (-1, 1)]
    arms = [
        limb([side * SHOULDER, SHOULDER_HEIGHT], hand(side, angle), 0.09)
        for side, angle in angles.items()
    ]
    return Figure("person", [head, torso, *legs, *arms])


def hand(side: int, angle: float) -> np.ndarray:
    """Where an arm ends: (2,); side -1 is the left of the picture, 1 the right."""
    radians = np.deg2rad(angle)
    shoulder = np.array([side * SHOULDER, SHOULDER_HEIGHT])
    return shoulder + ARM * np.array([side * np.cos(radians), np.sin(radians)])


def limb(start: list[float], end: np.ndarray | list[float], thickness: float) -> np.ndarray:
    """A straight limb as four corners."""
    start, end = np.array(start), np.array(end)
    along = (end - start) / np.linalg.norm(end - start)
    across = np.array([-along[1], along[0]]) * thickness / 2
    return np.stack([start + across, end + across, end - across, start - across])


def thing(rng: np.random.Generator, name: str, longest: float) -> Figure:
    """A ball, a box or a kite whose longer side is ``longest``, around (0, 0)."""
    if name == "ball":
        corners = regular_polygon(40)
    elif name == "box":
        corners = np.array([[-1, -0.8], [1, -0.8], [1, 0.8], [-1, 0.8]])
    else:
        corners = np.array([[0, -1], [0.75, -0.25], [0, 1], [-0.75, -0.25]])
    if name != "ball":
        cos, sin = np.cos(turn := np.deg2rad(rng.uniform(-6, 6))), np.sin(turn)
        corners = corners @ np.array([[cos, sin], [-sin, cos]])
    low, high = corners.min(axis=0), corners.max(axis=0)
    return Figure(name, [(corners - (low + high) / 2) * (longest / (high - low).max())])


# ---- one person and what it does -----------------------------------------------------------------
def draw_actions(
    rng: np.random.Generator, rare: tuple[str, str] | None, most: int
) -> list[tuple[str, str]]:
    """Up to two (verb, object) that one person can do at once; [] for a person who does nothing.

    Args:
        rng: where chance comes from.
        rare: a rare combination that shall be among them.
        most: 1 or 2.
    """
    if rare is None and rng.random() < 0.15:
        return []
    first = rare or COMMON[rng.integers(len(COMMON))]
    if most == 1 or rng.random() < 0.5:
        return [first]
    others = [action for action in COMMON if {first[0], action[0]} in COMPATIBLE]
    return [first, others[rng.integers(len(others))]]


def act(rng: np.random.Generator, actions: list[tuple[str, str]]) -> Group:
    """A person who does all of ``actions``, with a thing each; who has a free arm may wave."""
    side = int(rng.choice([-1, 1]))
    angles: dict[int, float] = {}  # of the arms that have something to do
    group = Group([])
    for verb, name in actions:
        figure = thing(rng, name, rng.uniform(0.34, 0.42))
        group.figures.append(figure.moved(place_for(rng, verb, figure, side, angles)))
        number = len(group.figures)
        group.hois += [(0, number, implied) for implied in IMPLIED.get(verb, (verb,))]
        if side in angles:  # what else there is lies on the other side
            side = -side
    if side not in angles and rng.random() < (0.15 if actions else 0.5):
        angles[side] = WAVING + rng.uniform(-10, 10)
        group.hois.append((0, NO_OBJECT, "wave"))
    for each in (-1, 1):
        angles.setdefault(each, DOWN + rng.uniform(-6, 6))
    group.figures.insert(0, person(angles))
    return group


def place_for(
    rng: np.random.Generator, verb: str, figure: Figure, side: int, angles: dict[int, float]
) -> np.ndarray:
    """Where the centre of a thing is for a verb, (2,); sets the angles of the arms it takes."""
    width, height = figure.box_xyxy()[2:] - figure.box_xyxy()[:2]
    if verb == "lift":
        angles.update({each: RAISED + rng.uniform(-6, 6) for each in (-1, 1)})
        return np.array([rng.uniform(-0.05, 0.05), hand(1, RAISED)[1] - 0.4 * height])
    if verb == "stand_on":
        return np.array([rng.uniform(-0.05, 0.05), height / 2])
    if verb == "hold":
        angles[side] = LEVEL + rng.uniform(-12, 12)
        return hand(side, angles[side]) + np.array([side * 0.35 * width, 0])
    angles[side] = (POINTING if verb == "point_at" else DOWN) + rng.uniform(-6, 6)
    return np.array([side * (rng.uniform(0.5, 0.58) + width / 2), -height / 2])


# ---- one picture ---------------------------------------------------------------------------------
def draw_picture(
    rng: np.random.Generator, image_size: int, rare: tuple[str, str] | None
) -> tuple[np.ndarray, list[dict], list[dict]]:
    """Draw one picture and say what is on it.

    Args:
        rng: where chance comes from.
        image_size: greatest side in pixels.
        rare: a rare (verb, object) that shall be in the picture.

    Returns:
        The image, (H, W, 3) uint8; ``annotations``, dicts with ``bbox`` [x1, y1, x2, y2] in pixels
        and ``category_id``; ``hoi_annotation``, dicts with ``subject_id`` and ``object_id``, which
        are indices into ``annotations`` (-1 for a pair without object), and the verb's
        ``category_id``.
    """
    height, width = rng.integers(round(0.8 * image_size), image_size, size=2, endpoint=True)
    canvas = textured_background(rng, height, width)
    annotations: list[dict] = []
    hois: list[dict] = []
    for group in side_by_side(rng, draw_groups(rng, rare), int(height), int(width)):
        first = len(annotations)
        for figure in group.figures:
            colour = vivid_colour(rng, HUES[figure.name], HUE_SPREAD)
            for polygon in figure.polygons:
                fill(canvas, polygon, colour)
            bbox = np.round(figure.box_xyxy(), 2).tolist()
            annotations.append({"bbox": bbox, "category_id": CATEGORY_IDS[figure.name]})
        hois += [
            {
                "subject_id": first + subject,
                "object_id": first + object_ if object_ >= 0 else NO_OBJECT,
                "category_id": VERBS.index(verb) + 1,
            }
            for subject, object_, verb in group.hois
        ]
    return with_noise(rng, canvas), annotations, hois


def draw_groups(rng: np.random.Generator, rare: tuple[str, str] | None) -> list[Group]:
    """What is in a picture: a busy person, two of them with less to do, or something without pairs.

    Things that nobody does anything with only come without people: a person beside whom they
    happened to lie would be beside them.
    """
    kind = rng.random()
    if rare is None and kind < 0.04:
        return []
    if rare is None and kind < 0.12:
        names = rng.choice([name for name in HUES if name != "person"], size=rng.integers(1, 4))
        return [Group([thing(rng, str(name), rng.uniform(0.3, 0.5))]) for name in names]
    if kind < 0.6:
        return [act(rng, draw_actions(rng, rare, most=2))]
    return [act(rng, draw_actions(rng, wanted, most=1)) for wanted in (rare, None)]


def side_by_side(
    rng: np.random.Generator, groups: list[Group], height: int, width: int
) -> list[Group]:
    """Scale and move groups, in any order, to columns of an image of these many pixels."""
    groups = [groups[number] for number in rng.permutation(len(groups))]
    boxes = np.array([group.box_xyxy() for group in groups]).reshape(-1, 4)
    extents = boxes[:, 2:] - boxes[:, :2] + 2 * MARGIN
    largest = np.concatenate([[LARGEST_PERSON], 1 / extents[:, 1]]).min() * height
    scale = min(largest, width / max(extents[:, 0].sum(), 1e-9)) * rng.uniform(0.85, 1)
    left = 0.0
    spare = width - scale * extents[:, 0].sum()
    placed = []
    for number, (group, box, extent) in enumerate(zip(groups, boxes, extents, strict=True)):
        share = rng.uniform(0, spare / (len(groups) - number))
        spare -= share
        left += share
        top = rng.uniform(0, height - scale * extent[1])
        offset = np.array([left, top]) + scale * (MARGIN - box[:2])
        figures = [figure.moved(offset, scale) for figure in group.figures]
        placed.append(Group(figures, group.hois))
        left += scale * extent[0]
    return placed


# ---- the set -------------------------------------------------------------------------------------
def make_interactions(output: Path, settings: InteractionSettings) -> bool:
    """Write ``output/{train,val}/*.jpg`` and ``output/annotations/{train,val,classes}.json``.

    Returns False if exactly this set was there already. Raises UserError if ``output`` holds
    another set or its files cannot be read: nothing is overwritten.
    """
    folder = output / "annotations"
    classes = folder / "classes.json"
    if classes.is_file():
        settings.check_info(output, classes)
        if all((folder / f"{split}.json").is_file() for split in SPLITS):
            return False
    documents = {split: qpic_document(output / split, split, settings) for split in SPLITS}
    for split, document in documents.items():
        write_json(folder / f"{split}.json", document)
    # It comes last, so that it stands for a finished set.
    write_json(classes, {"info": settings.info(), **class_names(documents["train"])})
    return True


def class_names(training: list[dict]) -> dict:
    """What ``classes.json`` holds; see datasets/README.md."""
    counts = Counter(
        (entry["annotations"][hoi["object_id"]]["category_id"], hoi["category_id"])
        for entry in training
        for hoi in entry["hoi_annotation"]
        if hoi["object_id"] != NO_OBJECT
    )
    ids = sorted((CATEGORY_IDS[name], VERBS.index(verb) + 1) for verb, name in COMMON + RARE)
    triplets = [[list(OBJECTS).index(category), verb - 1] for category, verb in ids]
    return {
        "objects": [{"id": category, "name": name} for category, name in OBJECTS.items()],
        "verbs": [{"id": number, "name": verb} for number, verb in enumerate(VERBS, 1)],
        "triplets": triplets,
        "rare_triplets": [
            triplet for triplet, key in zip(triplets, ids, strict=True) if counts[key] < RARE_BELOW
        ],
    }


def qpic_document(images: Path, split: str, settings: InteractionSettings) -> list[dict]:
    """Draw the pictures of one split into a folder and return its document in QPIC's layout."""

    def draw(rng: np.random.Generator, index: int) -> tuple[np.ndarray, list[dict], list[dict]]:
        return draw_picture(rng, settings.image_size, rare_one(split, index))

    return [
        {**picture, "annotations": annotations, "hoi_annotation": hois}
        for picture, annotations, hois in draw_split(images, split, settings, draw)
    ]


def rare_one(split: str, index: int) -> tuple[str, str] | None:
    """The rare combination that a picture of a split has to show, if it has to.

    Training has six pictures of each, one in twenty; validation one picture in five, so that their
    average precision is more than chance.
    """
    every, most = {"train": (20, 6 * len(RARE)), "val": (5, None)}[split]
    turn, rest = divmod(index, every)
    if rest != every - 1 or (most is not None and turn >= most):
        return None
    return RARE[turn % len(RARE)]


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command(argv, __doc__, "interactions", InteractionSettings, make_interactions)


if __name__ == "__main__":
    sys.exit(main())

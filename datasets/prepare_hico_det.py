"""Bring HICO-DET's annotations into the layout that QPIC trains on, and check them.

    python datasets/prepare_hico_det.py hico_20160224_det/anno_bbox.mat
    python datasets/prepare_hico_det.py trainval_hico.json test_hico.json corre_hico.npy

The first is the dataset's own release, the second QPIC's files. Writes annotations/trainval.json,
test.json and classes.json; images are not touched. Every count is compared with what HICO-DET has;
what looks wrong is told, one line each.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from generated_set import write_json

from dropkey_core.engine import UserError
from dropkey_core.engine.command import exit_code
from dropkey_core.engine.paths import datasets_root
from projects.qpic.classes import OBJECT_IDS, OBJECT_NAMES, VERB_NAMES, read_classes
from projects.qpic.interaction_file import read_interactions
from projects.qpic.prepare import Release, combinations, odd_boxes, read_release

FILES = {"train": "trainval.json", "test": "test.json"}
RARE_BELOW = 10  # training instances
# What HICO-DET has; of its images 485 and 112 have no pair that can be seen.
KNOWN = {
    "train images": (38_118, 37_633),
    "test images": (9_658, 9_546),
    "objects": (80,),
    "verbs": (117,),
    "HOI classes": (600,),
    "rare classes": (138,),
    "non-rare classes": (462,),
}


def prepare(sources: list[Path], output: Path, merge_iou: float) -> None:
    """Convert source files and print what was found.

    Raises:
        UserError: a source cannot be used, or what it lacks cannot be had from another.
    """
    release = read_release(sources, merge_iou)
    for split in release.entries:
        release.problems += odd_boxes(release.entries[split])
    classes = classes_of(release)
    for problem in release.problems:
        print(f"looks wrong: {problem}")
    if release.problems:
        print(f"{len(release.problems)} entries look wrong (listed above)")
    counts = {f"{split} images": len(found) for split, found in release.entries.items()}
    leave_out_unannotated(release)
    folder = output / "annotations"
    for split, entries in release.entries.items():
        write_json(folder / FILES[split], entries)
    write_json(folder / "classes.json", classes)
    for split in release.entries:
        print(check(folder / FILES[split], folder / "classes.json"))
    compare(counts | class_counts(classes), complete=len(release.entries) == len(FILES))


def leave_out_unannotated(release: Release) -> None:
    """Take training images without a pair out: what can be seen on them was never annotated."""
    entries = release.entries.get("train", [])
    kept = [entry for entry in entries if entry["hoi_annotation"]]
    if len(kept) < len(entries):
        release.entries["train"] = kept
        print(
            f"left out {len(entries) - len(kept)} of {len(entries)} training images, which have no "
            "annotated pair; QPIC's own file is without them too"
        )


def classes_of(release: Release) -> dict[str, Any]:
    """What goes into ``classes.json``.

    Raises:
        UserError: there are no training annotations.
    """
    if "train" not in release.entries:
        raise UserError(
            "which classes are rare follows from the training annotations: give that file as well"
        )
    counts = combinations(release.entries["train"])
    occurring = counts.keys() | combinations(release.entries.get("test", [])).keys()
    triplets = release.triplets or sorted(occurring)
    release.problems += [
        f"{VERB_NAMES[verb]} {OBJECT_NAMES[label]} is annotated, but is none of the "
        f"{len(triplets)} classes"
        for label, verb in sorted(occurring - set(triplets))
    ]
    return {
        "objects": [
            {"id": number, "name": name}
            for number, name in zip(OBJECT_IDS, OBJECT_NAMES, strict=True)
        ],
        "verbs": [{"id": number, "name": name} for number, name in enumerate(VERB_NAMES, 1)],
        "triplets": triplets,
        "rare_triplets": [triplet for triplet in triplets if counts[triplet] < RARE_BELOW],
    }


def class_counts(classes: dict[str, Any]) -> dict[str, int]:
    """How many classes of each kind there are; objects and verbs that some class has."""
    rare = len(classes["rare_triplets"])
    return {
        "objects": len({label for label, _ in classes["triplets"]}),
        "verbs": len({verb for _, verb in classes["triplets"]}),
        "HOI classes": len(classes["triplets"]),
        "rare classes": rare,
        "non-rare classes": len(classes["triplets"]) - rare,
    }


def check(annotations: Path, classes: Path) -> str:
    """Read a converted file back and return one line about it."""
    records = read_interactions(annotations, read_classes(classes))
    pairs = sum(len({hoi[:2] for hoi in record["hois"]}) for record in records)
    hois = [(record["image_id"], *hoi) for record in records for hoi in record["hois"]]
    repeated = sum(times - 1 for times in Counter(hois).values())
    return (
        f"{annotations}: {len(records)} images, "
        f"{sum(not record['hois'] for record in records)} of them without a pair; "
        f"{sum(len(record['labels']) for record in records)} boxes, {pairs} pairs, "
        f"{len(hois)} interactions, {repeated} of them listed again"
    )


def compare(counts: dict[str, int], complete: bool) -> None:
    """Print every count beside HICO-DET's, and whether they are the same."""
    wrong = 0
    for name, known in KNOWN.items():
        if name not in counts:
            print(f"{name}: not among the files, HICO-DET has {known[0]:,}")
            continue
        same = counts[name] in known
        wrong += not same
        print(
            f"{name}: {counts[name]:,}"
            + ("" if same else f", but HICO-DET has {' or '.join(f'{n:,}' for n in known)}")
        )
    if wrong or not complete:
        print(f"this is not the whole of HICO-DET: {wrong} counts differ")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", type=Path, nargs="+", help="annotation files, see above")
    parser.add_argument("--output", type=Path, help="default: hico_det below the dataset root")
    parser.add_argument(
        "--merge-iou",
        type=float,
        default=0.7,
        metavar="IOU",
        help="training boxes of one object that overlap so much become one, 1 for equal ones only; "
        "default: %(default)s; not used for QPIC's files and test images",
    )
    arguments = parser.parse_args(argv)
    output = (arguments.output or datasets_root() / "hico_det").absolute()
    return exit_code(lambda: prepare(arguments.sources, output, arguments.merge_iou))


if __name__ == "__main__":
    sys.exit(main())

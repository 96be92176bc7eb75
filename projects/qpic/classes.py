"""Names of objects and verbs, and which go together: a set's ``classes.json``, and HICO-DET's."""

import os
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from dropkey_core.engine import dataset_path
from projects.detr.annotation_file import Category, check_unique, read_typed_json
from projects.detr.coco import COCO_CATEGORY_IDS

HOW_TO_GET_IT = (
    "to get HICO-DET: python datasets/prepare_hico_det.py; "
    "to get a small set: python datasets/make_interactions.py"
)

# HICO-DET's 80 objects, which are COCO's, and its 117 verbs, as it spells them; QPIC's files only
# number them: objects by COCO's ids in their order, verbs from 1 in alphabetical order.
_OBJECTS = """
person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign
parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella
handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard
surfboard tennis_racket bottle wine_glass cup fork knife spoon bowl banana apple sandwich orange
broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed dining_table toilet tv laptop
mouse remote keyboard cell_phone microwave oven toaster sink refrigerator book clock vase scissors
teddy_bear hair_drier toothbrush
"""
_VERBS = """
adjust assemble block blow board break brush_with buy carry catch chase check clean control cook cut
cut_with direct drag dribble drink_with drive dry eat eat_at exit feed fill flip flush fly greet
grind groom herd hit hold hop_on hose hug hunt inspect install jump kick kiss lasso launch lick
lie_on lift light load lose make milk move no_interaction open operate pack paint park pay peel pet
pick pick_up point pour pull push race read release repair ride row run sail scratch serve set shear
sign sip sit_at sit_on slide smell spin squeeze stab stand_on stand_under stick stir stop_at
straddle swing tag talk_on teach text_on throw tie toast train turn type_on walk wash watch wave
wear wield zip
"""
OBJECT_IDS = sorted(COCO_CATEGORY_IDS)  # by class index, as the names
OBJECT_NAMES = _OBJECTS.split()
VERB_NAMES = _VERBS.split()

ClassIndex = Annotated[int, Meta(ge=0)]
# Class indices of an object and a verb.
Combination = tuple[ClassIndex, ClassIndex]


class InteractionClasses(Struct, frozen=True):
    """Objects, verbs, and which of them occur together; the schema of a ``classes.json``.

    Class indices are positions: object c of ``objects``, verb v of ``verbs``.

    Attributes:
        objects: C of them, one called "person"; ids are the numbers that annotation files use.
        verbs: V of them, likewise.
        triplets: (object, verb) class indices of the combinations there are, in the set's order
            (600 in HICO-DET).
        rare_triplets: those with fewer than ten training instances.
    """

    objects: Annotated[tuple[Category, ...], Meta(min_length=1)]
    verbs: Annotated[tuple[Category, ...], Meta(min_length=1)]
    triplets: tuple[Combination, ...]
    rare_triplets: tuple[Combination, ...]

    def __post_init__(self) -> None:
        """Raise ValueError for what is there twice, and for indices of classes there are not."""
        for section in ("objects", "verbs"):
            entries = getattr(self, section)
            check_unique(section, "id", [entry.id for entry in entries])
            check_unique(section, "name", [entry.name for entry in entries])
        if "person" not in self.object_names:
            raise ValueError('none of the objects is called "person"')
        check_unique("the file", "triplet", self.triplets)
        for number, (object_label, verb) in enumerate(self.triplets):
            if object_label >= len(self.objects) or verb >= len(self.verbs):
                raise ValueError(
                    f"triplets[{number}] is [{object_label}, {verb}], not [object, verb] with an "
                    f"object below {len(self.objects)} and a verb below {len(self.verbs)}"
                )
        for combination in self.rare_triplets:
            if combination not in self.triplets:
                raise ValueError(f"{list(combination)} of rare_triplets is not among the triplets")

    @property
    def object_names(self) -> tuple[str, ...]:
        """C names."""
        return tuple(entry.name for entry in self.objects)

    @property
    def verb_names(self) -> tuple[str, ...]:
        """V names."""
        return tuple(entry.name for entry in self.verbs)

    @property
    def person(self) -> int:
        """Object class index of the subjects."""
        return self.object_names.index("person")

    @property
    def non_rare_triplets(self) -> tuple[Combination, ...]:
        """(object, verb) that are not rare."""
        rare = set(self.rare_triplets)
        return tuple(triplet for triplet in self.triplets if triplet not in rare)

    def validity(self) -> np.ndarray:
        """Which verb goes with which object: (V, C) bool, True where it does."""
        valid = np.zeros((len(self.verbs), len(self.objects)), dtype=bool)
        for object_label, verb in self.triplets:
            valid[verb, object_label] = True
        return valid


def read_classes(path: str | os.PathLike[str]) -> InteractionClasses:
    """Read and check a ``classes.json``, its path relative to the dataset root or absolute.

    Raises:
        UserError: the file is missing, is not JSON, or something in it is missing or wrong.
    """
    return read_typed_json(
        dataset_path(path), InteractionClasses, HOW_TO_GET_IT, "file of classes", "dataset.classes"
    )


def num_object_classes(classes: str | os.PathLike[str]) -> int:
    """Size of the object head (without "no object"); for path and errors see ``read_classes``."""
    return len(read_classes(classes).objects)


def num_verb_classes(classes: str | os.PathLike[str]) -> int:
    """Size of the verb head; for path and errors see ``read_classes``."""
    return len(read_classes(classes).verbs)

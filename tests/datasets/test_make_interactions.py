from collections import Counter

import cv2
import numpy as np
import pytest

from projects.qpic import QpicMapper, load_hico_det, num_object_classes, num_verb_classes
from projects.qpic.classes import read_classes
from projects.qpic.interaction_file import read_interactions


@pytest.fixture(scope="module")
def make_interactions(load_script):
    return load_script("datasets/make_interactions")


@pytest.fixture(scope="module")
def made(make_interactions, tmp_path_factory):
    """A set of 400 + 60 images."""
    output = tmp_path_factory.mktemp("interactions")
    counts = ["--num-train", "400", "--num-val", "60"]
    assert make_interactions.main(["--output", str(output), *counts]) == 0
    return output


@pytest.fixture(scope="module")
def classes(made):
    return read_classes(made / "annotations" / "classes.json")


@pytest.fixture(scope="module")
def train(made, classes):
    return read_interactions(made / "annotations" / "train.json", classes)


def verbs_of_pairs(records, classes):
    """The verbs of each pair, as a set of names, with the object's name or None."""
    for record in records:
        pairs = {}
        for subject, object_, verb in record["hois"]:
            pairs.setdefault((subject, object_), set()).add(classes.verb_names[verb])
        for (_, object_), verbs in pairs.items():
            label = None if object_ < 0 else classes.object_names[record["labels"][object_]]
            yield frozenset(verbs), label


def test_the_set_has_what_hico_det_has(train, classes):
    assert [entry.id for entry in classes.objects] == [1, 3, 7, 9]
    pairs = Counter(verbs_of_pairs(train, classes))
    assert {frozenset({"hold", "lift"}), frozenset({"beside", "point_at"})} <= {v for v, _ in pairs}
    assert pairs[frozenset({"wave"}), None] > 20  # without object
    per_image = Counter(len({hoi[:2] for hoi in record["hois"]}) for record in train)
    assert set(per_image) >= {0, 1, 2, 3}
    assert any(len({s for s, _, _ in r["hois"]}) == 2 for r in train)  # several people
    assert any(r["labels"] and not r["hois"] for r in train)
    assert any(not r["labels"] for r in train)


def test_combinations_are_common_rare_or_impossible(train, classes):
    counts = Counter(
        (record["labels"][object_], verb)
        for record in train
        for _, object_, verb in record["hois"]
        if object_ >= 0
    )
    names = {
        (classes.object_names[label], classes.verb_names[verb])
        for label, verb in classes.rare_triplets
    }
    assert names == {("ball", "stand_on"), ("box", "lift"), ("kite", "point_at")}
    assert {counts[triplet] for triplet in classes.rare_triplets} == {6}
    assert min(counts[triplet] for triplet in classes.non_rare_triplets) >= 10
    assert set(counts) == set(classes.triplets)
    assert len(classes.triplets) == 14 < classes.validity().size == 24


def test_rare_combinations_are_often_in_the_validation_images(made, classes):
    val = read_interactions(made / "annotations" / "val.json", classes)
    shown = Counter(
        (record["labels"][object_], verb)
        for record in val
        for _, object_, verb in record["hois"]
        if object_ >= 0
    )
    assert min(shown[triplet] for triplet in classes.rare_triplets) >= 4
    assert set(shown) == set(classes.triplets)


def test_relations_can_be_read_off_the_boxes(train, classes):
    """Each verb is a place of the object next to the person, as far as boxes tell."""
    for record in train:
        for subject, object_, verb in record["hois"]:
            if object_ < 0:
                continue
            px1, py1, px2, py2 = record["boxes_xyxy"][subject]
            ox1, oy1, ox2, oy2 = record["boxes_xyxy"][object_]
            touching = max(px1, ox1) < min(px2, ox2) + 0.5 and max(py1, oy1) < min(py2, oy2) + 0.5
            name = classes.verb_names[verb]
            if name == "lift":
                assert oy2 < (py1 + py2) / 2 and oy1 < py1
            if name == "stand_on":
                assert abs(oy1 - py2) < 0.05 * (py2 - py1)
            if name in ("beside", "point_at"):
                assert ox1 > px2 or ox2 < px1
                assert abs(oy2 - py2) < 0.05 * (py2 - py1)  # on the ground
            assert touching == (name not in ("beside", "point_at"))


def test_boxes_lie_in_their_images_and_on_what_they_name(train, made, classes):
    # The hue in the middle of each thing is that of its class.
    hues = {"ball": 0, "box": 60, "kite": 115}
    for record in train[:80]:
        pixels = cv2.imread(str(made / "train" / record["file_name"]))
        assert pixels.shape == (record["height"], record["width"], 3)
        for label, box in zip(record["labels"], record["boxes_xyxy"], strict=True):
            x1, y1, x2, y2 = box
            assert 0 <= x1 < x2 <= record["width"] and 0 <= y1 < y2 <= record["height"]
            if label == classes.person:
                continue
            cx, cy = round((x1 + x2) / 2), round((y1 + y2) / 2)
            middle = pixels[cy - 1 : cy + 2, cx - 1 : cx + 2].mean(axis=(0, 1))
            hue = float(cv2.cvtColor(np.uint8([[middle]]), cv2.COLOR_BGR2HSV)[0, 0, 0])
            distance = abs((hue - hues[classes.object_names[label]] + 90) % 180 - 90)
            assert distance < 20, (record["file_name"], label)


def test_the_set_can_be_trained_on(made, caplog):
    annotations = made / "annotations"
    records = load_hico_det(made / "val", annotations / "val.json", annotations / "classes.json")
    sizes = {
        "num_object_classes": num_object_classes(annotations / "classes.json"),
        "num_verb_classes": num_verb_classes(annotations / "classes.json"),
    }
    mapper = QpicMapper(True, **sizes, min_sizes=[64], crop_probability=0)
    pairs = sum(len(mapper(record)["obj_labels"]) for record in records)
    assert pairs == sum(len({hoi[:2] for hoi in record["hois"]}) for record in records)
    assert sizes == {"num_object_classes": 4, "num_verb_classes": 6}
    assert not caplog.records

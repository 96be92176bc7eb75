import json

import numpy as np
import pytest
from scipy.io import savemat

from projects.qpic.classes import read_classes
from projects.qpic.interaction_file import read_interactions

HOLD, RIDE, WALK = 36, 76, 110  # class indices of verbs
BICYCLE, DOG = 1, 16  # of objects, in the order of COCO's ids


@pytest.fixture
def prepare(load_script, tmp_path, capsys):
    """Runs the script on source files; returns exit status, what it printed, and its errors."""
    script = load_script("datasets/prepare_hico_det")

    def run(*sources):
        output = str(tmp_path / "hico_det")
        status = script.main([str(source) for source in sources] + ["--output", output])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def written(tmp_path, name):
    return json.loads((tmp_path / "hico_det" / "annotations" / f"{name}.json").read_text())


# ---- anno_bbox.mat, field by field as in the release --------------------------------------------
ACTIONS = [("bicycle", "hold"), ("bicycle", "ride"), ("dog", "walk")]


def struct(rows, fields):
    """A MATLAB struct array, 1 x N; of one row a 1 x 1 struct, of none a 1 x 0 array."""
    array = np.zeros((1, len(rows)), dtype=[(name, object) for name in fields])
    for number, row in enumerate(rows):
        array[0, number] = tuple(row)
    return array


def boxes(rows):
    return struct([(x1, x2, y1, y2) for x1, y1, x2, y2 in rows], ["x1", "x2", "y1", "y2"])


def hoi(number, humans, objects, connection, invis=0):
    connection = np.array(connection, dtype=np.uint8).reshape(-1, 2)
    return number, boxes(humans), boxes(objects), connection, invis


def images(rows):
    fields = ["id", "bboxhuman", "bboxobject", "connection", "invis"]
    size = struct([(640, 480, 3)], ["width", "height", "depth"])
    return struct(
        [(name, size, struct(hois, fields)) for name, hois in rows], ["filename", "size", "hoi"]
    )


def write_mat(path, train, test=None, actions=ACTIONS):
    fields = ["nname", "vname", "vname_ing", "syn", "def", "synset", "add_def"]
    list_action = struct([(n, v, f"{v}ing", "", "", "", "") for n, v in actions], fields)
    test = [("HICO_test2015_00000001.jpg", [])] if test is None else test
    savemat(
        path,
        {
            "bbox_train": images(train),
            "bbox_test": images(test),
            "list_action": list_action.reshape(-1, 1),  # N x 1 in the release
        },
    )
    return path


PERSON_BOX, NEAR, OTHER = [10, 20, 110, 220], [12, 20, 110, 220], [300, 20, 400, 220]
BIKE = [5, 100, 205, 300]


def test_the_release_becomes_qpics_layout(prepare, tmp_path):
    name = "HICO_train2015_00000001.jpg"
    riding = [
        hoi(1, [PERSON_BOX], [BIKE], [[1, 1]]),
        hoi(2, [NEAR, OTHER], [BIKE], [[1, 1], [2, 1]]),
        hoi(3, [], [], [], invis=1),
    ]
    status, printed, _ = prepare(write_mat(tmp_path / "anno_bbox.mat", [(name, riding)]))
    assert status == 0
    (entry,) = written(tmp_path, "trainval")
    assert entry == {
        "file_name": name,
        "height": 480,
        "width": 640,
        # The same person, drawn twice, is one; the numbers are the release's.
        "annotations": [
            {"bbox": PERSON_BOX, "category_id": 1},
            {"bbox": BIKE, "category_id": 2},
            {"bbox": OTHER, "category_id": 1},
        ],
        "hoi_annotation": [
            {"subject_id": 0, "object_id": 1, "category_id": HOLD + 1},
            {"subject_id": 0, "object_id": 1, "category_id": RIDE + 1},
            {"subject_id": 2, "object_id": 1, "category_id": RIDE + 1},
        ],
    }
    assert written(tmp_path, "test") == [
        {
            "file_name": "HICO_test2015_00000001.jpg",
            "height": 480,
            "width": 640,
            "annotations": [],
            "hoi_annotation": [],
        }
    ]
    classes = read_classes(tmp_path / "hico_det" / "annotations" / "classes.json")
    assert classes.triplets == ((BICYCLE, HOLD), (BICYCLE, RIDE), (DOG, WALK))
    assert classes.object_names[BICYCLE] == "bicycle" and classes.objects[BICYCLE].id == 2
    assert (len(classes.object_names), len(classes.verb_names)) == (80, 117)
    assert "1 images, 0 of them without a pair; 3 boxes, 2 pairs, 3 interactions" in printed
    assert "train images: 1, but HICO-DET has 38,118 or 37,633" in printed
    assert "HOI classes: 3, but HICO-DET has 600" in printed


def test_rare_classes_have_fewer_than_ten_training_instances(prepare, tmp_path):
    def instances(number, verb, times):
        people = [[x, 1, x + 5, 9] for x in range(times)]
        return hoi(number, people, [BIKE], [[n + 1, 1] for n in range(times)])

    train = [("HICO_train2015_1.jpg", [instances(1, HOLD, 9), instances(2, RIDE, 10)])]
    prepare(write_mat(tmp_path / "anno_bbox.mat", train))
    classes = read_classes(tmp_path / "hico_det" / "annotations" / "classes.json")
    assert classes.rare_triplets == ((BICYCLE, HOLD), (DOG, WALK))


def test_two_people_of_one_class_stay_two_however_near(prepare, tmp_path):
    hois = [hoi(1, [PERSON_BOX, NEAR], [BIKE], [[1, 1], [2, 1]])]
    prepare(write_mat(tmp_path / "a.mat", [("HICO_train2015_1.jpg", hois)]))
    (entry,) = written(tmp_path, "trainval")
    assert [box["bbox"] for box in entry["annotations"]] == [PERSON_BOX, BIKE, NEAR]


def test_test_images_keep_all_boxes_that_differ(prepare, tmp_path):
    hois = [
        hoi(1, [PERSON_BOX], [BIKE], [[1, 1]]),
        hoi(2, [NEAR], [BIKE], [[1, 1]]),
    ]
    train = [("HICO_train2015_00000001.jpg", hois)]
    mat = write_mat(tmp_path / "a.mat", train, [("HICO_test2015_00000001.jpg", hois)])
    assert prepare(mat)[0] == 0
    (entry,) = written(tmp_path, "test")
    assert [box["bbox"] for box in entry["annotations"]] == [PERSON_BOX, BIKE, NEAR]


def test_what_looks_wrong_is_told_line_by_line(prepare, tmp_path):
    hois = [
        hoi(1, [PERSON_BOX], [BIKE], [[1, 2]]),  # index past the end
        hoi(1, [PERSON_BOX], [BIKE], [[0, 1]]),
        hoi(9, [PERSON_BOX], [BIKE], [[1, 1]]),  # no such class
        hoi(1, [PERSON_BOX], [[9, 9, 5, 20]], [[1, 1]]),
        hoi(2, [PERSON_BOX], [[9, 9, 900, 20]], [[1, 1]]),
    ]
    train = [("HICO_train2015_1.jpg", hois), ("HICO_train2015_2.jpg", [])]
    status, printed, _ = prepare(write_mat(tmp_path / "a.mat", train))
    assert status == 0
    where = f"looks wrong: {tmp_path}/a.mat: bbox_train(1) 'HICO_train2015_1.jpg': "
    assert (
        f"{where}hoi(1): connection(1) is (1, 2), but there are 1 human and 1 object boxes; "
        "left out" in printed
    )
    assert f"{where}hoi(2): connection(1) is (0, 1), but" in printed
    assert f"{where}hoi(3): id 9 is not one of 1 to 3; left out" in printed
    assert "HICO_train2015_1.jpg: annotations[1] has bbox [9.0, 9.0, 5.0, 20.0], which" in printed
    assert "bbox [9.0, 9.0, 900.0, 20.0], the image has 640 x 480 pixels" in printed
    assert "5 entries look wrong" in printed
    assert "left out 1 of 2 training images, which have no annotated pair" in printed
    assert len(written(tmp_path, "trainval")[0]["hoi_annotation"]) == 2


def test_another_mat_file_is_refused(prepare, tmp_path):
    savemat(tmp_path / "anno.mat", {"anno_train": np.zeros((2, 2))})
    status, _, error = prepare(tmp_path / "anno.mat")
    assert status == 2
    assert f"error: {tmp_path}/anno.mat has no bbox_train; HICO-DET's boxes are in anno_bb" in error
    (tmp_path / "no.mat").write_bytes(b"not MATLAB's" * 40)
    assert "error: " in prepare(tmp_path / "no.mat")[2]
    mat = write_mat(tmp_path / "names.mat", [], actions=[("unicorn", "ride")])
    assert "list_action(1): 'unicorn' is none of HICO-DET's 80 objects" in prepare(mat)[2]
    assert "no such file" in prepare(tmp_path / "absent.mat")[2]
    assert not (tmp_path / "hico_det").exists()


# ---- QPIC's files --------------------------------------------------------------------------------
def write_json(path, document):
    path.write_text(json.dumps(document))
    return path


def qpic(split, *hois):
    keys = ("subject_id", "object_id", "category_id")
    return [
        {
            "file_name": f"HICO_{split}2015_00000001.jpg",
            "img_id": 1,
            "annotations": [
                {"bbox": PERSON_BOX, "category_id": 1},
                {"bbox": BIKE, "category_id": 2},
            ],
            "hoi_annotation": [dict(zip(keys, hoi, strict=True)) for hoi in hois],
        }
    ]


def test_qpics_own_files_are_checked_and_kept(prepare, tmp_path):
    train = write_json(
        tmp_path / "trainval_hico.json", qpic("train", (0, 1, RIDE + 1), (0, 2, 1), (0, 1, 118))
    )
    test = write_json(tmp_path / "test_hico.json", qpic("test", (0, 1, HOLD + 1)))
    table = np.zeros((117, 80))
    table[RIDE, BICYCLE] = table[HOLD, BICYCLE] = 1
    np.save(tmp_path / "corre_hico.npy", table)
    status, printed, _ = prepare(train, test, tmp_path / "corre_hico.npy")
    assert status == 0
    assert "hoi_annotation[1] has object_id 2, which is not -1 or an index of one of" in printed
    assert "hoi_annotation[2] has unknown category_id 118; the verbs of the set have" in printed
    assert "2 entries look wrong" in printed
    classes = read_classes(tmp_path / "hico_det" / "annotations" / "classes.json")
    assert classes.triplets == classes.rare_triplets == ((BICYCLE, HOLD), (BICYCLE, RIDE))
    trainval = tmp_path / "hico_det" / "annotations" / "trainval.json"
    assert read_interactions(trainval, classes)[0]["hois"] == [(0, 1, RIDE)]


def test_numbers_of_qpics_published_files_may_be_text(prepare, tmp_path):
    document = qpic("train", (0, 1, f"{RIDE + 1}\n"))
    document[0]["annotations"][1]["category_id"] = "2\n"
    assert prepare(write_json(tmp_path / "trainval_hico.json", document))[0] == 0
    (entry,) = written(tmp_path, "trainval")
    assert [box["category_id"] for box in entry["annotations"]] == [1, 2]
    hoi = {"subject_id": 0, "object_id": 1, "category_id": RIDE + 1}
    assert entry["hoi_annotation"] == [hoi]


def test_v_cocos_files_are_named(prepare, tmp_path):
    action = {"action_name": "hold", "role_name": ["agent"], "image_id": [1], "label": [1]}
    error = prepare(write_json(tmp_path / "vcoco_train.json", [action]))[2]
    assert "vcoco_train.json is V-COCO's, " in error and "convert_vcoco_annotations.py" in error
    document = qpic("train", (0, 1, 1))
    document[0]["file_name"] = "COCO_train2014_000000000009.jpg"
    error = prepare(write_json(tmp_path / "trainval_vcoco.json", document))[2]
    assert "neither all of train2015 nor all of test2015 by their names, first ['COCO_" in error
    assert "V-COCO's in this layout need no conversion" in error


def test_qpics_files_need_training_annotations_and_an_array_of_numbers(prepare, tmp_path):
    test = write_json(tmp_path / "test_hico.json", qpic("test", (0, 1, 1)))
    assert "rare follows from the training annotations" in prepare(test)[2]
    np.save(tmp_path / "pickled.npy", np.array([{"a": print}], dtype=object), allow_pickle=True)
    error = prepare(test, tmp_path / "pickled.npy")[2]
    assert "pickled.npy cannot be read as .npy: Object arrays" in error
    assert "holds test images, and so does another" in prepare(test, test)[2]

import pytest

from dropkey_core.engine import UserError
from projects.qpic.classes import read_classes
from projects.qpic.interaction_file import read_interactions


def read(paths):
    _, annotations, classes = paths
    return read_interactions(annotations, read_classes(classes))


def test_entries_become_indices_and_nothing_is_left_out(write_interactions):
    twice = [{"subject_id": 0, "object_id": 1, "category_id": 1}] * 2
    boxes = [
        {"bbox": [5, 6, 5, 36], "category_id": 1},  # no area
        {"bbox": [500, 10, float("nan"), 30], "category_id": 18},
    ]
    first, second = read(write_interactions(hoi_annotation=twice, annotations=boxes))
    assert first["hois"] == [(0, 1, 0), (0, 1, 0)]
    assert first["labels"] == [0, 1]
    assert first["boxes_xyxy"][0] == [5, 6, 5, 36]
    assert (first["image_id"], first["file_name"], first["height"]) == (0, "a.jpg", 40)
    nothing = {"boxes_xyxy": [], "labels": [], "hois": []}
    unknown = {"height": None, "width": None}
    assert second == {"file_name": "b.jpg", "image_id": 1, **unknown, **nothing}


def test_numbers_are_read_as_qpics_files_have_them_and_counted_once(write_interactions, caplog):
    paths = write_interactions(
        annotations=[{"bbox": [5, "6", 25.0, 36], "category_id": "1\n"},
                     {"bbox": [1, 1, 9, 9], "category_id": 18.0}],
        hoi_annotation=[{"subject_id": "0", "object_id": 1.0, "category_id": "2\n"}],
    )  # fmt: skip
    record = read(paths)[0]
    assert (record["boxes_xyxy"][0], record["labels"]) == ([5, 6, 25, 36], [0, 1])
    assert record["hois"] == [(0, 1, 1)]
    (warning,) = caplog.records
    assert warning.getMessage() == (
        f"{paths[1]}: read as what it can only mean: 1 times bbox ('6'), "
        "3 times category_id ('1\\n'), 1 times subject_id ('0'), 1 times object_id (1.0)"
    )


@pytest.mark.parametrize("left_out", ["hoi_annotation", "annotations"])
def test_images_may_have_no_interactions_and_no_boxes(write_interactions, left_out):
    entry = {"file_name": "a.jpg", "annotations": [{"bbox": [1, 1, 9, 9], "category_id": 18}]}
    entry = {key: value for key, value in entry.items() if key != left_out}
    (record,) = read(write_interactions(images=[entry]))
    assert record["hois"] == []
    assert record["labels"] == ([] if left_out == "annotations" else [1])


def test_v_cocos_own_files_are_named_with_their_converter(write_interactions):
    action = {"action_name": "hold", "role_name": ["agent", "obj"], "image_id": [1], "label": [1]}
    paths = write_interactions(images=[action])
    with pytest.raises(UserError, match=f"^{paths[1]} is V-COCO's, .*convert_vcoco_annotations.py"):
        read(paths)


def one_hoi(subject, object_, verb):
    return {"hoi_annotation": [{"subject_id": subject, "object_id": object_, "category_id": verb}]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (one_hoi(3, 1, 1), r"hoi_annotation\[0\] has subject_id 3, .* the image's 3 boxes"),
        (one_hoi(-1, 1, 1), r"hoi_annotation\[0\] has subject_id -1"),
        (one_hoi(0, 3, 1), r"has object_id 3, which is not -1 or an index of .* 3 boxes"),
        (one_hoi(0, -2, 1), "has object_id -2"),
        (one_hoi(0, 1, 4), "has unknown category_id 4; the verbs of the set have ids 1, 2, 3"),
        (
            {"annotations": [{"bbox": [1, 2, 3, 4], "category_id": 2}]},
            r"annotations\[0\] has unknown category_id 2; the objects of the set have ids 1, 18",
        ),
    ],
)
def test_what_is_wrong_names_file_image_and_entry(write_interactions, changes, message):
    paths = write_interactions(**changes)
    with pytest.raises(UserError, match=message) as error:
        read(paths)
    assert str(error.value).startswith(f"{paths[1]}: image [0] 'a.jpg': ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (one_hoi(0, True, 1), r"got `bool` - at `\$\[0\]\.hoi_annotation\[0\]\.object_id`"),
        ({"annotations": [{"bbox": [1, 2, 3], "category_id": 1}]}, r"length >= 4 - .*\.bbox`"),
        ({"height": -1}, r"`int` >= 0 - at `\$\[0\]\.height`"),
        ({"images": {"images": []}}, "Expected `array`, got `object`"),
        ({"images": []}, "Expected `array` of length >= 1"),
    ],
)
def test_another_structure_names_file_and_place(write_interactions, changes, message):
    paths = write_interactions(**changes)
    with pytest.raises(UserError, match=f"^{paths[1]}: .*{message}$"):
        read(paths)

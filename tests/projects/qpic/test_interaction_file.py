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
    assert second == {"file_name": "b.jpg", "image_id": 1, **nothing}


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
        ({"height": 0}, r"`int` >= 1 - at `\$\[0\]\.height`"),
        ({"height": None}, r"Only one of `height` and `width` - at `\$\[0\]`"),
        ({"images": {"images": []}}, "Expected `array`, got `object`"),
        ({"images": []}, "Expected `array` of length >= 1"),
    ],
)
def test_another_structure_names_file_and_place(write_interactions, changes, message):
    paths = write_interactions(**changes)
    with pytest.raises(UserError, match=f"^{paths[1]}: .*{message}$"):
        read(paths)

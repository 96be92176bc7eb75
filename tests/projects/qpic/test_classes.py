import os

import pytest

from dropkey_core.engine import UserError
from projects.qpic import load_hico_det, num_object_classes, num_verb_classes
from projects.qpic.classes import read_classes


def test_classes_are_read_with_what_follows_from_them(write_interactions):
    classes = read_classes(write_interactions()[2])
    assert classes.object_names == ("person", "dog")
    assert [entry.id for entry in classes.objects] == [1, 18]
    assert classes.verb_names == ("hug", "wash", "wave")
    assert [entry.id for entry in classes.verbs] == [1, 2, 3]
    assert classes.person == 0
    assert classes.non_rare_triplets == ((1, 0),)
    # hug and wash go with a dog, waving with nothing
    assert classes.validity().tolist() == [[False, True], [False, True], [False, False]]


def test_numbers_of_classes_follow_the_file_even_when_it_changes(write_interactions):
    path = write_interactions()[2]
    assert (num_object_classes(path), num_verb_classes(path)) == (2, 3)
    write_interactions({"verbs": [{"id": 4, "name": "hug"}, {"id": 2, "name": "wash"}]})
    os.utime(path, ns=(1, 1))
    assert num_verb_classes(str(path)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objects": []}, r"length >= 1 - at `\$\.objects`"),
        ({"verbs": [{"id": 1}]}, r"missing required field `name` - at `\$\.verbs\[0\]`"),
        ({"objects": [{"id": 1, "name": "dog"}]}, 'none of the objects is called "person"'),
        ({"verbs": [{"id": 1, "name": n} for n in "ab"]}, "verbs has id 1 2 times"),
        ({"verbs": [{"id": n, "name": "a"} for n in (1, 2)]}, "verbs has name 'a' 2 times"),
        ({"triplets": [[2, 0]]}, r"triplets\[0\] is \[2, 0\], .* an object below 2 and a verb"),
        ({"triplets": [[1, -1]]}, r"`int` >= 0 - at `\$\.triplets\[0\]\[1\]`"),
        ({"triplets": [[1, 0], [1, 0]]}, r"the file has triplet \(1, 0\) 2 times"),
        ({"rare_triplets": [[0, 0]]}, r"\[0, 0\] of rare_triplets is not among the triplets"),
    ],
)
def test_what_is_wrong_is_one_line(write_interactions, changes, message):
    path = write_interactions(changes)[2]
    with pytest.raises(UserError, match=message) as error:
        read_classes(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_missing_files_are_reported_under_their_own_settings(write_interactions):
    images, annotations, classes = write_interactions()
    annotations.unlink()
    wanted = f"^annotation file not found: {annotations} .set by dataset.train.annotations or "
    with pytest.raises(UserError, match=wanted):
        load_hico_det(images, annotations, classes)
    classes.unlink()
    wanted = f"^file of classes not found: {classes} .set by dataset.classes, .*prepare_hico_det.py"
    with pytest.raises(UserError, match=wanted):
        load_hico_det(images, annotations, classes)

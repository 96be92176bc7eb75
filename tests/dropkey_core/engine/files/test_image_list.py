import pytest

from dropkey_core.engine import UserError
from dropkey_core.engine.files.image_list import find_images, spread, unique_stems


def test_images_are_those_named_and_those_in_folders_by_name(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "deeper").mkdir()
    single = tmp_path / "deeper" / "c"
    single.touch()
    assert find_images([str(single), str(tmp_path)]) == [
        single,
        tmp_path / "a.png",
        tmp_path / "b.JPG",
    ]


@pytest.mark.parametrize(("place", "message"), [("no", "no file or folder"), ("", "no images in")])
def test_nothing_to_show_is_one_line(tmp_path, place, message):
    with pytest.raises(UserError, match=message):
        find_images([str(tmp_path / place)])


def test_images_are_spread_over_the_set():
    assert spread(range(10), 3) == [0, 3, 6]
    assert spread(range(2), 16) == [0, 1]


def test_names_that_occur_again_are_numbered():
    assert unique_stems(["x/a.png", "b.png", "y/a.jpg", "a_2.png"]) == ["a", "b", "a_2", "a_2_2"]

import json

import pytest
from PIL import Image

from projects.detr import load_coco


@pytest.fixture
def convert(load_script, tmp_path, capsys):
    """Converts labels of an image of 40 x 20 pixels and of one that has none."""
    script = load_script("datasets/convert_yolo")
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (40, 20)).save(tmp_path / "images" / name)
    (tmp_path / "labels").mkdir()

    def run(labels, names="names: {0: cat, 1: dog}", file="data.yaml"):
        (tmp_path / "labels" / "a.txt").write_text(labels)
        (tmp_path / file).write_text(names)
        paths = [tmp_path / name for name in ("images", "labels", file, "out.json")]
        return script.main([*map(str, paths)]), capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("names", "file"),
    [
        ("names: [cat, dog]", "a.yaml"),
        ("names: {0: cat, 1: dog}", "b.yml"),
        ("cat\ndog\n", "c.txt"),
    ],
)
def test_boxes_and_outlines_become_boxes_in_pixels(convert, tmp_path, names, file):
    labels = "1 0.5 0.5 0.25 0.5\n\n0 0.1 0.2 0.6 0.2 0.3 0.7\n"
    assert convert(labels, names, file) == (0, "")
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["categories"] == [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    first, second = load_coco(tmp_path / "images", tmp_path / "out.json")
    assert [box["category_id"] for box in first["annotations"]] == [1, 0]
    assert first["annotations"][0]["bbox"] == pytest.approx([15, 5, 10, 10])
    assert first["annotations"][1]["bbox"] == pytest.approx([4, 4, 20, 10])
    assert second["annotations"] == []


@pytest.mark.parametrize(
    "line", ["2 0.5 0.5 0.1 0.1", "0 0.5 0.5 0.1 0.1 0.9", "0 a b c d", "0.5 1 1 1 1"]
)
def test_other_lines_are_refused_with_their_place(convert, tmp_path, line):
    status, error = convert(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    assert status == 2
    wanted = f"{tmp_path}/labels/a.txt, line 2 cannot be read as a box of one of 2 classes"
    assert wanted in error
    assert not (tmp_path / "out.json").exists()


def test_labels_of_other_images_are_refused(convert, tmp_path):
    (tmp_path / "images" / "a.jpg").rename(tmp_path / "images" / "c.jpg")
    status, error = convert("1 0.5 0.5 0.25 0.5\n")
    wanted = (
        f"{tmp_path}/labels has labels of none of the 2 images in {tmp_path}/images, such as b.txt"
    )
    assert (status, wanted in error) == (2, True)
    assert not (tmp_path / "out.json").exists()


def test_images_without_labels_are_counted(load_script, tmp_path, capsys):
    script = load_script("datasets/convert_yolo")
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (40, 20)).save(tmp_path / name)
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    (tmp_path / "names.yaml").write_text("names: [cat]")
    paths = [str(tmp_path / name) for name in ("", "", "names.yaml", "out.json")]
    assert script.main(paths) == 0
    said = "out.json: 2 images, 1 of them without a file of labels, 1 boxes\n"
    assert capsys.readouterr().out.endswith(said)


def test_a_file_without_names_is_refused(convert, tmp_path):
    status, error = convert("", "path: x")
    assert (status, f"{tmp_path}/data.yaml cannot be read as names of classes" in error) == (
        2,
        True,
    )

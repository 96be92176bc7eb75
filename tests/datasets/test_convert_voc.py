import json
import re

import cv2
import numpy as np
import pytest

from projects.detr import load_coco, num_classes

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"""


def voc_object(*corners, name="cell", difficult=0):
    return OBJECT.format(*corners, name=name, difficult=difficult)


def voc(*objects, width=60, height=40):
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>wrong.png</filename>{size}{''.join(objects)}</annotation>"


@pytest.fixture
def convert_voc(load_script):
    return load_script("datasets/convert_voc")


@pytest.fixture
def folder(tmp_path):
    """A VOC folder of three images, one of them without objects, in two splits."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / "voc" / name).mkdir(parents=True)
    folder = tmp_path / "voc"
    annotations = {
        "a": voc(voc_object(10, 20, 30, 35, name="dog"), voc_object(1, 2, 1.5, 9, difficult=1)),
        "b": voc(voc_object(5, 5, 5, 8), voc_object(9, 8, 9, 8), voc_object(0, 0, 60, 40)),
        "c": voc(),
    }
    for name, text in annotations.items():
        (folder / "Annotations" / f"{name}.xml").write_text(text)
        suffix = ".PNG" if name == "c" else ".jpg"
        assert cv2.imwrite(
            str(folder / "JPEGImages" / f"{name}{suffix}"), np.zeros((40, 60, 3), np.uint8)
        )
    (folder / "ImageSets/Main/train.txt").write_text("b\nc\n")
    (folder / "ImageSets/Main/val.txt").write_text("a  1\n\n")
    return folder


def boxes(path):
    annotations = json.loads(path.read_text())["annotations"]
    return [
        (item["image_id"], item["category_id"], item["bbox"], item["area"], item["iscrowd"])
        for item in annotations
    ]


def test_splits_become_files_that_can_be_trained_on(convert_voc, folder, tmp_path, capsys):
    output = tmp_path / "out"
    assert convert_voc.main([str(folder), "--output", str(output)]) == 0
    assert sorted(path.name for path in output.iterdir()) == ["train.json", "val.json"]
    assert boxes(output / "val.json") == [
        (1, 2, [10, 20, 20, 15], 300, 0),
        (1, 1, [1, 2, 0.5, 7], 3.5, 1),
    ]
    assert boxes(output / "train.json") == [(1, 1, [0, 0, 60, 40], 2400, 0)]
    said = capsys.readouterr().out
    assert "train.json: 2 images, 1 boxes of 2 classes; left out 2 boxes without area" in said
    records = load_coco(folder / "JPEGImages", output / "train.json")
    assert [len(record["annotations"]) for record in records] == [1, 0]
    assert records[1]["file_name"].endswith("c.PNG")
    assert num_classes(output / "train.json") == num_classes(output / "val.json") == 2


def test_vocs_own_pixels_count_from_one_with_both_ends(convert_voc, folder, tmp_path):
    assert convert_voc.main([str(folder), "--output", str(tmp_path), "--devkit"]) == 0
    assert boxes(tmp_path / "val.json")[0][2] == [9, 19, 21, 16]
    assert [box for _, _, box, _, _ in boxes(tmp_path / "train.json")[:2]] == [
        [4, 4, 1, 4],
        [8, 7, 1, 1],
    ]


def test_classes_may_be_put_in_order(convert_voc, folder, capsys):
    assert convert_voc.main([str(folder), "--classes", "dog", "cell"]) == 0
    assert [box[1] for box in boxes(folder / "val.json")] == [1, 2]
    assert convert_voc.main([str(folder), "--classes", "dog"]) == 2
    assert "has classes that were not named: cell" in capsys.readouterr().err


def test_a_set_without_objects_is_refused(convert_voc, folder, capsys):
    for path in (folder / "Annotations").iterdir():
        path.write_text(voc())
    for named in ([], ["--classes", "dog"]):
        assert convert_voc.main([str(folder), *named]) == 2
        assert f"error: {folder} has no object on any image" in capsys.readouterr().err


def test_without_lists_all_annotations_are_one_split(convert_voc, folder):
    for path in (folder / "ImageSets/Main").iterdir():
        path.unlink()
    assert convert_voc.main([str(folder)]) == 0
    assert len(json.loads((folder / "all.json").read_text())["images"]) == 3


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB + voc(voc_object(1, 1, 2, 2, name="&c;")), "has a document type"),
        (OUTSIDE + voc(voc_object(1, 1, 2, 2, name="&b;")), "has a document type"),
        ("<annotation>" + "<a>" * 30, "has elements 21 deep, 20 are allowed"),
        ("", "cannot be read as XML: no element found"),
        (voc()[:-5], "cannot be read as XML: no element found|unclosed token"),
        (voc(voc_object(1, 1, 2, 2, name="&b;")), "cannot be read as XML: undefined entity"),
        ('<?xml version="1.0" encoding="no-such"?>' + voc(), "cannot be read as XML: unknown"),
        ("<html></html>", "begins with <'?html'?>, VOC's with <annotation>"),
        ("<annotation></annotation>", "<size/width> must be a number, got"),
        (voc(width=0), "size must be whole pixels, 1 or more, got 0 x 40"),
        (voc(width=60.5), "size must be whole pixels, 1 or more, got 60.5 x 40"),
        (voc(voc_object("x", 1, 2, 2)), "<bndbox/xmin> must be a number, got '?x"),
        (voc(voc_object(1, 1, "1e999", 2)), "<bndbox/xmax> must be a number, got '?1e999"),
        (voc(voc_object(1, "nan", 3, 2)), "<bndbox/ymin> must be a number, got '?nan"),
        (voc("<object></object>"), "an object has no <name>"),
    ],
)
def test_a_bad_annotation_ends_with_one_line_that_names_it(
    convert_voc, folder, capsys, text, message
):
    (folder / "Annotations/a.xml").write_text(text)
    assert convert_voc.main([str(folder)]) == 2
    said = capsys.readouterr().err
    assert re.search(rf"a\.xml:? .*{message}", said), said
    assert len(said.splitlines()) == 1
    assert not (folder / "train.json").exists()  # all is read before anything is written


VAL = "ImageSets/Main/val.txt"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("JPEGImages/a.jpg", None, "no image '?a'? in .*JPEGImages"),
        ("Annotations/a.xml", None, r"Annotations/a\.xml cannot be read: No such file"),
        (VAL, "../../secret\n", r"secret\.xml leads to .*, which is neither in"),
        (VAL, "a\na\n", r"val\.txt names '?a'? more than once"),
        (VAL, "\n", r"val\.txt names no image"),
    ],
)
def test_a_set_that_does_not_fit_together(convert_voc, folder, capsys, name, content, message):
    (folder / name).unlink() if content is None else (folder / name).write_text(content)
    assert convert_voc.main([str(folder)]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert len(said.splitlines()) == 1


def test_no_voc_folder(convert_voc, tmp_path, capsys):
    assert convert_voc.main([str(tmp_path)]) == 2
    assert "is no VOC folder: no Annotations/*.xml in it" in capsys.readouterr().err

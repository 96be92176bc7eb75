import json

import pytest

from dropkey_core.engine import UserError
from projects.detr.annotation_file import read_annotation_file

CATEGORIES = [{"id": 7, "name": "ship"}]
IMAGE = {"id": 11, "file_name": "a.jpg", "height": 40, "width": 60}
ANNOTATION = {"id": 1, "image_id": 11, "category_id": 7, "bbox": [5, 6, 20, 10]}


def annotation(**changes):
    return [{**ANNOTATION, **changes}]


def test_segmentations_are_dropped_and_the_rest_is_kept(write_coco):
    _, path = write_coco(annotations=annotation(segmentation=[[1, 2, 3, 4, 5, 6]], area=3.5))
    assert read_annotation_file(path)["annotations"] == annotation(area=3.5)


def test_relative_path_starts_at_the_dataset_root(write_coco, monkeypatch):
    _, path = write_coco()
    monkeypatch.setenv("DROPKEY_DATASETS", str(path.parent))
    assert read_annotation_file(path.name) == json.loads(path.read_text())


def test_missing_file_names_path_setting_and_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("DROPKEY_DATASETS", str(tmp_path))
    wanted = (
        rf"not found: {tmp_path}/coco/x\.json \(set by dataset\.train\.annotations or .*"
        rf"DROPKEY_DATASETS, now {tmp_path}\).*datasets/prepare_coco\.py"
    )
    with pytest.raises(UserError, match=wanted):
        read_annotation_file("coco/x.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"images": [\n  1,\n  ?]}', r"not valid JSON: Expecting value \(line 3, column 3\)"),
        (b'{"images": [', "not valid JSON"),
        (b"\xff\xfe\x00", "is not a text file"),
        (b"[1, 2]", "not in COCO format: it holds a list, not an object"),
        (b"{}", "not in COCO format: it has no list 'categories'"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "annotations.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_annotation_file(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": {}}, "has no list 'images'"),
        ({"images": [], "annotations": []}, "has no images"),
        ({"categories": [], "annotations": []}, "has no categories"),
        ({"images": [IMAGE, 3]}, r"images\[1\] is not an object but 3"),
        ({"images": [{**IMAGE, "id": "11"}]}, r"images\[0\] has id '11', .*not of type int"),
        ({"images": [{**IMAGE, "id": True}]}, r"images\[0\] has id True, .*not of type int"),
        ({"images": [{**IMAGE, "height": 0}]}, r"images\[0\] has height 0 and width 60"),
        ({"images": [{"id": 1}]}, r"images\[0\] has no 'file_name'"),
        ({"images": [IMAGE, IMAGE]}, "images has id 11 twice"),
        ({"categories": CATEGORIES * 2}, "categories has id 7 twice"),
        ({"annotations": annotation() * 2}, "annotations has id 1 twice"),
        (
            {"annotations": annotation(category_id=9)},
            "annotation 1 has unknown category_id 9;.* 2, 7",
        ),
        ({"annotations": annotation(image_id=9)}, "annotation 1 has unknown image_id 9;.* 5, 11"),
        ({"annotations": annotation(bbox=[1, 2, 3])}, r"annotations\[0\] has bbox \[1, 2, 3\]"),
        ({"annotations": annotation(bbox=[1, 2, 3, "4"])}, r"annotations\[0\] has bbox .*'4'"),
        ({"annotations": annotation(iscrowd=2)}, r"annotations\[0\] has iscrowd 2, allowed are 0"),
    ],
)
def test_unsound_content_is_refused_in_one_line(write_coco, changes, message):
    _, path = write_coco(**changes)
    with pytest.raises(UserError, match=message) as error:
        read_annotation_file(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [{**IMAGE, "width": 10**30}]}, r"images\[0\] has width 10+, .* beyond 2\^53"),
        (
            {"annotations": annotation(bbox=[10**400, 0, 1, 1])},
            r"has bbox \[10+\.\.\.0+, 0",
        ),
        ({"images": [{**IMAGE, "file_name": "\ud800.jpg"}]}, "file_name .*no text in UTF-8"),
        ({"annotations": annotation(iscrowd="x" * 10**6)}, "has iscrowd 'x+...x+', allowed"),
    ],
)
def test_values_beyond_all_measure_are_refused_in_a_short_line(write_coco, changes, message):
    _, path = write_coco(**changes)
    with pytest.raises(UserError, match=message) as error:
        read_annotation_file(path)
    assert len(str(error.value)) < 400

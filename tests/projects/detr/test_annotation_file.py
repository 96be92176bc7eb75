import json
import logging

import msgspec
import pytest

from dropkey_core.engine import UserError
from dropkey_core.engine.paths import PROJECT_ROOT
from projects.detr.annotation_file import Annotation, Category, Image, read_annotation_file

CATEGORIES = [{"id": 7, "name": "ship"}]
IMAGE = {"id": 11, "file_name": "a.jpg", "height": 40, "width": 60}
ANNOTATION = {"id": 1, "image_id": 11, "category_id": 7, "bbox": [5, 6, 20, 10]}


def annotation(**changes):
    return [{**ANNOTATION, **changes}]


def test_segmentations_are_dropped_and_the_rest_is_kept(write_coco):
    _, path = write_coco(annotations=annotation(segmentation=[[1, 2, 3, 4, 5, 6]], area=3.5))
    assert read_annotation_file(path).annotations == [Annotation(11, 7, [5, 6, 20, 10], 0, 3.5)]


@pytest.mark.parametrize("iscrowd", [True, 1, 1.0])
def test_what_tools_write_is_read(write_coco, iscrowd):
    """Flags as true or 1.0, NaN and Infinity, a mark of byte order, keys of their own."""
    nan, inf = float("nan"), float("inf")
    changes = {"iscrowd": iscrowd, "bbox": [nan, -inf, 2.5, 1], "keypoints": None}
    _, path = write_coco(annotations=annotation(**changes), info={"year": 2017})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (found,) = read_annotation_file(path).annotations
    assert found.iscrowd == 1
    assert str(found.bbox) == "[nan, -inf, 2.5, 1]"
    assert found.area is None


def test_a_file_is_parsed_once_until_it_changes(write_coco, monkeypatch):
    _, path = write_coco()
    first = read_annotation_file(path)
    assert read_annotation_file(str(path)) is first
    write_coco(annotations=[])
    assert read_annotation_file(path).annotations == []


def test_relative_path_starts_at_the_dataset_root(write_coco, monkeypatch):
    _, path = write_coco()
    monkeypatch.setenv("DROPKEY_DATASETS", str(path.parent))
    images = json.loads(path.read_text())["images"]
    assert msgspec.to_builtins(read_annotation_file(path.name).images) == images


def test_missing_file_names_path_setting_and_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("DROPKEY_DATASETS", str(tmp_path))
    wanted = (
        rf"not found: {tmp_path}/coco/x\.json \(set by dataset\.train\.annotations or .*"
        rf"DROPKEY_DATASETS, now {tmp_path}\).*datasets/prepare_coco\.py"
    )
    with pytest.raises(UserError, match=wanted):
        read_annotation_file("coco/x.json")


@pytest.mark.parametrize("number", [7.0, "7", "7\n"])
def test_numbers_are_read_as_tools_write_them_and_counted_once(write_coco, caplog, number):
    _, path = write_coco(
        categories=[{"id": number, "name": "ship"}],
        images=[{**IMAGE, "height": "40", "width": 60.0}],
        annotations=annotation(category_id=number, bbox=["5", 6.0, "20.5", 10], iscrowd=None),
    )
    with caplog.at_level(logging.WARNING):
        document = read_annotation_file(path)
    assert document.annotations == [Annotation(11, 7, [5, 6, 20.5, 10])]
    assert document.categories == [Category(7, "ship")]
    assert document.images == [Image(11, "a.jpg", 40, 60)]
    (warning,) = caplog.records
    assert warning.getMessage().startswith(f"{path}: read as what it can only mean: 1 times id (")
    assert "2 times bbox ('5'), 1 times iscrowd (None)" in warning.getMessage()


@pytest.mark.parametrize("ids", [(1, 1), (None, "a"), ("7", 7.5)])
def test_ids_of_annotations_are_asked_for_by_nobody(write_coco, ids, caplog):
    _, path = write_coco(annotations=[annotation(id=number)[0] for number in ids])
    assert read_annotation_file(path).annotations == [Annotation(11, 7, [5, 6, 20, 10])] * 2
    assert not caplog.records


@pytest.mark.parametrize("area", [0, None, "big", -3, [1]])
def test_an_area_may_be_anything(write_coco, area):
    _, path = write_coco(annotations=annotation(area=area))
    assert read_annotation_file(path).annotations[0].area == area


@pytest.mark.parametrize("annotations", [None, "left out"])
def test_a_file_may_have_no_annotations(write_coco, annotations):
    _, path = write_coco(annotations=None)
    if annotations:
        document = json.loads(path.read_text())
        del document["annotations"]
        path.write_text(json.dumps(document))
    assert read_annotation_file(path).annotations == []


@pytest.mark.parametrize(
    ("inside", "file", "whose", "script"),
    [
        ("Annotations/1.xml", "", "PASCAL VOC's", "convert_voc.py"),
        ("1.xml", "", "PASCAL VOC's", "convert_voc.py"),
        ("1.xml", "1.xml", "PASCAL VOC's", "convert_voc.py"),
        ("labels/1.txt", "", "YOLO's", "convert_yolo.py"),
        ("labels/train/1.txt", "labels", "YOLO's", "convert_yolo.py"),
        ("data.yaml", "data.yaml", "YOLO's", "convert_yolo.py"),
    ],
)
def test_what_other_tools_write_is_named_with_its_converter(tmp_path, inside, file, whose, script):
    (tmp_path / inside).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / inside).write_text("0 0.5 0.5 0.1 0.1")
    path = str(tmp_path / file).rstrip("/")
    wanted = f"^{path} is {whose}, which is not read here: python datasets/{script} --help says"
    with pytest.raises(UserError, match=wanted):
        read_annotation_file(path)
    assert (PROJECT_ROOT / "datasets" / script).is_file()


@pytest.mark.parametrize("content", [b'{"info": ' + b"[" * 100_000, b'"\\ud800"', b"[1, 2]", b"{}"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "annotations.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path}"):
        read_annotation_file(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [], "annotations": []}, r"length >= 1 - at `\$\.images`"),
        ({"categories": [], "annotations": []}, r"length >= 1 - at `\$\.categories`"),
        ({"images": [{**IMAGE, "id": True}]}, r"`int`, got `bool` - at `\$\.images\[0\]\.id`"),
        ({"images": [{**IMAGE, "height": -1}]}, r"`int` >= 0 - at `\$\.images\[0\]\.height`"),
        ({"images": [IMAGE, IMAGE]}, "images has id 11 2 times"),
        ({"categories": CATEGORIES * 2}, "categories has id 7 2 times"),
        ({"annotations": annotation(category_id=9)}, r"\[0\] has unknown category_id 9;.* 2, 7"),
        ({"annotations": annotation(image_id=9)}, r"\[0\] has unknown image_id 9;.* 5, 11"),
        ({"annotations": annotation(bbox=[1, 2, 3])}, r"length >= 4 - at .*\[0\]\.bbox`"),
        ({"annotations": annotation(iscrowd=2)}, r"`float` <= 1\.0 - at .*\[0\]\.iscrowd`"),
        ({"annotations": annotation(iscrowd=0.5)}, r"multiple of 1\.0 - at .*\[0\]\.iscrowd`"),
        ({"images": [{**IMAGE, "width": 10**30}]}, r"`int` <= 9007199254740992 - at .*\.width`"),
        ({"annotations": annotation(bbox=[10**400, 0, 1, 1])}, r"`int` <= .* - at .*\.bbox\[0\]`"),
        ({"images": [{**IMAGE, "file_name": "\ud800.jpg"}]}, r"matching regex .*\.file_name`"),
        ({"images": [{**IMAGE, "file_name": "a\0.jpg"}]}, r"matching regex .*\.file_name`"),
    ],
)
def test_unsound_content_is_refused_in_one_short_line(write_coco, changes, message):
    _, path = write_coco(**changes)
    with pytest.raises(UserError, match=f"^{path}.*{message}") as error:
        read_annotation_file(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400

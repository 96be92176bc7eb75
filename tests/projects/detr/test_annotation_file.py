import json

import msgspec
import pytest

from dropkey_core.engine import UserError
from projects.detr.annotation_file import Annotation, read_annotation_file

CATEGORIES = [{"id": 7, "name": "ship"}]
IMAGE = {"id": 11, "file_name": "a.jpg", "height": 40, "width": 60}
ANNOTATION = {"id": 1, "image_id": 11, "category_id": 7, "bbox": [5, 6, 20, 10]}


def annotation(**changes):
    return [{**ANNOTATION, **changes}]


def test_segmentations_are_dropped_and_the_rest_is_kept(write_coco):
    _, path = write_coco(annotations=annotation(segmentation=[[1, 2, 3, 4, 5, 6]], area=3.5))
    assert read_annotation_file(path).annotations == [Annotation(1, 11, 7, [5, 6, 20, 10], 0, 3.5)]


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
        ({"images": [{**IMAGE, "height": 0}]}, r"`int` >= 1 - at `\$\.images\[0\]\.height`"),
        ({"images": [IMAGE, IMAGE]}, "images has id 11 2 times"),
        ({"categories": CATEGORIES * 2}, "categories has id 7 2 times"),
        ({"annotations": annotation() * 2}, "annotations has id 1 2 times"),
        ({"annotations": annotation(category_id=9)}, "1 has unknown category_id 9;.* 2, 7"),
        ({"annotations": annotation(image_id=9)}, "1 has unknown image_id 9;.* 5, 11"),
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

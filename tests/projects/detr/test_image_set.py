"""The same for sets of objects and of interactions."""

import json
import logging
from pathlib import Path

import pytest
import torch
from PIL import Image

from dropkey_core.engine import UserError
from projects.detr import DetrMapper, load_coco
from projects.qpic import QpicMapper, load_hico_det

CLASSES = {
    "objects": [{"id": 1, "name": "person"}],
    "verbs": [{"id": 1, "name": "wave"}],
    "triplets": [[0, 0]],
    "rare_triplets": [],
}


@pytest.fixture(params=["coco", "interactions"])
def load(request, tmp_path):
    """Writes a set of images, each with the box (2, 4)-(10, 8), and loads it.

    Takes by file name the entry's size (height, width) and the keywords of the loader.
    """
    folder = tmp_path / "set"
    folder.mkdir(exist_ok=True)
    path = tmp_path / "set.json"

    def write_and_load(entries, box=(2, 4, 10, 8), **options):
        entries = {
            name: dict(zip(("height", "width"), size, strict=False))
            for name, size in entries.items()
        }
        if request.param == "coco":
            x1, y1, x2, y2 = box
            document = {
                "categories": [{"id": 1, "name": "person"}],
                "images": [
                    {"id": n, "file_name": name, **size}
                    for n, (name, size) in enumerate(entries.items())
                ],
                "annotations": [
                    {"image_id": n, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
                    for n in range(len(entries))
                ],
            }
            path.write_text(json.dumps(document))
            return load_coco(folder, path, **options)
        person = {"bbox": list(box), "category_id": 1}
        hoi = {"subject_id": 0, "object_id": -1, "category_id": 1}
        document = [
            {"file_name": name, **size, "annotations": [person], "hoi_annotation": [hoi]}
            for name, size in entries.items()
        ]
        path.write_text(json.dumps(document))
        (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
        return load_hico_det(folder, path, tmp_path / "classes.json", **options)

    write_and_load.folder = folder
    write_and_load.path = path
    return write_and_load


def write(path, size, orientation=1):
    """An image (width, height) with a white rectangle at (2, 4)-(10, 8), as it is stored."""
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), (2, 4, 10, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(exist_ok=True)
    image.save(path, exif=exif)


def told(caplog, loading):
    """What one warning tells while a set is loaded, and the set."""
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        records = loading()
    return " ".join(entry.getMessage() for entry in caplog.records), records


def mapped(record, training):
    """A record's sample without augmentation."""
    settings = {"min_sizes": [40], "max_size": 80, "crop_probability": 0.0, "flip_probability": 0.0}
    if "hois" in record:
        return QpicMapper(training, 1, 1, colour_jitter=0.0, **settings)(record)
    return DetrMapper(training, **settings)(record)


def box_of(sample):
    return sample["sub_boxes_cxcywh" if "sub_boxes_cxcywh" in sample else "boxes_cxcywh"]


def test_images_of_other_sizes_are_told_at_once_before_any_is_read(load):
    for name, size in {"a.png": (20, 10), "b.png": (20, 10), "c.png": (40, 20)}.items():
        write(load.folder / name, size)
    wanted = (
        rf"2 of the 3 images in {load.path} have another size than their entries, first: "
        rf"{load.folder}/b.png has 20 x 10 pixels \(width x height\), its entry 40 x 20; set .*"
        "size_mismatch .* file if .*, to resize if"
    )
    with pytest.raises(UserError, match=wanted):
        load({"a.png": (10, 20), "b.png": (20, 40), "c.png": (10, 20)})


@pytest.mark.parametrize(
    ("size_mismatch", "size", "share"),
    [("file", (10, 20), [0.3, 0.6, 0.4, 0.4]), ("resize", (20, 40), [0.15, 0.3, 0.2, 0.2])],
)
def test_boxes_belong_to_the_file_or_to_the_entrys_size(load, caplog, size_mismatch, size, share):
    write(load.folder / "a.png", (20, 10))
    entries = {"a.png": (20, 40)}
    message, (record,) = told(caplog, lambda: load(entries, size_mismatch=size_mismatch))
    assert f"1 of the 1 images in {load.path} have another size" in message
    assert f"(size_mismatch={size_mismatch})" in message
    training, testing = mapped(record, True), mapped(record, False)
    for sample in (training, testing):
        assert (sample["height"], sample["width"]) == size  # which predictions are in pixels of
        torch.testing.assert_close(sample["image"], training["image"])
    torch.testing.assert_close(box_of(training), torch.tensor([share]))


@pytest.mark.parametrize("size", [(), (None, None), (0, 0), (None, 20)])
def test_a_size_that_is_not_said_is_read_from_the_image(load, caplog, size):
    write(load.folder / "a.png", (20, 10))
    message, (record,) = told(caplog, lambda: load({"a.png": size}))
    assert (record["height"], record["width"]) == (10, 20)
    assert not message
    torch.testing.assert_close(box_of(mapped(record, True)), torch.tensor([[0.3, 0.6, 0.4, 0.4]]))


@pytest.mark.parametrize(
    ("stored", "orientation", "size", "note"),
    [
        ((20, 10), 6, (20, 10), ""),  # annotated upright
        ((20, 10), 6, (None, None), ""),
        ((20, 10), 6, (10, 20), "1 images are annotated as they are stored"),
        ((20, 10), 3, (10, 20), "1 images are turned as EXIF says"),
        ((20, 20), 8, (20, 20), "1 images are turned as EXIF says"),
    ],
)
def test_exif_is_followed_alike_in_training_and_testing(
    load, caplog, stored, orientation, size, note
):
    write(load.folder / "a.png", stored, orientation)
    message, (record,) = told(caplog, lambda: load({"a.png": size}, box=(1, 1, 9, 9)))
    assert note in message and bool(note) == bool(message)
    training, testing = mapped(record, True), mapped(record, False)
    assert torch.equal(training["image"], testing["image"])
    alone = mapped({"file_name": record["file_name"]}, False)
    if "as they are stored" not in note:
        assert torch.equal(testing["image"], alone["image"])
    else:  # of a file alone nobody knows
        assert testing["image"].shape[1:] == alone["image"].shape[:0:-1]


def test_backslashes_are_slashes_unless_a_file_is_called_so(load, caplog):
    write(load.folder / "sub" / "a.png", (20, 10))
    write(load.folder / "sub\\b.png", (20, 10))
    names = {"sub\\a.png": (10, 20), "sub\\b.png": (10, 20)}
    message, records = told(caplog, lambda: load(names))
    assert [record["file_name"] for record in records] == [
        str(load.folder / "sub" / "a.png"),
        str(load.folder / "sub\\b.png"),
    ]
    assert "1 file names have backslashes, which are read as slashes (first: 'sub" in message
    with pytest.raises(UserError, match="leaves the image folder"):
        load({"..\\a.png": (10, 20)})


def test_missing_and_damaged_images_are_gone_without_where_that_is_wanted(load, caplog, tmp_path):
    write(load.folder / "a.png", (20, 10))
    (load.folder / "b.png").write_bytes(b"\0\0\0\x18ftypheic" + bytes(600))
    entries = dict.fromkeys(("a.png", "b.png", "c.png", "d.png"), (10, 20))
    with pytest.raises(UserError, match=r"3 of the 4 .* are missing or damaged, .*skip_missing"):
        load(entries)
    output = tmp_path / "run"
    message, records = told(caplog, lambda: load(entries, skip_missing=True, output_dir=output))
    assert [Path(record["file_name"]).name for record in records] == ["a.png"]
    assert f"are missing or damaged, which it goes on without, listed in {output}" in message
    *missing, damaged = (output / "missing_set.txt").read_text().splitlines()
    assert missing == [str(load.folder / "c.png"), str(load.folder / "d.png")]
    assert damaged.startswith(str(load.folder / "b.png")) and "it is HEIC" in damaged
    message, _ = told(caplog, lambda: load(entries, skip_missing=True))
    assert f"goes on without, first: {load.folder}/c.png, " in message
    with pytest.raises(UserError, match="1 of the 1 images"):
        load({"c.png": (10, 20)}, skip_missing=True)


@pytest.mark.parametrize(
    ("place", "name"), [("other", "a.png"), ("set/sub", "a.png"), ("other", "set/a.png")]
)
def test_a_folder_that_holds_missing_images_is_named(load, tmp_path, place, name):
    write(tmp_path / place / "a.png", (20, 10))
    wanted = f"are missing, first: {load.folder}/{name}; {tmp_path}/{place} has 1 of the first 1"
    with pytest.raises(UserError, match=wanted):
        load({name: (10, 20)})


@pytest.mark.parametrize(
    ("box", "note"),
    [
        ((2, 4, 20.9, 10.9), ""),
        ((2, 4, 30, 8), r"1 of 1 boxes \(100.0%\) reach out of their image by more than a pixel"),
        ((0.1, 0.2, 0.9, 1.4), "all 1 boxes lie below 1.5 pixels: are they fractions"),
    ],
)
def test_boxes_that_look_like_another_layouts_are_told(load, caplog, box, note):
    write(load.folder / "a.png", (20, 10))
    message, _ = told(caplog, lambda: load({"a.png": (10, 20)}, box=box))
    assert note.replace("\\", "") in message and bool(note) == bool(message)


def test_nothing_left_to_learn_from_is_told(load, caplog):
    write(load.folder / "a.png", (20, 10))
    message, _ = told(caplog, lambda: load({"a.png": (10, 20)}, box=(50, 50, 60, 60)))
    assert "nothing is left to learn from" in message

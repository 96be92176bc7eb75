import logging
import os
import shutil

import msgspec
import pytest

from dropkey_core.engine import UserError
from projects.detr import load_coco, num_classes
from projects.detr.annotation_file import Category
from projects.detr.coco import COCO_CATEGORY_IDS, CategoryMap


def categories(ids):
    return [Category(number, f"c{number}") for number in ids]


def test_sparse_ids_become_contiguous_in_id_order_and_come_back():
    categories_ = CategoryMap(categories([7, 1, 3]))
    assert categories_.num_classes == 3
    assert [categories_.class_index(number) for number in (1, 3, 7)] == [0, 1, 2]
    assert [categories_.category_id(index) for index in (0, 1, 2)] == [1, 3, 7]
    assert [each.name for each in categories_.classes] == ["c1", "c3", "c7"]


def test_cocos_own_ids_are_the_class_indices_of_official_checkpoints():
    assert len(COCO_CATEGORY_IDS) == 80
    categories_ = CategoryMap(categories(COCO_CATEGORY_IDS))
    assert categories_.num_classes == 91
    assert all(
        categories_.class_index(number) == categories_.category_id(number) == number
        for number in COCO_CATEGORY_IDS
    )
    assert categories_.category_id(12) is None
    assert [categories_.classes[index].name for index in (0, 12, 90)] == ["unused", "unused", "c90"]


def test_a_part_of_cocos_ids_is_not_coco():
    assert CategoryMap(categories(sorted(COCO_CATEGORY_IDS)[:79])).num_classes == 79


def test_names_that_occur_twice_are_told_apart():
    categories_ = CategoryMap([Category(0, "fish"), Category(4, "fish")])
    assert [each.name for each in categories_.classes] == ["fish (0)", "fish (4)"]


def test_class_index_outside_the_file_is_refused():
    wanted = r"class index 3, .* 3 classes; set model\.num_classes to 3"
    with pytest.raises(UserError, match=wanted):
        CategoryMap(categories([1, 3, 7])).category_id(3)


def test_records_are_detectron2s_dataset_dicts(write_coco):
    images, annotations = write_coco()
    first = {"file_name": str(images / "a.jpg"), "image_id": 11, "height": 40, "width": 60}
    second = {"file_name": str(images / "b.jpg"), "image_id": 5, "height": 50, "width": 30}
    objects = [
        {"bbox": [5, 6, 20, 10], "bbox_mode": 1, "category_id": 1, "iscrowd": 0},
        {"bbox": [0, 0, 60, 40], "bbox_mode": 1, "category_id": 0, "iscrowd": 1},
    ]
    records = load_coco(images, annotations)
    assert records == [{**first, "annotations": objects}, {**second, "annotations": []}]


def test_boxes_nothing_can_be_learnt_from_are_left_out_and_counted_once(write_coco, caplog):
    boxes = [
        [1, 1, 5, 5],
        [-3, -3, 5, 5],  # reaches over the corner: kept
        [1, 1, 0, 5],
        [1, 1, 5, -2],
        [60, 1, 5, 5],  # begins where the image ends
        [-5, 1, 5, 5],
        [float("nan"), 1, 5, 5],
        [1, 1, float("inf"), 5],
    ]
    images, annotations = write_coco(
        annotations=[
            {"id": number, "image_id": 11, "category_id": 2, "bbox": bbox}
            for number, bbox in enumerate(boxes)
        ]
    )
    with caplog.at_level(logging.WARNING):
        record = load_coco(images, annotations)[0]
    assert [annotation["bbox"] for annotation in record["annotations"]] == boxes[:2]
    assert [entry.getMessage() for entry in caplog.records] == [
        f"{annotations}: left out 6 of 8 boxes that are not finite, have no area or lie outside "
        "their image (first: annotations[2]); 1 of 2 boxes (50.0%) reach out of their image by "
        "more than a pixel: are they in the layout and for the image size that the file says?"
    ]


@pytest.mark.parametrize("iscrowd", [1, True])
def test_crowds_alone_leave_nothing_to_learn_from(write_coco, caplog, iscrowd):
    crowd = {"image_id": 11, "category_id": 2, "bbox": [1, 1, 5, 5], "iscrowd": iscrowd}
    paths = write_coco(annotations=[crowd, crowd])
    with caplog.at_level(logging.WARNING):
        load_coco(*paths)
    wanted = "nothing is left to learn from: 2 of 2 annotations are crowd regions (iscrowd 1)"
    assert wanted in caplog.text


@pytest.mark.parametrize("annotations", [None, []])
def test_a_set_without_annotations_is_told_and_kept(write_coco, caplog, annotations):
    with caplog.at_level(logging.WARNING):
        records = load_coco(*write_coco(annotations=annotations))
    assert [record["annotations"] for record in records] == [[], []]
    assert "it has no annotations: there is nothing to learn from, and nothing to measure" in (
        caplog.text
    )


def named(*file_names):
    return {"images": [{"id": n, "file_name": name} for n, name in enumerate(file_names)]}


@pytest.mark.parametrize(
    "file_name", ["../secret.jpg", "/etc/passwd", "x/../../secret.jpg", ".", ""]
)
def test_file_names_that_leave_the_image_folder_are_refused(write_coco, file_name):
    images, annotations = write_coco(**named(file_name), annotations=[])
    with pytest.raises(UserError, match=f"'{file_name}' leaves the image folder {images}"):
        load_coco(images, annotations)


def test_images_that_are_links_out_of_the_set_are_refused(write_coco, tmp_path, monkeypatch):
    monkeypatch.setenv("DROPKEY_DATASETS", str(tmp_path / "datasets"))
    outside = tmp_path / "outside"
    outside.mkdir()
    images, annotations = write_coco(**named("link.jpg"), annotations=[])
    shutil.copy(images / "b.jpg", outside)
    (images / "link.jpg").symlink_to(images / "a.jpg")
    assert len(load_coco(images, annotations)) == 1
    (images / "link.jpg").unlink()
    (images / "link.jpg").symlink_to(outside / "b.jpg")
    with pytest.raises(UserError, match=rf"link.jpg leads to {outside}/b.jpg, which is neither"):
        load_coco(images, annotations)
    (images / "sub").symlink_to(outside)  # a folder of the set's own, not the user's link to it
    _, annotations = write_coco(**named("sub/b.jpg"), annotations=[])
    with pytest.raises(UserError, match=rf"{images}/sub leads to {outside}, which is neither"):
        load_coco(images, annotations)
    (tmp_path / "elsewhere").symlink_to(outside)
    _, annotations = write_coco(**named("b.jpg"), annotations=[])
    assert len(load_coco(tmp_path / "elsewhere", annotations)) == 1


def test_missing_images_are_counted_and_a_missing_folder_is_named(write_coco, tmp_path):
    images, annotations = write_coco(**named("a.jpg", "x.jpg", "sub/b.jpg"), annotations=[])
    with pytest.raises(UserError, match=f"2 of the 3 images .*missing, first: {images}/x.jpg"):
        load_coco(images, annotations)
    with pytest.raises(UserError, match=f"not found: {tmp_path}/no .set by dataset.train.images"):
        load_coco(tmp_path / "no", annotations)


def test_number_of_classes_follows_the_file_even_when_it_changes(write_coco):
    _, annotations = write_coco()
    assert num_classes(annotations) == 2
    write_coco(categories=msgspec.to_builtins(categories([2, 7, 9])))
    os.utime(annotations, ns=(1, 1))
    assert num_classes(str(annotations)) == 3


@pytest.fixture
def two_sets(write_coco, tmp_path):
    """Writes two files of the same images, with categories of other ids and names."""

    def write(train, test):
        paths = []
        for name, given in {"train": train, "test": test}.items():
            images, path = write_coco(
                categories=[{"id": number, "name": label} for number, label in given.items()],
                annotations=[
                    {"image_id": 11, "category_id": number, "bbox": [1, 1, 5, 5]}
                    for number in given
                ],
            )
            paths.append(path.rename(tmp_path / f"{name}.json"))
        return images, *paths

    return write


@pytest.mark.parametrize(
    ("train", "test", "in_train", "in_test"),
    [
        ({1: "cat", 2: "dog", 5: "cow"}, {5: "cow", 1: "cat"}, [0, 1, 2], [2, 0]),
        ({5: "cow"}, {1: "cat", 5: "cow"}, [1], [0, 1]),
        ({2: "dog", 1: "cat"}, {1: "cat", 2: "dog"}, [1, 0], [0, 1]),
    ],
)
def test_a_part_of_the_categories_keeps_their_class_indices(
    two_sets, caplog, train, test, in_train, in_test
):
    images, train_file, test_file = two_sets(train, test)
    pairs = [(train_file, test_file, in_train), (test_file, train_file, in_test)]
    for file, other, expected in pairs:
        assert num_classes(file, same_categories_as=other) == len({**train, **test})
        record = load_coco(images, file, same_categories_as=other)[0]
        assert [box["category_id"] for box in record["annotations"]] == expected
    lacking = {**train, **test}.keys() - (train.keys() & test.keys())
    assert caplog.text.count("it lacks categories of ") == bool(lacking)


def test_a_file_that_is_not_there_has_no_categories(write_coco, tmp_path):
    _, annotations = write_coco()
    assert num_classes(annotations, same_categories_as=tmp_path / "no.json") == 2


def test_one_number_for_two_categories_is_refused(two_sets):
    images, train, test = two_sets({1: "cat", 2: "dog"}, {1: "cat", 2: "cow"})
    message = f"{train} and {test} must name their categories alike, 1 differ; first: id 2 is dog a"
    with pytest.raises(UserError, match=message):
        load_coco(images, train, same_categories_as=test)

import logging

import pytest

from dropkey_core.engine import UserError
from projects.qpic import load_hico_det


def test_records_have_absolute_names_and_sizes(write_interactions):
    images, annotations, classes = write_interactions()
    assert load_hico_det(images, annotations, classes) == [
        {
            "file_name": str(images / "a.jpg"),
            "image_id": 0,
            "height": 40,
            "width": 60,
            "boxes_xyxy": [[5, 6, 25, 36], [20, 10, 50, 30], [40, 0, 60, 20]],
            "labels": [0, 1, 0],
            "hois": [(0, 1, 1), (0, 1, 0), (2, -1, 2)],
        },
        {
            "file_name": str(images / "b.jpg"),
            "image_id": 1,
            "height": 50,  # read from the image
            "width": 30,
            "boxes_xyxy": [],
            "labels": [],
            "hois": [],
        },
    ]


def test_interactions_nothing_can_be_learnt_from_are_left_out_and_told_once(
    write_interactions, caplog
):
    boxes = [
        [1, 1, 9, 9],
        [-3, -3, 5, 5],  # reaches over the corner: kept
        [9, 1, 1, 9],  # inverted
        [60, 1, 65, 9],  # begins where the image ends
        [1, 1, float("inf"), 9],
        [1, float("nan"), 9, 9],
    ]
    images, annotations, classes = write_interactions(
        annotations=[
            {"bbox": box, "category_id": 1 if not n else 18} for n, box in enumerate(boxes)
        ],
        hoi_annotation=[
            {"subject_id": 0, "object_id": number, "category_id": 1} for number in range(1, 6)
        ],
    )
    with caplog.at_level(logging.WARNING):
        record = load_hico_det(images, annotations, classes)[0]
    assert record["hois"] == [(0, 1, 0)]
    assert record["boxes_xyxy"][:4] == boxes[:4]  # indices keep their meaning
    assert [entry.getMessage() for entry in caplog.records] == [
        f"{annotations}: left out, for a box that is not finite, has no area or lies outside its "
        "image, 4 of 5 interactions (first: a.jpg, hoi_annotation[1]); 2 of 4 boxes (50.0%) reach "
        "out of their image by more than a pixel: are they in the layout and for the image size "
        "that the file says?"
    ]


def test_other_oddities_are_told_and_kept(write_interactions, caplog):
    hois = [(0, 1, 1), (0, 1, 1), (1, 0, 3), (0, 1, 3)]
    paths = write_interactions(
        hoi_annotation=[
            {"subject_id": s, "object_id": o, "category_id": verb} for s, o, verb in hois
        ]
    )
    with caplog.at_level(logging.WARNING):
        record = load_hico_det(*paths)[0]
    assert record["hois"] == [(0, 1, 0), (0, 1, 0), (1, 0, 2), (0, 1, 2)]
    (warning,) = caplog.records
    assert warning.getMessage() == (
        f"{paths[1]}: listed more than once and learnt once: 1 of 4 interactions (first: a.jpg, "
        "hoi_annotation[1]); not done by a person: 1 of 4 interactions (first: a.jpg, "
        "hoi_annotation[2]); of a verb and an object that the classes file does not combine: "
        "2 of 4 interactions (first: a.jpg, hoi_annotation[2])"
    )


def test_images_and_folders_that_cannot_be_used_are_named(write_interactions, tmp_path):
    """How each is told is tested with DETR's sets."""
    for file_name, message in {
        "../secret.jpg": "'../secret.jpg' leaves the image folder",
        "link.jpg": "link.jpg leads to",
        "x.jpg": "1 of the 2 images .* missing",
        "no_image.jpg": "cannot be read as an image",
    }.items():
        images, *files = write_interactions(file_name=file_name, height=None, width=None)
        (images / "no_image.jpg").write_text("no image")
        (images / "link.jpg").unlink(missing_ok=True)
        (images / "link.jpg").symlink_to("/etc/passwd")
        with pytest.raises(UserError, match=message):
            load_hico_det(images, *files)
    wanted = r"not found: .*/no .*prepare_hico_det\.py.*make_interactions\.py"
    with pytest.raises(UserError, match=wanted):
        load_hico_det(tmp_path / "no", *files)

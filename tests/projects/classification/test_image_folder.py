import pytest
from torchvision.io import write_jpeg

from dropkey_core.engine import UserError
from projects.classification import ClassificationMapper, load_image_folder
from tests.projects.classification.image_files import noise, write_image_folder


@pytest.fixture
def folder(tmp_path):
    write_image_folder(tmp_path)
    return tmp_path


def test_records_in_order_of_names(folder):
    images = load_image_folder(folder, "val")
    assert images.classes == ["n01", "n02"]
    assert len(images) == 6
    first, last = images[0], images[5]
    assert first == {
        "file_name": str(folder / "val/n01/n01_0.JPEG"),
        "label": 0,
        "image_id": 0,
    }
    assert last["file_name"].endswith("val/n02/n02_z.png")
    assert last["label"] == 1
    assert [r["image_id"] for r in load_image_folder(folder, "val", per_class=1)] == [0, 3]


def test_classes_are_numbered_by_the_training_split(folder):
    (folder / "val/n01").rename(folder / "elsewhere")
    images = load_image_folder(folder, "val")
    assert {record["label"] for record in images} == {1}
    (folder / "train").rename(folder / "other")
    assert {record["label"] for record in load_image_folder(folder, "val")} == {0}


def test_what_is_no_image_is_left_out(folder):
    for name in ("._n01_0.JPEG", "notes.txt"):
        (folder / "val/n01" / name).write_text("")
    (folder / "val/.cache").mkdir()
    assert len(load_image_folder(folder, "val")) == 6


def test_folders_that_do_not_fit(folder):
    with pytest.raises(UserError, match=r"images not found: .*/test .*dataset\.folder"):
        load_image_folder(folder, "test")
    (folder / "val/n03").mkdir()
    with pytest.raises(UserError, match=r"val has a class 'n03' that .*train has not"):
        load_image_folder(folder, "val")
    (folder / "flat").mkdir()
    write_jpeg(noise(0), str(folder / "flat/a.jpg"))
    with pytest.raises(UserError, match="flat has no folders: sort its images"):
        load_image_folder(folder, "flat")
    (folder / "empty/n01").mkdir(parents=True)
    with pytest.raises(UserError, match="empty has no images"):
        load_image_folder(folder, "empty")


def test_a_broken_file_is_named(folder):
    path = folder / "val/n01/n01_0.JPEG"
    path.write_bytes(path.read_bytes()[:40])
    mapper = ClassificationMapper(training=False, image_size=8)
    record = load_image_folder(folder, "val")[0]
    with pytest.raises(UserError, match=r"n01_0\.JPEG cannot be read as an image"):
        mapper(record)


def test_class_folders_may_be_links_and_images_may_not_lead_out_of_them(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (folder / "val/n01").rename(elsewhere)
    (folder / "val/n01").symlink_to(elsewhere)
    assert len(load_image_folder(folder, "val")) == 6
    (elsewhere / "a.png").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"n01/a\.png leads to /dev/zero, which is neither in"):
        load_image_folder(folder, "val")

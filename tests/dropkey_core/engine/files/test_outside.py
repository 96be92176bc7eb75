import os
from functools import partial
from pathlib import Path

import pytest

from dropkey_core.engine import UserError, read_checkpoint
from dropkey_core.engine.files.arrays import read_arrays
from dropkey_core.engine.files.images import read_header, read_image
from dropkey_core.engine.files.json_file import read_json
from dropkey_core.engine.files.outside import check_inside, places_of, read_text
from dropkey_core.engine.files.yaml_file import read_yaml

READERS = {
    "json": read_json,
    "image": read_image,
    "image header": read_header,
    "checkpoint": read_checkpoint,
    "arrays": partial(read_arrays, layout={}),
    "yaml": partial(read_yaml, sections=[]),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_what_is_no_file_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name in ("pipe", "link"):
        with pytest.raises(UserError, match=rf"{name} cannot be read: it is a device or a pipe"):
            read(tmp_path / name)
    with pytest.raises(UserError, match=r"cannot be read: it is a folder|has no checkpoint yet"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"none cannot be read: No such|no checkpoint at .*none"):
        read(tmp_path / "none")


def test_text_without_a_mark_of_byte_order_up_to_a_size(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf\xc3\xa9")
    assert read_text(path, 5) == "\u00e9"
    with pytest.raises(UserError, match=rf"^{path} has 5 bytes, 4 are allowed"):
        read_text(path, 4)
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match=rf"^{path} is not a text file"):
        read_text(path, 5)
    with pytest.raises(UserError, match="cannot be read: embedded null"):
        read_text(Path("a\0b"), 5)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A dataset root with a linked set, whose files lie on another disk, and a secret beside it."""
    disk = tmp_path / "disk"
    for folder in ("coco/images", "coco/images_of_others", "root"):
        (disk / folder).mkdir(parents=True)
    for name in ("coco/images/a.jpg", "coco/images_of_others/b.jpg", "secret", "root/c.jpg"):
        (disk / name).write_text("")
    monkeypatch.setenv("DROPKEY_DATASETS", str(tmp_path / "datasets"))
    (tmp_path / "datasets").symlink_to(disk / "root")
    (disk / "root" / "coco").symlink_to(disk / "coco")
    return tmp_path / "datasets" / "coco" / "images"


@pytest.mark.parametrize("target", [None, "a.jpg", "../images/a.jpg", "../../root/c.jpg"])
def test_linked_folders_and_links_within_them_are_fine(tree, target):
    name = "a.jpg"
    if target:
        name = "link.jpg"
        (tree / name).symlink_to(target)
        assert (tree / name).exists()
    check_inside(tree / name, places_of(tree))
    check_inside(tree / "missing.jpg", places_of(tree))


@pytest.mark.parametrize(
    "target", ["/dev/zero", "../../secret", "../images_of_others/b.jpg", "../images_of_others"]
)
def test_links_that_lead_out_are_refused(tree, target):
    (tree / "link.jpg").symlink_to(target)
    real = os.path.realpath(tree / target)
    wanted = rf"link\.jpg leads to {real}, which is neither in .*/disk/coco/images nor in the data"
    with pytest.raises(UserError, match=wanted):
        check_inside(tree / "link.jpg", places_of(tree))
    if target != "/dev/zero":
        check_inside(tree / "link.jpg", places_of(tree, tree.parent, tree.parent.parent.parent))

import os

import pytest

from dropkey_core.engine import UserError
from dropkey_core.engine.files.outside import check_inside, places_of


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

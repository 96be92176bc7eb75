import pytest

from projects.classification import cifar
from tests.projects.classification.image_files import (
    write_cifar10,
    write_image_folder,
    write_packed,
)


@pytest.fixture(scope="session")
def dataset_root(tmp_path_factory, load_script, small_mannequin):
    """A dataset root with a few images for every project."""
    root = tmp_path_factory.mktemp("datasets")
    settings = ["--num-train", "6", "--num-val", "3", "--image-size", "96"]
    for made in ("shapes", "interactions"):
        script = load_script(f"datasets/make_{made}")
        assert script.main(["--output", str(root / made), *settings]) == 0
    script = load_script("datasets/make_bodies")
    few = script.PeopleSettings(num_train=1, num_val=1, num_frames=2, num_cameras=2, image_size=64)
    script.make_bodies(root / "bodies", few, small_mannequin)
    write_image_folder(root / "imagenet", count=2)
    write_packed(root / "packed.npz", count=1)
    return root


@pytest.fixture(scope="session")
def small_cifar10(dataset_root):
    return write_cifar10(dataset_root / "cifar", count=1)


@pytest.fixture
def small_sets(dataset_root, small_cifar10, tmp_path, monkeypatch):
    """Lets configs find the small sets, and works in an empty folder."""
    monkeypatch.setenv("DROPKEY_DATASETS", str(dataset_root))
    monkeypatch.setitem(cifar.SETS, "cifar10", small_cifar10)
    monkeypatch.chdir(tmp_path)

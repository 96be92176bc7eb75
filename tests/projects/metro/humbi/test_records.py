import pickle

import numpy as np
import pytest

from dropkey_core.engine import UserError, build_test_loader
from projects.metro.humbi.index import LAYOUT, joined, stored, write_index
from projects.metro.humbi.records import load_humbi, read_subjects, write_subjects

SIZES = {"S": 1, "N": 1, "M": 3, "L": 3}


def index_of(subject):
    """One subject, seen by one camera in three frames."""
    arrays = {}
    for name, (kind, dimensions) in LAYOUT.items():
        shape = [SIZES.get(size, size) for size in dimensions]
        arrays[name] = np.full(shape, subject + 0.5) if kind == "f" else np.zeros(shape, int)
    arrays |= {
        "subject_ids": [subject],
        "subject_folders": [f"Body_1_8/subject_{subject}/body"],
        "camera_ids": [9],
        "frame_numbers": [1, 2, 4],
        "view_frames": [0, 1, 2],
        "image_sizes": np.full((3, 2), [100, 200]),
    }
    return stored(arrays)


@pytest.fixture
def folder(tmp_path):
    """An index of the subjects 2, 5 and 7."""
    write_index(tmp_path / "index.npz", joined([index_of(subject) for subject in (2, 5, 7)]))
    return tmp_path


def load(folder, *subjects):
    write_subjects(folder / "list.txt", subjects)
    return load_humbi(folder / "index.npz", folder / "list.txt")


def test_the_views_of_the_chosen_subjects(folder):
    records = load(folder, 7, 2)
    assert [(one["subject"], one["frame"]) for one in records] == [
        *[(2, 1), (2, 2), (2, 4)],
        *[(7, 1), (7, 2), (7, 4)],
    ]
    assert [one["image_id"] for one in records] == [0, 1, 2, 6, 7, 8]
    assert [one["image_id"] for one in records[1:4]] == [1, 2, 6]
    with pytest.raises(IndexError):
        records[6]


def test_a_record(folder):
    record = load(folder, 5)[2]
    assert (
        record["file_name"] == f"{folder}/Body_1_8/subject_5/body/00000004/image/image0000009.jpg"
    )
    assert (record["camera"], record["height"], record["width"]) == (9, 100, 200)
    assert record["box_side"] == record["scale"] == 5.5
    shapes = {"centre": (2,), "K": (3, 3), "R": (3, 3), "C": (3,), "translation": (3,)}
    shapes |= {"pose": (72,), "betas": (10,)}
    for name, shape in shapes.items():
        assert np.array_equal(record[name], np.full(shape, 5.5))
        assert record[name].dtype == (np.float64 if name in "KRC" else np.float32)


def test_a_record_is_the_callers_to_change(folder):
    records = load(folder, 5)
    records[0]["K"][:] = 0
    records[0]["pose"][:] = 0
    assert records[0]["K"].min() == records[0]["pose"].min() == 5.5


def test_paths_start_at_the_dataset_root(folder, monkeypatch):
    monkeypatch.setenv("DROPKEY_DATASETS", str(folder))
    write_subjects(folder / "list.txt", [5])
    records = load_humbi("index.npz", "list.txt")
    assert records[0]["file_name"].startswith(f"{folder}/Body_1_8/")


def test_the_loader_reads_it_as_it_is(folder):
    """No record is made before it is asked for, and a loader process can be sent the whole."""
    records = load(folder, 2, 7)
    loader = build_test_loader(pickle.loads(pickle.dumps(records)), dict, 4, num_workers=0)
    assert [[one["frame"] for one in batch] for batch in loader] == [[1, 2, 4, 1], [2, 4]]


def test_a_subject_that_is_not_there_is_named(folder):
    with pytest.raises(UserError, match=r"list.txt has 2 of 3 subjects that are not in .*first: 3"):
        load(folder, 5, 3, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\ntwo\n", "line 2 is 'two', which is no subject id"),
        ("1\n-2\n", "line 2 is '-2', which is no subject id"),
        ("1\n\n1\n", "line 3: subject 1 is there twice"),
        ("\n\n", "has no subject"),
    ],
)
def test_what_is_wrong_with_a_list_is_named(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UserError, match=f"{tmp_path}/list.txt.*{message}"):
        read_subjects(tmp_path / "list.txt")


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(UserError, match=f"list of subjects not found: {tmp_path}/no.txt"):
        read_subjects(tmp_path / "no.txt")
    with pytest.raises(UserError, match=r"no.txt \(set by --test-subjects\)$"):
        read_subjects(tmp_path / "no.txt", "--test-subjects")


def test_pictures_that_are_links_out_of_the_set_are_refused(folder, tmp_path_factory):
    records = load(folder, 5)
    disk = tmp_path_factory.mktemp("disk")
    picture = disk / "subject_5/body/00000001/image/image0000009.jpg"
    picture.parent.mkdir(parents=True)
    (folder / "Body_1_8").symlink_to(disk)
    records = load(folder, 5)
    assert records[0]["file_name"].endswith("image0000009.jpg")
    picture.symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"image0000009\.jpg leads to /dev/zero, which is neither"):
        records[0]

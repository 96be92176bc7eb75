import pickle

import numpy as np
import pytest

from dropkey_core.engine import UserError, build_test_loader
from projects.metro.humbi.index import joined, write_index
from projects.metro.humbi.records import load_humbi, read_subjects, write_subjects
from tests.projects.metro.humbi_set import index_of


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
    views = [(1, 0), (1, 106), (31, 5), (31, 106)]
    assert [(one["subject"], one["frame"], one["camera"]) for one in records] == [
        *((2, *view) for view in views),
        *((7, *view) for view in views),
    ]
    assert [one["image_id"] for one in records] == [0, 1, 2, 3, 8, 9, 10, 11]
    assert [one["image_id"] for one in records[3:5]] == [3, 8]
    with pytest.raises(IndexError):
        records[8]


def test_a_record_is_the_callers_to_change(folder):
    records, index = load(folder, 5), index_of(5)
    picture = f"{folder}/Body_1_8/subject_5/body/00000031/image/image0000005.jpg"
    for _ in range(2):
        record = records[2]  # frame 31, the second; camera 5, the second
        assert record["file_name"] == picture
        assert (record["camera"], record["height"], record["width"]) == (5, 100, 200)
        assert record["box_side"] == index.box_sides[2] and record["scale"] == index.scales[1]
        expected = {"centre": index.centres[2], "translation": index.translations[1]}
        expected |= {"pose": index.poses[1], "betas": index.betas[1]}
        expected |= {name: getattr(index, name)[1] for name in "KRC"}
        for name, array in expected.items():
            assert np.array_equal(record[name], array)
            assert record[name].dtype == (np.float64 if name in "KRC" else np.float32)
            record[name][:] = 0


def test_paths_start_at_the_dataset_root(folder, monkeypatch):
    monkeypatch.setenv("DROPKEY_DATASETS", str(folder))
    write_subjects(folder / "list.txt", [5])
    records = load_humbi("index.npz", "list.txt")
    assert records[0]["file_name"].startswith(f"{folder}/Body_1_8/")


def test_the_loader_reads_it_as_it_is(folder):
    """No record is made before it is asked for, and a loader process can be sent the whole."""
    records = load(folder, 2, 7)
    loader = build_test_loader(pickle.loads(pickle.dumps(records)), dict, 4, num_workers=0)
    assert [[one["frame"] for one in batch] for batch in loader] == [[1, 1, 31, 31], [1, 1, 31, 31]]


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
    picture = disk / "subject_5/body/00000001/image/image0000000.jpg"
    picture.parent.mkdir(parents=True)
    (folder / "Body_1_8").symlink_to(disk)
    records = load(folder, 5)
    assert records[0]["file_name"].endswith("image0000000.jpg")
    picture.symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"image0000000\.jpg leads to /dev/zero, which is neither"):
        records[0]

import io
import re
import shutil
from contextlib import redirect_stdout

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from dropkey_core.engine import UserError
from dropkey_core.engine.files.outside import places_of
from projects.metro.humbi import prepare as humbi_release
from projects.metro.humbi.files import image_file, parameter_file, vertex_file
from projects.metro.humbi.index import read_index
from projects.metro.humbi.prepare import INDEX, LEFT_OUT, PARTS, TEST, TRAIN, prepare, split
from projects.metro.humbi.records import load_humbi
from projects.metro.humbi.session import Problem, check_view, jpeg_size
from tests.projects.metro.humbi_set import (
    CAMERAS,
    HEIGHT,
    WIDTH,
    fit_of,
    vertices_of,
    write_subject,
)

V = 20
FRAMES = {3: [1, 31], 20: [7], 4: [2]}


@pytest.fixture
def source(tmp_path):
    """Three subjects in two bundles, two cameras each: eight views."""
    root = tmp_path / "humbi"
    for subject, frames in FRAMES.items():
        write_subject(bundle_of(root, subject), subject, frames, V)
    return root


def bundle_of(source, subject):
    return source / ("Body_1_10" if subject < 10 else "Body_11_20")


def body_of(source, subject):
    return bundle_of(source, subject) / f"subject_{subject}" / "body"


def run(source, **settings):
    """Prepare the set; returns its views as (subject, frame, camera), and what was said."""
    with redirect_stdout(io.StringIO()) as said:
        prepare(source, num_vertices=V, **settings)
    index = read_index(source / INDEX)
    (source / "all.txt").write_text("\n".join(map(str, index.subject_ids)))
    records = load_humbi(source / INDEX, source / "all.txt")
    return [
        (one["subject"], one["frame"], one["camera"]) for one in records
    ], said.getvalue().splitlines()


ALL = [(s, f, c) for s in sorted(FRAMES) for f in FRAMES[s] for c in sorted(CAMERAS)]


def left_out(source):
    return (source / LEFT_OUT).read_text().splitlines()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_view_is_found(source, num_workers):
    views, said = run(source, num_workers=num_workers)
    assert views == ALL
    assert left_out(source) == []
    assert "nothing was left out" in said
    assert not (source / PARTS).exists()
    written = {path.name for path in source.iterdir() if path.is_file()}
    assert written == {INDEX, LEFT_OUT, TEST, TRAIN, "all.txt"}


def test_records_hold_what_the_files_say(source):
    run(source)
    (source / "some.txt").write_text("3\n")
    records = load_humbi(source / INDEX, source / "some.txt")
    assert len(records) == 4
    record = records[3]
    assert record["file_name"] == str(image_file(body_of(source, 3), 31, 12))
    assert Image.open(record["file_name"]).getpixel((5, 5))[1:] == pytest.approx((31, 12), abs=4)
    assert (record["subject"], record["frame"], record["camera"]) == (3, 31, 12)
    assert (record["height"], record["width"]) == (HEIGHT, WIDTH)
    for name in "KRC":
        assert np.array_equal(record[name], getattr(CAMERAS[12], name))
    fit = fit_of(3, 31)
    assert record["scale"] == fit.scale
    for name in ("translation", "pose", "betas"):
        assert_allclose(record[name], getattr(fit, name), rtol=1e-7)
    x, y, z = vertices_of(3, 31, V).T  # camera 12 sees z to the left, and x + 5 ahead
    u, v = 80 + 100 * -z / (x + 5), 45 + 100 * y / (x + 5)
    assert_allclose(record["centre"], [(u.min() + u.max()) / 2, (v.min() + v.max()) / 2], rtol=1e-5)
    assert record["box_side"] == pytest.approx(1.2 * np.ptp(v), rel=1e-5)


# ---- what is broken ------------------------------------------------------------------------------
def without_last_line(path):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def linked(path, target):
    path.unlink()
    path.symlink_to(target)


def moved(path, *shift):
    np.savetxt(path, vertices_of(3, 31, V) + np.array(shift))


def a_picture_cut_short(body):
    path = image_file(body, 31, 0)
    path.write_bytes(path.read_bytes()[:-20])


def a_mesh_of_too_few_rows(body):
    without_last_line(vertex_file(body, 31))


def a_camera_not_finite(body):
    path = body / "extrinsic.txt"
    path.write_text(path.read_text().replace("0 12\n-5.0 0.0", "0 12\nnan 0.0"))


BOTH = {(3, 31, 0), (3, 31, 12)}
BROKEN = [  # of subject 3, mostly in frame 31: the damage, the views that it costs, what is told
    (lambda body: (body / "extrinsic.txt").unlink(), {*BOTH, (3, 1, 0), (3, 1, 12)},
     ["cameras unusable: .*extrinsic.txt cannot be read"]),
    (a_camera_not_finite, {(3, 1, 12), (3, 31, 12)},
     ["camera unusable: .*camera 12 has a C that is not finite",
      "pictures of a camera without calibration: camera 12, 2 pictures"]),
    (a_mesh_of_too_few_rows, BOTH, ["mesh unusable: .*has 19 rows"]),
    (lambda body: without_last_line(parameter_file(body, 31)), BOTH, ["mesh unusable: .*85 rows"]),
    (a_picture_cut_short, {(3, 31, 0)}, ["image0000000.jpg\tpicture unusable: .* is cut short"]),
    (lambda body: image_file(body, 31, 0).write_bytes(b""), {(3, 31, 0)},
     ["picture unusable: .* cannot be read as an image"]),
    (lambda body: linked(image_file(body, 31, 0), "/dev/zero"), {(3, 31, 0)},
     ["picture unusable: .*leads to /dev/zero, which is"]),
    (lambda body: linked(vertex_file(body, 31), "/etc/passwd"), BOTH,
     ["mesh unusable: .*leads to /etc/passwd"]),
    (lambda body: moved(vertex_file(body, 31), 6, 0, 0), {(3, 31, 0)},  # 12 sees it further away
     ["person is out of the picture: 0% of the mesh"]),
    (lambda body: moved(vertex_file(body, 31), 0, 0, -5.5), BOTH,
     ["image0000000.jpg\tperson is not in front of the camera",
      "image0000012.jpg\tperson is out of the picture"]),
    (lambda body: shutil.rmtree(body / "00000031/image"), BOTH, ["00000031\tframe has no picture"]),
    (lambda body: [shutil.rmtree(folder) for folder in body.glob("000*")],
     {*BOTH, (3, 1, 0), (3, 1, 12)}, ["body\tsubject has no view that can be used"]),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "lost", "lines"), BROKEN)
def test_what_is_broken_is_left_out_and_told(source, damage, lost, lines):
    damage(body_of(source, 3))
    views, _ = run(source)
    assert views == [view for view in ALL if view not in lost]
    for line, expected in zip(left_out(source), lines, strict=True):
        assert re.search(expected, line), line


def test_what_is_left_out_is_counted_by_kind(source):
    body = body_of(source, 3)
    (body_of(source, 4) / "extrinsic.txt").unlink()
    a_mesh_of_too_few_rows(body)
    _, said = run(source)
    assert f"left out: 1 x mesh unusable (first: {body}/00000031)" in said
    assert f"left out: 1 x cameras unusable (first: {body_of(source, 4)})" in said
    assert f"{source / LEFT_OUT}: 2 lines" in said


def test_a_subject_that_is_there_twice_or_has_no_body_is_told(source):
    write_subject(source / "Body_5_9", 20, [7], V)
    (source / "Body_1_10" / "subject_8").mkdir()
    views, _ = run(source)
    assert views == ALL
    assert left_out(source) == [
        f"{source}/Body_1_10/subject_8\tsubject has no body session",
        f"{source}/Body_5_9/subject_20/body\tsubject is there twice: the first is "
        "Body_11_20/subject_20/body",
    ]


def test_half_of_the_mesh_inside_is_enough(source):
    path = vertex_file(body_of(source, 3), 31)
    half = np.arange(V) % 2 * 20.0  # every other vertex far to the side
    np.savetxt(path, vertices_of(3, 31, V) + half[:, None] * [1, 0, 0])
    run(source)
    assert left_out(source) == []
    half[0] = 20
    np.savetxt(path, vertices_of(3, 31, V) + half[:, None] * [1, 0, 0])
    run(source)
    assert [line.split("\t")[1] for line in left_out(source)] == [
        "person is out of the picture: 45% of the mesh in it"
    ]


@pytest.mark.parametrize("shift", [(6, 0, 0), (-6, 0, 0), (0, 6, 0), (0, -6, 0)])
def test_all_four_edges_of_the_picture_count(source, shift):
    path = image_file(body_of(source, 3), 1, 0)
    vertices = vertices_of(3, 1, V) + np.array(shift)
    found = check_view(body_of(source, 3), 1, 0, CAMERAS[0], vertices, places_of(source))
    details = "0% of the mesh in it"
    assert found == Problem(str(path), "person is out of the picture", details)


def test_places_without_bundles_are_named(tmp_path):
    with pytest.raises(UserError, match=f"no such folder: {tmp_path}/no"):
        prepare(tmp_path / "no")
    with pytest.raises(UserError, match=f"{tmp_path} has no <bundle>/subject_<id>/body"):
        prepare(tmp_path)


def test_nothing_left_is_an_error_and_mended_files_are_looked_at_again(source):
    for subject in FRAMES:
        (body_of(source, subject) / "intrinsic.txt").rename(body_of(source, subject) / "saved")
    with pytest.raises(UserError, match=f"nothing in {source} can be used; .*{LEFT_OUT} says why"):
        prepare(source, num_vertices=V)
    assert len(left_out(source)) == 3
    assert not (source / INDEX).exists()
    for subject in FRAMES:
        (body_of(source, subject) / "saved").rename(body_of(source, subject) / "intrinsic.txt")
    assert run(source)[0] == ALL


# ---- resuming ------------------------------------------------------------------------------------
def stop_at(monkeypatch, subject):
    """Interrupts the walk when it comes to a subject; returns the list of those it looked at."""
    seen = []
    real = humbi_release.index_session

    def index_session(source, session, num_vertices):
        if session.subject == subject:
            raise KeyboardInterrupt
        seen.append(session.subject)
        return real(source, session, num_vertices)

    monkeypatch.setattr(humbi_release, "index_session", index_session)
    return seen


def test_a_stopped_run_goes_on(source, monkeypatch):
    a_picture_cut_short(body_of(source, 3))
    expected = run(source)[0]
    expected_lines = left_out(source)
    expected_index = (source / INDEX).read_bytes()
    (source / INDEX).unlink()
    seen = stop_at(monkeypatch, subject=20)
    with pytest.raises(KeyboardInterrupt):
        run(source)
    assert seen == [3, 4]
    assert not (source / INDEX).exists()
    monkeypatch.undo()
    seen = stop_at(monkeypatch, subject=None)
    assert run(source)[0] == expected
    assert seen == [20]
    assert left_out(source) == expected_lines
    assert (source / INDEX).read_bytes() == expected_index


# ---- the split -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        *((count, (294, 120)) for count in (414, 415, 772)),  # as many as the paper has
        *((413, (293, 120)), (300, (213, 87)), (10, (7, 3)), (2, (1, 1))),  # in that proportion
    ],
)
def test_a_drawn_split_has_the_papers_sizes_and_follows_the_seed(count, sizes):
    subjects = list(range(1, count + 1))
    train, test = split(subjects, None, None, seed=0)
    assert (len(train), len(test)) == sizes
    assert len({*train, *test} & set(subjects)) == sum(sizes)
    assert split(subjects, None, None, seed=0) == (train, test)
    assert count < 100 or split(subjects, None, None, seed=1) != (train, test)


@pytest.mark.parametrize(
    ("paper", "drawn"),
    [
        ((294, 120), "2 subjects to train on, 1 to test on, in the proportion of the paper's split "
         "(294 and 120), which it does not name; 0 more are in neither list"),
        ((1, 1), "1 subjects to train on, 1 to test on, as large as the paper's split "
         "(1 and 1), which it does not name; 1 more are in neither list"),
    ],
)  # fmt: skip
def test_a_drawn_split_says_whose_it_is_and_how_many_are_left_over(
    source, monkeypatch, paper, drawn
):
    monkeypatch.setattr(humbi_release, "NUM_TRAIN", paper[0])
    monkeypatch.setattr(humbi_release, "NUM_TEST", paper[1])
    _, said = run(source, seed=5)
    assert said[-4] == f"drawn with seed 5: {drawn}"
    chosen = (source / TRAIN).read_text() + (source / TEST).read_text()
    assert len(set(chosen.split()) & {"3", "4", "20"}) == min(sum(paper), 3)
    assert len(read_index(source / INDEX).subject_ids) == 3


def test_of_lists_that_are_given_nothing_is_said(source):
    _, said = run(source, test_subjects=[4])
    assert not any("paper" in line for line in said)


def test_one_list_leaves_the_rest_to_the_other():
    assert split([1, 2, 3], [2], None, 0) == ([2], [1, 3])
    assert split([1, 2, 3], None, [2], 0) == ([1, 3], [2])
    assert split([1, 2, 3], [1], [2], 0) == ([1], [2])


def test_lists_of_subjects_are_written_without_those_that_have_no_view(source):
    _, said = run(source, train_subjects=[20, 3, 77], test_subjects=[4])
    assert (source / TRAIN).read_text() == "20\n3\n"
    assert (source / TEST).read_text() == "4\n"
    assert f"{source / TRAIN}: 2 subjects; 1 more have no view" in said
    assert [one["subject"] for one in load_humbi(source / INDEX, source / TEST)] == [4, 4]


def test_lists_that_overlap_or_leave_nothing_are_refused(source):
    with pytest.raises(UserError, match="1 subjects are both to train and to test on, first: 4"):
        run(source, train_subjects=[3, 4], test_subjects=[4, 20])
    with pytest.raises(UserError, match=f"{TEST} would be empty"):
        run(source, train_subjects=[3], test_subjects=[77])
    assert not (source / INDEX).exists()


# ---- pictures ------------------------------------------------------------------------------------
def test_size_and_end_of_a_jpeg_file(tmp_path):
    path = tmp_path / "image.jpg"
    Image.new("RGB", (33, 21)).save(path)
    assert jpeg_size(path) == (21, 33)
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * 16)  # padding that some cameras add
    assert jpeg_size(path) == (21, 33)
    path.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=f"{path} is cut short"):
        jpeg_size(path)
    Image.new("RGB", (33, 21)).save(path, format="PNG")
    with pytest.raises(UserError, match=f"{path} cannot be read as an image of kind JPEG"):
        jpeg_size(path)

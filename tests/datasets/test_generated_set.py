"""What all scripts promise that draw a set."""

import hashlib

import pytest


def digest(folder):
    """The SHA-256 of every file; archives note when they were written."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".npz"
    }


def arguments(output, *more):
    return [str(a) for a in ("--output", output, "--num-train", 3, "--num-val", 10, *more)]


@pytest.fixture(params=["make_shapes", "make_interactions"])
def script(load_script, request):
    return load_script(f"datasets/{request.param}")


def test_the_same_settings_give_the_same_files_and_others_do_not(script, tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert script.main(arguments(tmp_path / folder, "--seed", seed)) == 0
    first = digest(tmp_path / "a")
    assert first == digest(tmp_path / "b")
    assert first["train/000000000001.jpg"] not in digest(tmp_path / "c").values()
    assert first["train/000000000001.jpg"] != first["val/000000000001.jpg"]


def test_a_set_that_is_there_is_left_alone(script, tmp_path, capsys):
    script.main(arguments(tmp_path))
    marked = tmp_path / "val" / "000000000001.jpg"
    marked.write_bytes(b"mine")
    assert script.main(arguments(tmp_path)) == 0
    assert f"{tmp_path}: already there" in capsys.readouterr().out
    assert script.main(arguments(tmp_path, "--seed", 9)) == 2
    assert f"error: {tmp_path} holds another set" in capsys.readouterr().err
    assert marked.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("make_shapes", "instances_val.json"),
        ("make_interactions", "classes.json"),
        ("make_interactions", "val.json"),
    ],
)
def test_an_unfinished_set_is_finished(load_script, tmp_path, name, missing):
    script = load_script(f"datasets/{name}")
    script.main(arguments(tmp_path))
    whole = digest(tmp_path)
    (tmp_path / "annotations" / missing).unlink()
    (tmp_path / "val" / "000000000002.jpg").unlink()
    assert script.main(arguments(tmp_path)) == 0
    assert digest(tmp_path) == whole


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[]", b"{}", b'{"info"', b"[" * 100_000])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("make_shapes", "annotations/instances_train.json"),
        ("make_interactions", "annotations/classes.json"),
        ("make_bodies", "made.json"),
    ],
)
def test_a_file_of_another_kind_is_named_in_one_line(
    load_script, tmp_path, capsys, name, file, content
):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    (path.parent / "instances_val.json").write_text("{}")
    path.write_bytes(content)
    assert load_script(f"datasets/{name}").main(arguments(tmp_path)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}")
    assert error.count("\n") == 1
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("make_shapes", "--image-size", 20, "--image-size must be at least 64, got 20"),
        ("make_interactions", "--num-val", 0, "must be at least 1, got 3 and 0"),
        ("make_shapes", "--seed", -1, "--seed must be 0 or more, got -1"),
        (
            *("make_bodies", "--num-frames", 0),
            "--num-frames and --num-cameras must be at least 1, got 0 and 6",
        ),
    ],
)
def test_impossible_settings_are_refused(
    load_script, tmp_path, capsys, name, option, value, message
):
    script = load_script(f"datasets/{name}")
    assert script.main(arguments(tmp_path, option, value)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_told_in_one_line(script, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert script.main(arguments(tmp_path / "file" / "set")) == 2
    assert capsys.readouterr().err.count("\n") == 1

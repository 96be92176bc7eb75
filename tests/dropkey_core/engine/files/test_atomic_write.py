import os
import shutil
from pathlib import Path

import pytest
import torch

from dropkey_core.engine import UserError, read_checkpoint, write_checkpoint
from dropkey_core.engine.files.atomic_write import (
    WriteError,
    link_file,
    output_file,
    remove_unfinished,
    whole_file,
)
from dropkey_core.engine.run_folder import numbered_checkpoints
from tests.dropkey_core.engine.toy_run import (
    after_calls,
    assert_same_run,
    files,
    full_disk,
    run,
    toy,
)


def test_it_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert files(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_it_stays_as_it_was_when_writing_ends_early(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), whole_file(path) as file:
        file.write("new")
        raise error
    assert path.read_text() == "old"
    assert files(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("size", [10, 700, 3000, 41_000])  # torch fails in several places
def test_full_disk_is_told_as_the_system_tells_it(tmp_path, size):
    path = tmp_path / "w.pth"
    write_checkpoint(path, {"step": 1})
    with full_disk(size), pytest.raises(WriteError) as told:
        write_checkpoint(path, {"step": 2, "weight": torch.zeros(100, 100)})
    assert str(told.value) == f"cannot write {path}: File too large"
    assert read_checkpoint(path) == {"step": 1}
    assert files(tmp_path) == ["w.pth"]


def test_where_a_command_writes_is_tried_before(tmp_path):
    file = tmp_path / "a" / "b.pth"
    assert output_file(file) == file and list(file.parent.iterdir()) == []
    file.write_text("old")
    assert output_file(file).read_text() == "old"
    with pytest.raises(WriteError, match=rf"cannot write {file.parent}: it is a folder"):
        output_file(file.parent)
    with pytest.raises(WriteError, match=rf"cannot write {file}: "):
        output_file(file / "c.pth")


def test_missing_folder_is_told(tmp_path):
    with (
        pytest.raises(WriteError, match=r"cannot write .*gone/a.txt: No such file or directory"),
        whole_file(tmp_path / "gone" / "a.txt"),
    ):
        pass


def no_links(*arguments):
    raise OSError(1, "Operation not permitted")


@pytest.mark.parametrize("link", [os.link, no_links])
def test_second_name_keeps_its_content(tmp_path, monkeypatch, link):
    monkeypatch.setattr(os, "link", link)
    last, numbered = tmp_path / "last.pth", tmp_path / "model_0.pth"
    write_checkpoint(last, {"step": 1})
    numbered.write_text("older")
    link_file(last, numbered)
    link_file(last, numbered)  # once more changes nothing
    assert files(tmp_path) == ["last.pth", "model_0.pth"]
    write_checkpoint(last, {"step": 2})
    assert read_checkpoint(numbered) == {"step": 1}
    assert read_checkpoint(last) == {"step": 2}


def test_copy_that_finds_no_room_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "last.pth").write_bytes(b"x" * 100)
    with full_disk(50), pytest.raises(WriteError, match=r"model_0.pth: File too large"):
        link_file(tmp_path / "last.pth", tmp_path / "model_0.pth")
    assert files(tmp_path) == ["last.pth"]


def test_what_killed_processes_leave_is_looked_for_by_nobody_and_removed(tmp_path):
    for name in (".last.pth.unfinished", ".model_0000004.pth.unfinished", "model_0000002.pth"):
        (tmp_path / name).touch()
    assert [path.name for path in numbered_checkpoints(tmp_path)] == ["model_0000002.pth"]
    remove_unfinished(tmp_path)
    assert files(tmp_path) == ["model_0000002.pth"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["last.pth", "best.pth", "metrics.csv"])
def test_run_on_a_full_disk_stops_and_goes_on_when_there_is_room(
    toy_folder, monkeypatch, capsys, name
):
    run("train.eval_period=6", output="whole")
    output = toy_folder / "output"

    def fill():
        (output / f".{name}.unfinished").symlink_to("/dev/full")

    with monkeypatch.context() as patch, pytest.raises(UserError) as told:
        after_calls(patch, toy("ToyModel"), "forward", 6, fill)  # in step 6
        run("train.eval_period=6")
    step = read_checkpoint(output / "last.pth")["step"]
    assert step == 5
    assert str(told.value) == (
        f"cannot write output/{name}: No space left on device; last.pth is that of step {step}: "
        "once this is mended, the same command with --resume goes on from there"
    )
    assert not list(output.glob(".*"))
    run("train.eval_period=6", resume=True)
    assert_same_run(output, toy_folder / "whole")


def test_config_that_does_not_fit_is_told_before_anything_is_built(toy_folder, capsys):
    with full_disk(100), pytest.raises(WriteError, match=r"cannot write output/config.yaml: File"):
        run()
    assert files(toy_folder / "output") == []


def test_folder_that_is_taken_away_ends_the_run(toy_folder, monkeypatch, capsys):
    output = toy_folder / "output"
    after_calls(monkeypatch, toy("ToyModel"), "forward", 6, lambda: shutil.rmtree(output))
    with pytest.raises(UserError) as told:
        run("train.eval_period=0")
    assert str(told.value) == (
        "cannot write output/metrics.csv: No such file or directory; nothing of this run is saved"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to a read-only folder")
def test_read_only_folder(toy_folder, capsys):
    (toy_folder / "output").mkdir()
    (toy_folder / "output").chmod(0o555)
    with pytest.raises(WriteError, match=r"cannot write output/config.yaml: Permission denied"):
        run()

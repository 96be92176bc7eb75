import csv
import errno
import os

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dropkey_core.engine.files.atomic_write import WriteError
from dropkey_core.engine.run_log import MetricsLog, Progress
from tests.dropkey_core.engine.toy_run import full_disk


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_one_row_per_step_with_evaluations_beside_losses(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.write(10, {"loss": 0.1})
    log.write(20, {"loss": 1 / 3})
    log.write(20, {"bbox/AP": 42.0})
    log.write(30, {"loss": 3.0})
    assert rows(tmp_path) == [
        {"step": "10", "loss": "0.1", "bbox/AP": ""},
        {"step": "20", "loss": repr(1 / 3), "bbox/AP": "42.0"},
        {"step": "30", "loss": "3.0", "bbox/AP": ""},
    ]


def test_resumed_log_forgets_what_is_done_again_and_keeps_the_rest(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in (1, 2, 3, 4):
        log.write(step, {"loss": step})
    log.write(4, {"AP": 9.0})
    again = MetricsLog(tmp_path, 2)
    again.write(2, {"AP": 5})  # an evaluation joins its step
    again.write(3, {"loss": 30})
    found = [(row["step"], row["loss"], row["AP"]) for row in rows(tmp_path)]
    assert found == [("1", "1.0", ""), ("2", "2.0", "5.0"), ("3", "30.0", "")]


WHOLE = b"step,loss\r\n1,1.0\r\n"


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        (b"", []),
        (b"\xff\n", []),
        (b"\0" * 40, []),  # after a power cut
        (WHOLE + b"\0" * 40 + b"\r\n2,2.0\r\n", ["1", "2"]),
        (b"step,loss,lr\r\n1,1.0,2.0\r\n2,0.12", ["1"]),  # killed in the middle of a row
        (WHOLE + b"2,2.", ["1"]),  # and of a number
    ],
)
def test_what_a_killed_process_or_a_power_cut_left_in_part_is_dropped(tmp_path, left, kept):
    (tmp_path / "metrics.csv").write_bytes(left)
    MetricsLog(tmp_path, 2).write(3, {"loss": 3})
    assert [row["step"] for row in rows(tmp_path)] == [*kept, "3"]


def test_rows_after_the_checkpoint_are_forgotten_whenever_the_next_one_comes(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in (1, 2, 3, 4):
        log.write(step, {"loss": step})
    MetricsLog(tmp_path, 2).write(10, {"loss": 10})  # train.log_period is larger now
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "10"]


def test_full_disk_cuts_a_row_that_the_next_start_drops(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in range(1, 200):
        log.write(step, {})
    log.write(200, {"loss": 1})
    before = log.path.stat().st_size
    assert before > max(path.stat().st_size for path in (tmp_path / "tensorboard").iterdir()) + 99
    with full_disk(before + 5), pytest.raises(WriteError, match=r"cannot write .*metrics.csv: "):
        log.write(201, {"loss": 2})
    assert log.path.stat().st_size == before + 5
    MetricsLog(tmp_path, 200).write(201, {"loss": 3})
    assert [row["loss"] for row in rows(tmp_path)[-2:]] == ["1.0", "3.0"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_full_disk_stops_tensorboard(tmp_path):
    log = MetricsLog(tmp_path, 0)
    with full_disk(80), pytest.raises(WriteError, match=r"cannot write .*tensorboard: "):
        for step in (1, 2, 3):  # its thread fails, and the next call tells
            log.write(step, {"loss": 1})
    log.close()


def shown(folder):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


def test_tensorboard_reads_it(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.write(1, {"loss": 0.5, "bbox/AP": 42.0})
    log.write(2, {"loss": 0.25})
    assert shown(tmp_path) == {"loss": [(1, 0.5), (2, 0.25)], "bbox/AP": [(1, 42.0)]}
    log.close()


def test_steps_that_are_done_again_replace_those_of_a_killed_run(tmp_path):
    killed = MetricsLog(tmp_path, 0)
    for step in (1, 2, 3, 4):
        killed.write(step, {"loss": step})
    path = next((tmp_path / "tensorboard").iterdir())
    path.write_bytes(path.read_bytes()[:-7])  # in the middle of a record
    again = MetricsLog(tmp_path, 2)
    again.write(2, {"AP": 9})  # the evaluation of a step that was logged before
    again.write(3, {"loss": 30})
    assert shown(tmp_path) == {"loss": [(1, 1), (2, 2), (3, 30)], "AP": [(2, 9)]}
    killed.close()
    again.close()


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC, errno.EIO])
def test_a_run_goes_on_when_its_messages_cannot_be_written(monkeypatch, number):
    class Broken:
        def write(self, text):
            raise OSError(number, os.strerror(number))

        def flush(self):
            pass

    turned = []
    monkeypatch.setattr(os, "dup2", lambda source, target: turned.append(target))
    progress = Progress(0, 10)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", Broken())
        progress.say("one")
        progress.say("two")
    assert turned == [1]  # what else is printed goes to nowhere, too
